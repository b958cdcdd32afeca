"""A request to the teacher, and what came back for it: plain values that the ledger keeps and engines exchange."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

from teachwise.records import Message
from teachwise.run_folder import content_hash

State = Literal["planned", "reserved", "sent", "ok", "truncated", "refused", "failed", "unknown"]
"""Where a request stands: wanted, money set aside, on its way; a result of three kinds; no result of two kinds."""
RESULTS: tuple[State, ...] = ("ok", "truncated", "refused")
"""States of a request that was answered and is never sent again."""
Fault = Literal["too_fast", "unavailable", "absent", "unanswered", "rejected"]
"""Why there is no reply: turned away for coming too fast (429); the server stumbled (5xx); there was no server; nobody
knows (it may have been answered and billed); or the request itself was rejected."""
NOT_TAKEN: tuple[Fault, ...] = ("too_fast", "absent")
"""Faults after which a request does not even count as sent."""
MARKUP_TOKENS = 16
"""More tokens than a chat template puts around a message; one that adds a text of its own may put more."""
WHOLE = ("stop", "eos", "end_turn", "stop_sequence", "tool_calls", "function_call", "unknown")
"""Words for the end of a reply that came whole; the last is for an endpoint that says none."""
CUT = (
    *("length", "max_tokens", "model_length", "max_output_tokens", "time_limit"),
    *("repetition_truncation", "insufficient_system_resource", "abort", "error"),
)
"""Words for the end of one that was cut off, by a limit or by trouble at the server; what came was billed."""
FILTERED_ENDS = ("content_filter", "safety", "refusal", "recitation", "blocklist", "prohibited_content", "sensitive")
"""Words for the end of one that the provider refused."""


@dataclass(frozen=True)
class Request:
    """One question to the teacher.

    Attributes:
        model: The teacher's name at its endpoint.
        messages: The chat so far.
        max_tokens: Most tokens it may write.
        temperature: 0 is greedy; None leaves it to the endpoint.
        prompt_version: Raised when the words of the prompt change.
        sample: Index among several samples of the same prompt.
        options: Further fields of the request, such as `top_p` or `reasoning_effort`, as plain JSON values.
        weights: What runs here and in which form, for instance `hf revision=v2`; "" for a model at an endpoint.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None
    prompt_version: str
    sample: int = 0
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    weights: str = ""

    @cached_property
    def body(self) -> str:
        """The request as canonical JSON."""
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        content["messages"] = list(self.messages)
        content["options"] = dict(self.options)
        for name in ("options", "weights"):
            if not content[name]:  # so that keys of before there were such fields stay
                del content[name]
        return json.dumps(content, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_body(cls, body: str) -> "Request":
        """The request of which that is the body."""
        content = json.loads(body)
        return cls(**{**content, "messages": tuple(content["messages"])})

    @cached_property
    def key(self) -> str:
        """What makes two requests the same: everything that can change the reply, and nothing else."""
        return content_hash(self.body)

    @property
    def prompt_bound_tokens(self) -> int:
        """More tokens than the prompt can be: a token is at least one byte of it, plus chat markup.

        Options count too, since some of them, such as a schema or tools, are read as a part of the prompt.
        """
        options = len(json.dumps(dict(self.options), ensure_ascii=False).encode()) if self.options else 0
        return sum(len(m["content"].encode()) + MARKUP_TOKENS for m in self.messages) + options

    @property
    def upper_bound_tokens(self) -> int:
        """More tokens than this request can cost, prompt and reply together."""
        return self.prompt_bound_tokens + self.max_tokens

    @property
    def prompt_words(self) -> int:
        """Fewer tokens than the prompt can be: no common tokenizer joins two words into one token."""
        return sum(len(m["content"].split()) for m in self.messages)


@dataclass(frozen=True)
class Reply:
    """What came back for a request.

    Attributes:
        text: The reply; "" when there is none.
        finish_reason: `stop`, `length`, `content_filter`, or what the endpoint said.
        prompt_tokens: Tokens read, as counted against the budget.
        completion_tokens: Tokens written, reasoning included, as counted against the budget.
        error: Why there is no reply, or None.
        fault: The kind of that error.
        wait_seconds: How long the server asks to wait before the next request; None where it says nothing.
        cached_tokens: Of the tokens read, those that the endpoint had in a cache and bills for less.
        reasoning: What a reasoning model wrote in a field of its own, before the reply.
        logprobs: Log-probabilities as the endpoint gave them, in JSON; "" where it gave none.
        served_model: The model that the endpoint says has answered; "" where it says none.
        host: The endpoint's host; "" for a model that runs here.
        raw: The whole reply where it holds no text that can be read; else "".
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None
    fault: Fault = "rejected"
    wait_seconds: float | None = None
    cached_tokens: int = 0
    reasoning: str = ""
    logprobs: str = ""
    served_model: str = ""
    host: str = ""
    raw: str = ""

    @property
    def state(self) -> State:
        """The state of the request that this is the reply to.

        Example:
            >>> Reply("so [[B]]", "stop", 12, 30).state
            'ok'
            >>> Reply("so [[", "max_tokens", 12, 30).state
        'truncated'
        >>> Reply("", "error", 0, 0, error="429", fault="too_fast").state
            'planned'
        """
        if self.error is not None:
            states: dict[Fault, State] = {"unanswered": "unknown", "rejected": "failed"}
            return states.get(self.fault, "planned")
        end = self.finish_reason.lower()
        return "truncated" if end in CUT else "refused" if end in FILTERED_ENDS else "ok"

    @property
    def has_unknown_end(self) -> bool:
        """Whether it ended with a word that is not known here; it is taken for whole."""
        return self.error is None and self.finish_reason.lower() not in (*WHOLE, *CUT, *FILTERED_ENDS)


def no_reply(why: str, fault: Fault = "rejected", wait_seconds: float | None = None) -> Reply:
    """A reply that is none, with the reason."""
    return Reply("", "error", 0, 0, error=printable(why[:500]), fault=fault, wait_seconds=wait_seconds)


def writable(text: str) -> str:
    r"""Text without halves of characters, which JSON can carry and no file can hold.

    Example:
        >>> writable("so \ud83d [[B]]")
        'so ? [[B]]'
    """
    return text.encode(errors="replace").decode()


def printable(text: str) -> str:
    r"""Text that can be shown: a server's words may hold signs that a terminal obeys.

    Example:
        >>> printable("bad \x1b[2J request\n")
        'bad  [2J request '
    """
    return "".join(sign if sign.isprintable() else " " for sign in writable(text))


def counted(reply: Reply, request: Request) -> tuple[int, int]:
    """Tokens read and written: the larger of what the endpoint reports and what can be counted here, word by word.

    Example:
        >>> request = Request("big", ({"role": "user", "content": "what is one and one ?"},), 100, 0.0, "1")
        >>> counted(Reply("two of course", "stop", 0, 1), request)
        (6, 3)
    """
    words = len(reply.text.split()) + len(reply.reasoning.split())
    return max(reply.prompt_tokens, request.prompt_words), max(reply.completion_tokens, words)


def as_counted(reply: Reply, request: Request) -> Reply:
    """A reply with the tokens that the ledger counts for it."""
    if reply.error is not None:
        return reply
    read, written = counted(reply, request)
    return replace(reply, prompt_tokens=read, completion_tokens=written, cached_tokens=min(reply.cached_tokens, read))
