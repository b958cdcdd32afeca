"""The `transformers` engine: any `AutoModelForCausalLM`, on CPU or GPU."""

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.errors import StrictDataclassError
from rich.markup import escape
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessorList

from teachwise.chat import Chat
from teachwise.console import say
from teachwise.engines import find_model
from teachwise.engines.chains import Drawn, TokenFacts, as_facts, token_facts
from teachwise.engines.facts import AnswerFacts, answer_entropy, answer_facts
from teachwise.errors import StudentError
from teachwise.run_log import to_log

to_log("transformers", "huggingface_hub")
transformers.utils.logging.disable_progress_bar()
# PEFT asks transformers by an old name; the warning is of no use to the user.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


@dataclass(frozen=True)
class AnswerScore:
    """The student's distribution at the place of the answer.

    Attributes:
        entropy_nats: Over the full vocabulary, 0 to ln V.
        token: Text of the likeliest token.
        option_probabilities: K, full-vocabulary probability of each option letter.
    """

    entropy_nats: float
    token: str
    option_probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Generation:
    """What a model wrote.

    Attributes:
        text: Without special tokens.
        tokens: Tokens written, the one that ended the turn included.
        is_truncated: It met the limit before it ended its turn.
        ids: The tokens themselves.
    """

    text: str
    tokens: int
    is_truncated: bool
    ids: tuple[int, ...] = ()


class HfEngine:
    """A loaded model with its tokenizer.

    Args:
        model: Hub name or folder.
        adapter: Folder of a LoRA adapter to put on it.
        revision: Hub revision.
        dtype: `auto` is float32 on CPU and the checkpoint's own dtype elsewhere.
        device: `auto` takes a GPU where there is one.
        trust_remote_code: Run code that comes with the model.

    Raises:
        StudentError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        adapter: str | Path | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        self.device = pick_device(device)
        self.model = load_model(model, revision, pick_dtype(dtype, self.device), trust_remote_code).to(self.device)
        self.model.generation_config = GenerationConfig()  # `generate` fills what a call leaves open from here
        self._accepted = set(inspect.signature(self.model.forward).parameters)
        if adapter:
            self.model = _with_adapter(self.model, adapter)
        self.model.eval()
        self.chat = load_chat(model, revision, trust_remote_code)

    @torch.inference_mode()
    def answer_scores(self, prompts: Sequence[Sequence[int]], letters: Sequence[str]) -> list[AnswerScore]:
        """Score one batch at the position where each answer begins.

        One forward pass over the prompts, the output head at the last position only, float32 from there on.

        Args:
            prompts: B lists of token ids.
            letters: B strings of option letters, "ABCD".

        Returns:
            B scores.
        """
        logits = self._last_logits(prompts)
        entropies = answer_entropy(logits).tolist()
        probabilities = F.softmax(logits, dim=-1)
        likeliest = logits.argmax(-1).tolist()
        return [
            AnswerScore(
                entropies[row],
                self.chat.decode([likeliest[row]]),
                tuple(probabilities[row, self.chat.letter_ids(letters[row])].tolist()),
            )
            for row in range(len(prompts))
        ]

    @torch.inference_mode()
    def answer_facts(
        self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]], golds: Sequence[int]
    ) -> list[AnswerFacts]:
        """All that measures of the answer need of one batch, from the same single pass as `answer_scores`.

        Args:
            prompts: B lists of token ids.
            options: For each, its K options' token ids from `Chat.option_ids`; none for open questions.
            golds: B token ids, the first of each gold answer.
        """
        return answer_facts(self._last_logits(prompts), options, golds)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        uniforms: np.ndarray | None = None,
    ) -> list[Generation]:
        """Let the model write, one batch. Greedy unless a temperature is given.

        The checkpoint's own sampling habits (temperature, repetition penalty, ...) are left out on purpose.

        Args:
            prompts: B lists of token ids.
            max_new_tokens: Most tokens of one text.
            temperature: 0 is greedy.
            uniforms: (B, max_new_tokens) numbers from 0 to 1 that a temperature above 0 draws the tokens with, so that
                a text depends on its own alone; left out, on torch's generator and the batch.
        """
        ids, mask = self._left_padded(prompts)
        drawn = LogitsProcessorList([] if uniforms is None else [Drawn(uniforms, temperature)])
        is_drawn_by_torch = temperature > 0 and uniforms is None
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=is_drawn_by_torch,
            temperature=temperature if is_drawn_by_torch else None,
            eos_token_id=self.chat.stop_ids,
            pad_token_id=self.chat.pad_id,
        )
        written = self.model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=drawn
        )
        return [self._generation(row) for row in written[:, ids.shape[1] :].tolist()]

    def _generation(self, ids: list[int]) -> Generation:
        end = next((place for place, token in enumerate(ids) if token in self.chat.stop_ids), None)
        kept = ids if end is None else ids[:end]
        tokens = len(ids) if end is None else end + 1
        return Generation(self.chat.decode(kept), tokens, end is None, tuple(ids[:tokens]))

    @torch.inference_mode()
    def token_facts(self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]]) -> list[TokenFacts]:
        """How sure the model is of every token of a text, whoever wrote it; one batch, each token read once.

        Args:
            prompts: B lists of token ids.
            written: B lists of one id or more, what follows each prompt.
        """
        found = token_facts(self.model, self._accepted, self._left_padded(prompts), self._padded(written))
        return as_facts(found, [len(ids) for ids in written])

    def _last_logits(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        ids, mask = self._left_padded(prompts)
        wanted = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0), "logits_to_keep": 1}
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=False,
            **{name: value for name, value in wanted.items() if name in self._accepted},
        )
        return output.logits[:, -1].float()

    @torch.inference_mode()
    def pooled_states(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """The last layer's hidden states of one batch, averaged over each prompt's own tokens: (B, H) float32."""
        ids, mask = self._left_padded(prompts)
        places = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if "position_ids" in self._accepted else {}
        states = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False, **places).last_hidden_state
        sums = (states.float() * mask[..., None]).sum(1)
        pooled: np.ndarray = (sums / mask.sum(1, keepdim=True)).cpu().numpy()
        return pooled

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask, both (B, T), the prompts flush right."""
        ids, mask = self._padded([prompt[::-1] for prompt in prompts])
        return ids.flip(-1), mask.flip(-1)

    def _padded(self, texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask, both (B, T), the texts flush left."""
        ids = torch.full((len(texts), max(map(len, texts))), self.chat.pad_id)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        return ids.to(self.device), mask.to(self.device)


def pick_device(device: str) -> str:
    """`auto` resolved: a GPU where there is one.

    Raises:
        StudentError: this machine has no such device, or this build of torch cannot use it.
    """
    if device != "auto":
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError, ImportError) as error:
            raise StudentError(
                f"student.device {device!r} cannot be used here: {_in_a_line(error)}",
                "student.device=auto takes a GPU where there is one, and the CPU where not",
            ) from error
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype: str, device: str) -> str:
    """`auto` resolved: float32 where half precision is slow, the checkpoint's own elsewhere."""
    return "float32" if dtype == "auto" and device == "cpu" else dtype


def load_model(model: str, revision: str | None, dtype: str, trust_remote_code: bool) -> Any:
    """The model on CPU, from safetensors only.

    Raises:
        StudentError: it is not there, is damaged or lacks weights, or holds no causal language model.
    """
    path = find_model(model)
    if not Path(path).is_dir():
        _tell_loading(path)
    try:
        loaded, report = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise StudentError(
            f"model {model!r} cannot be loaded: {str(error).splitlines()[0]}",
            "check the name or folder; a hub model needs the network or a filled cache",
        ) from error
    except (RuntimeError, StrictDataclassError) as error:  # sizes that do not fit, impossible fields
        raise StudentError(
            f"model {model!r} cannot be loaded, its config.json and its weights do not go together: "
            f"{_in_a_line(error.__cause__ or error)}",
            "download it again; a folder holds one model, and its config.json is not changed by hand",
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise StudentError(
            f"model {model!r} lacks {len(missing):,} of its weights, the first {missing[0]}; they would be random",
            "download it again, or name a model that was saved with its output head",
        )
    return loaded


@cache
def _tell_loading(name: str) -> None:
    """Said once for each model: a download may take long, and shows nothing."""
    say(escape(f"loading {name} (from the hub if it is not in the cache)"))


def _with_adapter(model: Any, adapter: str | Path) -> Any:
    from peft import PeftModel, get_peft_model_state_dict

    try:
        loaded = PeftModel.from_pretrained(model, str(adapter))
        with safe_open(Path(adapter) / "adapter_model.safetensors", "pt") as file:
            stored = set(file.keys())
    except (OSError, ValueError, SafetensorError) as error:
        raise StudentError(
            f"adapter {str(adapter)!r} cannot be loaded: {str(error).splitlines()[0]}",
            "the folder needs adapter_config.json and adapter_model.safetensors, made for this student",
        ) from error
    except RuntimeError as error:  # weights of other shapes
        raise _misfit(adapter) from error
    if stored != set(get_peft_model_state_dict(loaded, save_embedding_layers=False)):
        raise _misfit(adapter)  # more or fewer layers, which PEFT would load without a word
    return loaded


def _misfit(adapter: str | Path) -> StudentError:
    return StudentError(f"adapter {str(adapter)!r} does not fit this student", "name the student that it was made for")


def load_chat(model: str, revision: str | None = None, trust_remote_code: bool = False) -> Chat:
    """The model's tokenizer, with the stop tokens of its generation settings; no weights are read."""
    path = find_model(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise StudentError(
            f"tokenizer of {model!r} cannot be loaded: {str(error).splitlines()[0]}",
            "the folder needs tokenizer.json beside the weights"
            if Path(path).is_dir()
            else "check the name; a hub model needs the network or a filled cache",
        ) from error
    try:
        stops = GenerationConfig.from_pretrained(path, revision=revision).eos_token_id
    except OSError:
        stops = None
    return Chat(tokenizer, stops if isinstance(stops, list) else [] if stops is None else [stops])


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
