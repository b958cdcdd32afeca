"""Teachwise: fine-tune small language models, and pay the teacher only where it helps."""

__version__ = "0.1.0"
