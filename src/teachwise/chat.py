"""One way from messages to token ids, for scoring, training and generating alike.

Most silent failures of fine-tuning come from a prompt that is written one way in training and another way in use.
Here there is one function for the prompt and one for the completion; a training sequence is exactly the prompt the
student will see, then the tokens it should write, then the token that ends its turn.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from jinja2.exceptions import TemplateError

from teachwise.errors import StudentError
from teachwise.records import Message

_PROBE = "teachwise-probe"


class Chat:
    """A tokenizer and its chat template.

    Args:
        tokenizer: A `transformers` tokenizer.
        stop_ids: Token ids at which the model's generation stops.

    Raises:
        StudentError: the tokenizer has no token that could end a turn, or its chat template cannot be used.
    """

    def __init__(self, tokenizer: Any, stop_ids: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.has_template = bool(getattr(tokenizer, "chat_template", None))
        self.stop_ids = sorted({*stop_ids, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])})
        if not self.stop_ids:
            raise StudentError(
                f"{tokenizer.name_or_path}: the tokenizer has no end-of-text token, so the student could never learn "
                "to stop",
                "set `eos_token` in its tokenizer_config.json",
            )
        self._keeps_system = self.has_template and self._renders_system()
        self.end_id = self._end_of_turn()
        self._letter_ids: dict[tuple[str, ...], list[int]] = {}
        self.stop_ids = sorted({*self.stop_ids, self.end_id})

    @property
    def pad_id(self) -> int:
        """The padding token; a stop token where the tokenizer names none (it is always masked)."""
        pad: int | None = self.tokenizer.pad_token_id
        return self.stop_ids[0] if pad is None else pad

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt as text, up to where the model begins to write.

        Without a chat template the texts follow one another and end in "Answer:". A template that refuses or
        drops system messages gets them at the head of the user's message, so that nothing is lost unseen.
        """
        if not self.has_template:
            return "\n\n".join(message["content"] for message in messages) + "\n\nAnswer:"
        if not self._keeps_system:
            messages = _merged_system(messages)
        return self._template(messages, add_generation_prompt=True)

    def prompt_ids(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Token ids of many prompts, N lists of T ids each."""
        texts = [self.render(messages) for messages in conversations]
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=not self.has_template)["input_ids"]
        return ids

    def completion_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many completions, each with the token that ends the turn."""
        bare: list[list[int]] = self.tokenizer([self._lead + t for t in texts], add_special_tokens=False)["input_ids"]
        return [[*ids, self.end_id] for ids in bare]

    def letter_ids(self, letters: Sequence[str]) -> list[int]:
        """The token of each option letter, where the answer stands.

        Raises:
            StudentError: a letter is not one token, or two letters share one.
        """
        key = tuple(letters)
        if key not in self._letter_ids:
            self._letter_ids[key] = self._checked_letter_ids(letters)
        return self._letter_ids[key]

    def option_ids(self, letters: Sequence[str]) -> list[list[int]]:
        """The tokens that name each option, K lists: its letter as in `letter_ids` first, then its other spellings.

        Spellings are either case, with and without a leading space; those count that are one token of their own.

        Raises:
            StudentError: as `letter_ids`.
        """
        return [
            [own, *self._spellings(letter, own)] for letter, own in zip(letters, self.letter_ids(letters), strict=True)
        ]

    def _spellings(self, letter: str, own: int) -> list[int]:
        texts = [lead + form for form in (letter.upper(), letter.lower()) for lead in ("", " ")]
        ids = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        single = {tokens[0] for tokens in ids if len(tokens) == 1}
        return sorted(single - {own, self.tokenizer.unk_token_id})

    def gold_id(self, answer: str) -> int:
        """The first token of an answer, where the answer stands; of a letter its only one."""
        first: int = self.tokenizer.encode(self._lead + answer, add_special_tokens=False)[0]
        return first

    def _checked_letter_ids(self, letters: Sequence[str]) -> list[int]:
        ids = [self.tokenizer.encode(self._lead + letter, add_special_tokens=False) for letter in letters]
        for letter, tokens in zip(letters, ids, strict=True):
            if len(tokens) != 1 or tokens[0] == self.tokenizer.unk_token_id:
                found = f"is {len(tokens)} tokens" if len(tokens) != 1 else "is unknown"
                raise StudentError(
                    f"{self.tokenizer.name_or_path}: option letter {letter!r} {found} for this tokenizer, wanted one "
                    "token of its own",
                    "use a student whose vocabulary holds the letters, or keep fewer options",
                )
        flat = [tokens[0] for tokens in ids]
        if len(set(flat)) < len(flat):
            raise StudentError(f"the option letters {letters} share tokens", "use a case-sensitive tokenizer")
        return flat

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens or outer blanks."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each token adds to the text before it, blanks included; "" for special tokens.

        Tokenizers write a token alone without the blank before it, so each is decoded after its neighbour.
        """
        if not len(ids):
            return []
        alone: list[str] = self.tokenizer.batch_decode([[token] for token in ids], skip_special_tokens=True)
        pairs = self.tokenizer.batch_decode([*map(list, pairwise(ids))], skip_special_tokens=True)
        after = zip(alone, alone[1:], pairs, strict=False)
        return alone[:1] + [pair[len(a) :] if pair.startswith(a) else b for a, b, pair in after]

    @property
    def _lead(self) -> str:
        return "" if self.has_template else " "

    def _template(self, messages: Sequence[Message], **options: Any) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, enable_thinking=False, **options
            )
        except TemplateError as error:
            raise StudentError(
                f"{self.tokenizer.name_or_path}: its chat template cannot be used: {error}",
                "mend chat_template.jinja in the model's folder, or download the model again",
            ) from error
        return text

    def _renders_system(self) -> bool:
        try:
            text = self._template([{"role": "system", "content": _PROBE}, {"role": "user", "content": "?"}])
        except StudentError:  # templates refuse system messages in this way; a broken one shows at the next prompt
            return False
        return _PROBE in text

    def _end_of_turn(self) -> int:
        """The token that the template itself writes after an assistant's turn, else the end-of-text token.

        A special token counts also where the checkpoint does not list it as a stop, as early Gemma ones do not.
        """
        default: int = self.tokenizer.eos_token_id if self.tokenizer.eos_token_id is not None else self.stop_ids[0]
        if not self.has_template:
            return default
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
        if _PROBE not in (text := self._template(turns)):
            raise StudentError(
                f"{self.tokenizer.name_or_path}: its chat template leaves the messages out",
                "mend chat_template.jinja in the model's folder, or download the model again",
            )
        tail = text.rpartition(_PROBE)[2]
        ids = self.tokenizer.encode(tail, add_special_tokens=False)
        special = {token for token, added in self.tokenizer.added_tokens_decoder.items() if added.special}
        return next((token for token in ids if token in special.union(self.stop_ids)), default)


def _merged_system(messages: Sequence[Message]) -> list[Message]:
    system = [message["content"] for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    if not system:
        return rest
    first, *others = rest or [{"role": "user", "content": ""}]
    return [{**first, "content": "\n\n".join(filter(None, [*system, first["content"]]))}, *others]
