"""How fast a local teacher answers: requests that join and leave one by one, beside two other ways to batch them.

    python bench/local_teacher.py --json bench/results/local_teacher.json

`static` is `HfEngine.generate` on batches of like prompts, `transformers` the continuous batching of that library,
`local` the teacher of `engine: hf`. All three answer the same requests greedily, in turns, round after round on one
machine; ratios are those within a round, and their median counts. Two loads: the toy's student on the toy's questions,
whose replies are all short, and half as many for a made model (random weights) whose replies end anywhere up to 500.
"""

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, ContinuousBatchingConfig, GenerationConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

import teachwise
from teachwise.engines import find_model
from teachwise.engines.local import LocalTeacher
from teachwise.request import Request
from teachwise.toy.benchmark import draw, user_message

CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time
"""On a CPU one thread computes and its processor time counts, which other jobs on the machine hardly change."""
PAGE_TOKENS = 32
MADE = {"max_position_embeddings": 1024}
"""What the made model has otherwise than the toy's student, whose shape and vocabulary it keeps."""


@dataclass(frozen=True)
class Load:
    """A model and what it is asked: N prompts as text and as token ids, with the most tokens of each reply."""

    teacher: LocalTeacher
    messages: list[tuple[dict[str, str], ...]]
    prompts: list[list[int]]
    limits: list[int]


def toy_load(count: int, places: int) -> Load:
    """The toy's questions, with thinking asked for."""
    asked = [user_message(one.question, one.options, "cot") for one in draw("train", count, 0, "choice")]
    return _load("toy", asked, [200] * count, places)


def made_load(count: int, places: int, folder: Path) -> Load:
    """Prompts of one to six questions; log-normal limits, which end nearly all replies."""
    source = Path(find_model("toy"))
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    config = AutoConfig.from_pretrained(source)
    config.update(MADE)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    random = np.random.default_rng(0)
    texts = [one.question for one in draw("train", 6 * count, 0, "choice")]
    asked = [" ".join(texts[6 * n : 6 * n + 1 + random.integers(6)]) for n in range(count)]
    limits = np.exp(random.normal(np.log(120), 0.6, count)).clip(10, 500).astype(int).tolist()
    return _load(str(folder), asked, limits, places)


def _load(model: str, asked: Sequence[str], limits: list[int], places: int) -> Load:
    teacher = LocalTeacher(model, concurrency=places)
    messages = [({"role": "user", "content": text},) for text in asked]
    return Load(teacher, messages, teacher.engine.chat.prompt_ids(messages), limits)


def static(load: Load) -> tuple[list[str], float]:
    """Batches of like prompts, each written until its longest row ends, some rows beyond their limit."""
    engine, places = load.teacher.engine, load.teacher.concurrency
    started = CLOCK()
    order = sorted(range(len(load.prompts)), key=lambda n: -len(load.prompts[n]))
    texts = [""] * len(order)
    for start in range(0, len(order), places):
        rows = order[start : start + places]
        written = engine.generate([load.prompts[n] for n in rows], max(load.limits[n] for n in rows))
        for n, one in zip(rows, written, strict=True):
            texts[n] = one.text
    return texts, CLOCK() - started


def of_transformers(load: Load) -> tuple[list[str], float]:
    """The library's continuous batching, with pages for as many of the longest requests as there are places.

    Starting and ending it is not counted: a teacher would do so once.
    """
    engine, places = load.teacher.engine, load.teacher.concurrency
    longest = max(len(prompt) + limit for prompt, limit in zip(load.prompts, load.limits, strict=True))
    paging = ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=places * (longest // PAGE_TOKENS + 2),
        max_batch_tokens=1024,
        max_requests_per_batch=places,
        allow_block_sharing=False,
    )
    greedy = GenerationConfig(do_sample=False, eos_token_id=engine.chat.stop_ids, pad_token_id=engine.chat.pad_id)
    batching = engine.model.init_continuous_batching(greedy, paging)
    batching.warmup()
    batching.start()
    started = CLOCK()
    try:
        places_of = {
            batching.add_request(prompt, max_new_tokens=limit): n
            for n, (prompt, limit) in enumerate(zip(load.prompts, load.limits, strict=True))
        }
        texts = [""] * len(places_of)
        for _ in places_of:
            found = batching.get_result()
            kept = [token for token in found.generated_tokens if token not in engine.chat.stop_ids]
            texts[places_of[found.request_id]] = engine.chat.decode(kept)
        seconds = CLOCK() - started
    finally:
        batching.stop()
        batching.destroy()
    return texts, seconds


def local(load: Load) -> tuple[list[str], float]:
    """The local teacher, with all requests at once."""
    started = CLOCK()
    asked = [
        Request("bench", messages, limit, 0.0, "1") for messages, limit in zip(load.messages, load.limits, strict=True)
    ]
    texts = [future.result().text for future in [load.teacher.ask(one) for one in asked]]
    return texts, CLOCK() - started


WAYS: dict[str, Callable[[Load], tuple[list[str], float]]] = {
    "static": static,
    "transformers": of_transformers,
    "local": local,
}


def measure(load: Load, rounds: int) -> dict[str, Any]:
    """Seconds of every way in every round, ratios to `static`, and how many replies differ from it."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    differing = dict.fromkeys(WAYS, 0)
    for number in range(rounds + 1):  # the first round is for warming up
        texts = {}
        for name, way in WAYS.items():
            texts[name], passed = way(load)
            if number:
                seconds[name].append(passed)
        for name in WAYS:  # `static` writes on beyond a limit
            differing[name] += sum(
                not two.startswith(one) for one, two in zip(texts[name], texts["static"], strict=True)
            )
    words = sorted(len(text.split()) for text in texts["local"])
    return {
        "requests": len(words),
        "places": load.teacher.concurrency,
        "prompt_tokens": _spread(sorted(map(len, load.prompts))),
        "written_words": _spread(words),
        "median_seconds": {name: statistics.median(all_rounds) for name, all_rounds in seconds.items()},
        "times_faster_than_static": {
            name: _spread(sorted(one / two for one, two in zip(seconds["static"], seconds[name], strict=True)))
            for name in WAYS
        },
        "replies_unlike_static": {name: f"{count} of {len(words) * (rounds + 1)}" for name, count in differing.items()},
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"lowest": min(values), "median": statistics.median(values), "highest": max(values)}


def print_load(name: str, found: dict[str, Any]) -> None:
    """Print one line per way."""
    for way, times in found["times_faster_than_static"].items():
        spread = f"{times['median']:.2f} times static ({times['lowest']:.2f} to {times['highest']:.2f})"
        unlike = f"{found['replies_unlike_static'][way]} replies unlike"
        print(f"{name:5} {way:13} {found['median_seconds'][way]:7.2f} s  {spread}  {unlike}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="measure three ways to batch the requests to a local teacher")
    parser.add_argument("--json", type=Path, help="also write the figures to a file")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--places", type=int, default=8, help="requests side by side")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        loads = {
            "toy": toy_load(chosen.requests, chosen.places),
            "made": made_load(chosen.requests // 2, chosen.places, Path(folder) / "made"),
        }
        for name, load in loads.items():
            found[name] = measure(load, chosen.rounds)
            load.teacher.close()
            print_load(name, found[name])
    if chosen.json:
        facts = {
            "date": date.today().isoformat(),
            "version": teachwise.__version__,
            "transformers": transformers.__version__,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
            "threads": torch.get_num_threads(),
        }
        chosen.json.write_text(json.dumps({**facts, **found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
