"""The embedded benchmark: a question generator, a tiny pre-trained student and a symbolic teacher.

Everything here runs offline on one CPU thread. ``benchmark`` and ``teacher`` need the standard library only;
``tokenizer`` and ``pretrain`` need torch and transformers. The trained files are in the folder ``student``.
"""
