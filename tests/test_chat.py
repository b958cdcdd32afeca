"""Prompts, completions and turn ends: what training sees is what serving sees."""

import pytest
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from teachwise.chat import Chat
from teachwise.engines.hf import load_chat
from teachwise.errors import StudentError

SYSTEM = {"role": "system", "content": "be brief"}
USER = {"role": "user", "content": "which one ?"}
ASSISTANT = {"role": "assistant", "content": "B it is"}

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DROPS_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
MARKS = ("<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>", "<|system|>", "<|assistant|>", "<start_of_turn>")
TEMPLATES = {"chatml": CHATML, "phi": PHI, "gemma": GEMMA, "drops system": DROPS_SYSTEM, "thinks": THINKS}
ENDS = {"chatml": "<|im_end|>", "phi": "<|end|>", "gemma": "<end_of_turn>", "drops system": "</s>"}


def byte_tokenizer(template=None, *, adds_bos=True, eos="</s>", **options):
    """Every byte a token, the usual chat marks, and (as Llama does) `<s>` put before a text unless told otherwise."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    marks = ["<s>", "</s>", *MARKS, "<end_of_turn>"]
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=marks, show_progress=False)
    inner.train_from_iterator(["the answer is A B C D E"] * 3, trainer)
    if adds_bos:
        inner.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    options = {"bos_token": "<s>", "eos_token": eos, "pad_token": "</s>", **options}
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **options)
    tokenizer.chat_template = template
    return tokenizer


def word_tokenizer(words, template=None, **special):
    """One word, one token; what is not listed is `<unk>`."""
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", **special}
    listed = [*dict.fromkeys([*(token for token in special.values() if token), *words])]
    inner = Tokenizer(WordLevel({word: number for number, word in enumerate(listed)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **{k: v for k, v in special.items() if v})
    tokenizer.chat_template = template
    return tokenizer


def rendered(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(
        list(messages), tokenize=True, return_dict=True, enable_thinking=False, **options
    )["input_ids"]


# ----------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_what_the_template_itself_renders(name):
    tokenizer = byte_tokenizer(TEMPLATES[name])
    assert Chat(tokenizer).prompt_ids([[USER]]) == [rendered(tokenizer, [USER], add_generation_prompt=True)]


@pytest.mark.parametrize("name", ["chatml", "phi", "thinks"])
def test_a_template_that_knows_system_messages_gets_them_as_they_are(name):
    tokenizer = byte_tokenizer(TEMPLATES[name])
    expected = rendered(tokenizer, [SYSTEM, USER], add_generation_prompt=True)
    assert Chat(tokenizer).prompt_ids([[SYSTEM, USER]]) == [expected]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_system_message_is_never_lost(name):
    chat = Chat(byte_tokenizer(TEMPLATES[name]))
    text = chat.render([SYSTEM, USER])
    assert text.index(SYSTEM["content"]) < text.index(USER["content"])
    assert SYSTEM["content"] in chat.render([SYSTEM])


def test_a_refused_system_message_opens_the_first_user_message():
    chat = Chat(byte_tokenizer(GEMMA))
    assert chat.render([SYSTEM, USER]) == (
        "<s><start_of_turn>user\nbe brief\n\nwhich one ?<end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.parametrize("name", [*TEMPLATES, None])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_the_beginning_of_text_is_never_written_twice(name, adds_bos):
    tokenizer = byte_tokenizer(TEMPLATES.get(name), adds_bos=adds_bos)
    (ids,) = Chat(tokenizer).prompt_ids([[SYSTEM, USER]])
    assert ids.count(tokenizer.bos_token_id) == (1 if name in ("gemma", "drops system") else int(adds_bos and not name))
    (completion,) = Chat(tokenizer).completion_ids(["B"])
    assert tokenizer.bos_token_id not in completion


def test_without_a_template_the_texts_follow_one_another_and_end_in_answer():
    tokenizer = byte_tokenizer()
    chat = Chat(tokenizer)
    text = "be brief\n\nwhich one ?\n\nAnswer:"
    assert chat.render([SYSTEM, USER]) == text
    assert chat.prompt_ids([[SYSTEM, USER]]) == [tokenizer(text)["input_ids"]]
    (completion,) = chat.completion_ids(["B"])
    assert tokenizer.decode(completion) == " B</s>"


def test_many_prompts_are_the_single_prompts():
    chat = Chat(byte_tokenizer(CHATML))
    conversations = [[USER], [SYSTEM, USER], [{"role": "user", "content": "x" * 300}]]
    assert chat.prompt_ids(conversations) == [chat.prompt_ids([one])[0] for one in conversations]


# ------------------------------------------------------------------------------------------- turn ends


@pytest.mark.parametrize("name", ENDS)
def test_a_completion_ends_as_the_template_ends_a_turn_not_as_a_text_ends(name):
    tokenizer = byte_tokenizer(TEMPLATES[name])
    end = tokenizer.convert_tokens_to_ids(ENDS[name])
    for stops in ([tokenizer.eos_token_id, end], [end]):
        chat = Chat(tokenizer, stops)
        assert chat.end_id == end
        assert [ids[-1] for ids in chat.completion_ids(["B", "so it is D"])] == [end, end]
        assert set(chat.stop_ids) == {tokenizer.eos_token_id, end}


@pytest.mark.parametrize("name", ENDS)
def test_the_turn_end_stops_generation_also_where_the_checkpoint_forgot_to_say_so(name):
    """Early Gemma checkpoints name only `<eos>` as a stop, though the model ends every turn with another token."""
    tokenizer = byte_tokenizer(TEMPLATES[name])
    end = tokenizer.convert_tokens_to_ids(ENDS[name])
    chat = Chat(tokenizer, [tokenizer.eos_token_id])
    assert chat.end_id == end
    assert end in chat.stop_ids


def test_a_turn_that_ends_in_plain_text_is_closed_by_the_end_of_text():
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}")
    chat = Chat(tokenizer)
    assert (chat.end_id, chat.stop_ids) == (tokenizer.eos_token_id, [tokenizer.eos_token_id])


def test_without_a_template_a_completion_ends_in_the_end_of_text():
    tokenizer = byte_tokenizer()
    chat = Chat(tokenizer, [7])
    assert chat.end_id == tokenizer.eos_token_id
    assert chat.completion_ids(["B"])[0][-1] == tokenizer.eos_token_id
    assert chat.stop_ids == sorted({7, tokenizer.eos_token_id})


def test_a_tokenizer_that_cannot_end_a_text_is_refused():
    with pytest.raises(StudentError, match="no end-of-text token") as error:
        Chat(word_tokenizer(["A"], eos_token=None))
    assert "eos_token" in error.value.hint


def test_padding_falls_back_on_a_stop_token():
    assert Chat(word_tokenizer(["A"], pad_token=None)).pad_id == 0
    padded = word_tokenizer(["A"])
    assert Chat(padded).pad_id == padded.pad_token_id != padded.eos_token_id


# --------------------------------------------------------------------------- training is what is served


@pytest.mark.parametrize("name", ["chatml", "phi", "gemma", "thinks"])
def test_a_training_sequence_is_how_the_template_writes_the_whole_conversation(name):
    tokenizer = byte_tokenizer(TEMPLATES[name])
    chat = Chat(tokenizer, [tokenizer.convert_tokens_to_ids(ENDS.get(name, "<|im_end|>"))])
    (prompt,), (completion,) = chat.prompt_ids([[USER]]), chat.completion_ids([ASSISTANT["content"]])
    whole = rendered(tokenizer, [USER, ASSISTANT])
    assert whole[: len(prompt) + len(completion)] == prompt + completion
    rest = tokenizer.decode(whole[len(prompt) + len(completion) :])
    assert rest.strip() in ("", tokenizer.eos_token)


def test_the_toy_students_training_sequence_is_its_pretraining_layout():
    chat = load_chat("toy")
    question = "options A 8 B 6 C 2 D 7 E 9 question calc 6 - 1 - 9 answer"
    user, answer = {"role": "user", "content": question}, {"role": "assistant", "content": "B"}
    (prompt,), (completion,) = chat.prompt_ids([[user]]), chat.completion_ids(["B"])
    assert prompt + completion == rendered(chat.tokenizer, [user, answer])
    assert chat.tokenizer.decode(prompt + completion) == f"<bos> {question} <assistant> B <eos>"


# ---------------------------------------------------------------------------------------- option letters


def test_option_letters_are_the_tokens_that_a_completion_begins_with():
    for template in (CHATML, None):
        chat = Chat(byte_tokenizer(template))
        assert chat.letter_ids("ABCD") == [chat.completion_ids([letter])[0][0] for letter in "ABCD"]
        assert len(set(chat.letter_ids("ABCD"))) == 4


def test_an_option_id_of_two_tokens_is_refused():
    chat = Chat(byte_tokenizer(CHATML))
    with pytest.raises(StudentError, match="option letter '10' is 2 tokens") as error:
        chat.letter_ids(["1", "2", "10"])
    assert error.value.hint


def test_a_letter_outside_the_vocabulary_is_refused():
    chat = Chat(word_tokenizer(["A", "B"], CHATML))
    assert len(chat.letter_ids("AB")) == 2
    with pytest.raises(StudentError, match="option letter 'C'"):
        chat.letter_ids("ABC")


def test_letters_that_share_a_token_are_refused():
    tokenizer = word_tokenizer(["a", "b"], CHATML)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(StudentError, match="share tokens"):
        Chat(tokenizer).letter_ids(["A", "a"])


def test_decoding_leaves_out_special_tokens_and_outer_blanks():
    chat = Chat(byte_tokenizer(CHATML))
    (ids,) = chat.completion_ids([" so B \n"])
    assert chat.decode(ids) == "so B"
