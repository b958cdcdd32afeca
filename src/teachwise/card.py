"""The model card of a pack: what it is, what was measured, what it cannot do, how to load and to ask it."""

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from teachwise.figures import percent, points
from teachwise.teacher.prices import dollars
from teachwise.teacher.verify import FAILURE
from teachwise.teacher_wording import usable_of
from teachwise.wording import WAYS

_LOADERS = {
    "adapter": ("peft", "AutoPeftModelForCausalLM"),
    "whole": ("transformers", "AutoModelForCausalLM"),
}
SNIPPET = """\
import json, re, torch
from LIBRARY import LOADER
from transformers import AutoTokenizer, GenerationConfig

how, tokenizer = json.load(open("FOLDER/teachwise.json")), AutoTokenizer.from_pretrained("FOLDER")
model, stops = LOADER.from_pretrained("FOLDER").eval(), how["stop_ids"]
limits = {"max_new_tokens": how["max_new_tokens"], "eos_token_id": stops, "pad_token_id": stops[0]}
model.generation_config = GenerationConfig(**limits)  # greedy, without the student's own sampling habits
prompts = how["example"]["prompts"]  # your question goes here, in the very form of the example
direct, cot = (tokenizer(prompts[mode], **how["tokenize"]).input_ids for mode in ("direct", "cot"))
first = torch.log_softmax(model(input_ids=direct).logits[0, -1].float(), -1)
entropy, text = -(first.exp() * first).sum().item(), tokenizer.decode(first.argmax())
if how["mode"] == "cot" or (how["mode"] == "routed" and entropy > how["threshold_nats"]):
    text = tokenizer.decode(model.generate(input_ids=cot)[0, cot.shape[1] :], skip_special_tokens=True)
stated = [re.findall(form, text) for form in how["reading"]["forms"]]  # the last of the first form that is found
answer = next(("".join(found[-1]).upper() for found in stated if found), None)
print(f"{entropy:.4f} nats: {answer or 'no letter could be read'}")
"""
"""Routed answering without teachwise."""
READ = """\
The letter is read from the token given at once, or from all that was written after thinking: the last `[[X]]` decides.
Without one, the letter last stated as "the answer is (X)", "answer: X" or `\\boxed{X}`, or in bold at the very end.
Without those, a reply that is nothing but a letter. A small letter counts as its capital, but for the "a" of "the
answer is a", which is an article; a reply without any of these is unreadable and counts as not correct. The code reads
the same forms, from `teachwise.json`. Teachwise itself, which measured the figures, knows the options too: it also
reads a letter followed by its option's very text, and counts a letter that names no option as unreadable.
"""
"""How answers are read, in words."""


def card(router: Mapping[str, Any], figures: Mapping[str, Any], folder: str) -> str:
    """The card as Markdown, opening with the hub's front matter.

    Args:
        router: The content of `teachwise.json`.
        figures: What was measured and what it was made of; see `teachwise.pack`.
        folder: Name of the pack's folder, in the commands shown.
    """
    parts = (_front(router), _title(router), _measured(router, figures), _made_of(router, figures))
    return "\n".join([*parts, _limits(router, figures), _load(router, folder), _ask(router, folder)])


def _front(router: Mapping[str, Any]) -> str:
    tags = ["teachwise", "multiple-choice", *(["lora"] if router["weights"] == "adapter" else [])]
    content = {
        "base_model": router["student"]["model"],
        "library_name": _LOADERS[router["weights"]][0],
        "license": "unknown",
        "pipeline_tag": "text-generation",
        "tags": tags,
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---\n"


def _title(router: Mapping[str, Any]) -> str:
    what = {"adapter": "A LoRA adapter for", "whole": "A tuned version of"}[router["weights"]]
    how = {
        "direct": "It is to be asked for one letter at once.",
        "cot": "It is to be asked to think first.",
        "routed": (
            "It is to be asked for one letter at once; where the entropy of that first token is above "
            f"{router['threshold_nats']:.4f} nats, it is to be asked again, to think first."
        ),
    }
    student = router["student"]
    revision = f" at revision `{student['revision']}`" if student["revision"] else ""
    return (
        f"# `{student['model']}`, tuned by arm `{router['arm']}`\n\n{what} `{student['model']}`{revision}, which "
        f"answers multiple-choice questions. {how[router['mode']]} Made with Teachwise {router['teachwise']}.\n"
    )


def _measured(router: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    entry = figures["entry"]
    lines = [
        f"## Measured\n\nOn {figures['n_test']:,} held-out test questions, answered greedily. The way of asking and "
        f"the threshold were chosen on {figures['n_dev']:,} other questions.\n",
        "| way of answering | accuracy (95%) | unreadable | tokens per answer |\n|---|---|---|---|",
    ]
    for mode, one in entry["modes"].items():
        name = f"**{WAYS[mode]}** (chosen)" if mode == router["mode"] else WAYS[mode]
        own, lost = _span(one["accuracy"], percent), percent(one["unreadable"])
        lines.append(f"| {name} | {own} | {lost} | {one['generated_tokens']:.1f} |")
    if figures["against"]:
        lines.append("\n| against | difference in points (95%) |\n|---|---|")
        lines += [f"| `{name}` | {_span(gap, points)} |" for name, gap in figures["against"].items()]
    lines.append(f"\nIntervals cover {figures['intervals_cover']}. {_whose(router, figures)}".rstrip() + "\n")
    return "\n".join(lines)


def _whose(router: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Which of several training seeds lies in the folder."""
    n_seeds = len(figures["entry"]["per_seed"])
    if n_seeds == 1:
        return ""
    return (
        f"They are means over {n_seeds} training seeds; this folder holds seed {router['seed']}, whose own accuracy is "
        f"{percent(figures['own'])}."
    )


def _made_of(router: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    cost, sizes, trained = figures["entry"]["cost"], figures["prepared"], figures["trained"]
    usd = "" if cost["teacher_usd"] is None else f" ({dollars(cost['teacher_usd'])})"
    spent = (
        f"{cost['teacher_tokens']:,.0f} tokens{usd} read and written by `{figures['teacher']}`; "
        f"{cost['rationales_kept']:,.0f} of {cost['rationales_bought']:,.0f} rationales kept{_judged(figures)}"
        if cost["teacher_tokens"]
        else "none asked"
    )
    rows = {
        "questions": f"{figures['source']}, task `{router['task']}`: "
        + ", ".join(f"{sizes[split]:,} {split}" for split in ("train", "dev", "test")),
        "teacher": spent,
        "training": f"{figures['method']}, {trained['rows']:,} rows, {trained['updates']:,} updates in "
        f"{trained['stages']} stage{'s' if trained['stages'] > 1 else ''}, seed {router['seed']}",
        "prompts": f"version `{router['prompt_version']}`",
        "recipe": f"`{router['recipe_hash']}`, the start of the SHA-256 of its `resolved.yaml`",
    }
    return "## Made of\n\n| | |\n|---|---|\n" + "".join(f"| {name} | {told} |\n" for name, told in rows.items())


def _judged(figures: Mapping[str, Any]) -> str:
    """What must be known of the teacher, where it must."""
    judged = figures["judged"]
    shown = "; made with the right answers in view" if judged["gold_shown"] else ""
    return shown + (f"; {FAILURE}: {usable_of(judged)}" if judged["verdict"] == FAILURE else "")


def _limits(router: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    own = figures["entry"]["modes"][router["mode"]]["accuracy"]
    gaps = [name for name, gap in figures["against"].items() if gap["low"] <= 0 <= gap["high"]]
    said = [
        f"It is wrong on about {1 - own['value']:.0%} of questions like those it was tested on. On other questions, "
        "and in other words, nothing was measured; the threshold too was chosen for these.",
        *(f"It is not told apart from `{name}`: the interval holds 0." for name in gaps),
        *(["The scores did not predict errors here, and it was routed at random."] if figures["is_random"] else []),
        *(f"This arm is not what its recipe says: {mark}." for mark in figures["entry"]["marks"]),
        *(["The student and its questions are a toy; the figures say nothing about others."] * figures["is_toy"]),
        *(
            [
                f"The figures were measured with the adapter apart; merged, the weights are stored as "
                f"{figures['stored']}, which can change a rare answer."
            ]
            if figures["stored"] not in ("", "float32")
            else []
        ),
        "Which questions may stand in the teacher's or the student's own training data is not known.",
        "The licence is not known to the program that wrote this card: those of the student, the questions and the "
        "teacher's texts apply.",
    ]
    return "## Limits\n\n" + "".join(f"- {point}\n" for point in said)


def _load(router: Mapping[str, Any], folder: str) -> str:
    library, loader = _LOADERS[router["weights"]]
    code = f'from {library} import {loader}\n\nmodel = {loader}.from_pretrained("{folder}")\n'
    return f"## Load it\n\n```python\n{code}```\n{_where(router)}"


def _where(router: Mapping[str, Any]) -> str:
    """Where the student lies that an adapter goes on, if that is not plain."""
    student = router["student"]
    if router["weights"] == "whole" or not (student["is_folder"] or student["model"] == "toy"):
        return ""
    if student["model"] == "toy":
        return "\nThe student ships with teachwise: copy or link its folder `teachwise/toy/student` as `toy`.\n"
    return (
        f"\nThe student was a folder called `{student['model']}`: it must lie in the working directory under that "
        "name, or be named in `adapter_config.json`. `teachwise answer` looks there too, and takes `--student DIR`.\n"
    )


def _ask(router: Mapping[str, Any], folder: str) -> str:
    library, loader = _LOADERS[router["weights"]]
    code = SNIPPET.replace("LIBRARY", library).replace("LOADER", loader).replace("FOLDER", folder)
    return (
        "## Ask it\n\nA table of questions, answered as it was when the figures were measured:\n\n"
        f"```sh\nteachwise answer {folder} questions.csv --out answers.csv\n```\n\n"
        f"One question, without teachwise (`teachwise.json` holds the very text of an example's prompts):\n\n"
        f"```python\n{code}```\n\n{READ}"
    )


def _span(found: Mapping[str, float], shown: Callable[[float], str]) -> str:
    return f"{shown(found['value'])} ({shown(found['low'])} to {shown(found['high'])})"
