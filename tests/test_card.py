"""The card: what it says of an arm's figures, and that its code reads answers as the figures were measured."""

import json
import re

import pytest

from made_run import make_run
from teachwise import pack
from teachwise.card import SNIPPET, _ask, _limits, _made_of, _whose
from teachwise.pack import READING, pack_arm
from teachwise.records import Prediction
from teachwise.run_folder import Unit, write_json, write_text
from teachwise.tasks.letters import read_letter


def test_with_several_seeds_the_card_says_whose_weights_these_are():
    figures = {"entry": {"per_seed": [0.5, 0.75, 0.25]}, "own": 0.25}
    assert _whose({"seed": 7}, figures) == (
        "They are means over 3 training seeds; this folder holds seed 7, whose own accuracy is 25.0%."
    )
    assert _whose({"seed": 7}, {"entry": {"per_seed": [0.5]}, "own": 0.5}) == ""


@pytest.mark.slow
def test_the_pack_of_another_seed_holds_its_weights_its_threshold_and_its_own_accuracy(tmp_path, monkeypatch):
    recipe, run = make_run(tmp_path / "run")
    write_text(run.root / "resolved.yaml", recipe.yaml())
    for seed in (0, 1):
        unit = Unit("train", "banded", seed)
        (run.folder(unit) / "stage-1" / "adapter_model.safetensors").write_text(f"weights of seed {seed}")
        write_json(run.folder(unit) / "stage-1" / "adapter_config.json", {})
        run.finish(unit, "by-hand", {**run.manifest(unit)["counts"], "stages": 2}, 1.0)
        judged = {"threshold_nats": 0.25 + seed, "dev_accuracy": {}}
        write_json(run.folder(unit.of("evaluate")) / "evaluation.json", judged)
    monkeypatch.setattr(pack, "example_prompts", lambda *_: {})
    mode = run.json(Unit("compare"), "comparison.json")["arms"]["banded"]["mode"]
    shares = []
    for seed in (0, 1):
        rows = run.records(Unit("evaluate", "banded", seed), "predictions.parquet", Prediction)
        right = [row.correct for row in rows if (row.split, row.mode) == ("test", mode)]
        shares.append(f"{sum(right) / len(right):.1%}")
        pack_arm(run.root, "banded", seed, tmp_path / f"pack-{seed}")
        text = (tmp_path / f"pack-{seed}" / "README.md").read_text()
        assert f"this folder holds seed {seed}, whose own accuracy is {shares[-1]}." in text
        assert f"2 stages, seed {seed} |" in text
        content = json.loads((tmp_path / f"pack-{seed}" / "teachwise.json").read_text())
        assert content["threshold_nats"] == 0.25 + seed
        weights = tmp_path / f"pack-{seed}" / "adapter_model.safetensors"
        assert weights.read_text() == f"weights of seed {seed}"
    assert len(set(shares)) == 2, "seeds that are equally good show nothing here"


def test_only_an_arm_whose_interval_holds_0_is_called_not_told_apart():
    gaps = {"worse": (-0.3, -0.1), "even": (-0.1, 0.1), "touching": (0.0, 0.2), "better": (0.1, 0.3)}
    figures = {
        "entry": {"modes": {"cot": {"accuracy": {"value": 0.75}}}, "marks": []},
        "against": {name: {"low": low, "high": high} for name, (low, high) in gaps.items()},
        "name": "banded",
        "is_random": False,
        "is_toy": False,
        "stored": "",
    }
    router = {"mode": "cot", "arm": "banded"}
    assert re.findall("not told apart from `(.*?)`", _limits(router, figures)) == ["even", "touching"]
    assert "not what its recipe says" not in _limits(router, figures)
    partial = {**figures, "entry": {**figures["entry"], "marks": ["partial, 3 of 9 rationales not bought"]}}
    assert "not what its recipe says: partial, 3 of 9 rationales not bought." in _limits(router, partial)
    assert "routed at random" not in _limits(router, partial)


def test_a_teacher_that_failed_or_saw_the_answers_and_the_money_are_on_the_card():
    def teacher(usd, **judged):
        cost = {"teacher_tokens": 1500.0, "teacher_usd": usd, "rationales_kept": 4.0, "rationales_bought": 9.0}
        trained = {"rows": 4, "updates": 2, "stages": 1}
        figures = {"entry": {"cost": cost}, "prepared": {"train": 9, "dev": 2, "test": 3}, "trained": trained}
        figures |= {"teacher": "big", "source": "the task's own", "method": "full", "judged": judged}
        router = {"task": "toy", "seed": 0, "prompt_version": "1", "recipe_hash": "ab"}
        return re.search(r"\| teacher \| (.*) \|", _made_of(router, figures))[1]

    told = "tokens read and written by `big`; 4 of 9 rationales kept"
    assert teacher(None, verdict="PASS", gold_shown=False) == f"1,500 {told}"
    assert teacher(0.25, verdict="PASS", gold_shown=False) == f"1,500 {told.replace('tokens', 'tokens ($0.25)', 1)}"
    assert teacher(None, verdict="NOT JUDGED", gold_shown=True).endswith("; made with the right answers in view")
    failed = teacher(None, verdict="TEACHER FAILURE", gold_shown=False, band="hard", usable=1, n=4)
    assert failed.endswith("; TEACHER FAILURE: only 1 of 4 rationales for hard questions state the right answer")


ROUTER = {"weights": "whole", "student": {"is_folder": False}}
REPLIES = (
    *("so it is [[B]]", "[[ b ]]", "[[A]] seemed right, but [[C]]", "[[A]] although the answer is (B)"),
    *("The answer is (C).", "If the answer is (A), no. So the answer is (D).", "the answer is: C", "answer: a"),
    *("The correct answer is **B**.", "the answer is **D. four**", "**Final Answer:** (C)", "Answer: B) two\nyes"),
    *(r"Hence $\boxed{B}$.", r"\boxed{\text{(C)}}", "The answer is (A). Wait: **C**", "We choose **D. four**"),
    *("B", "b", " (B)\n", "**B**.", "The", "", "A good question.", "A. It depends", "so the answer is a", "B C"),
    *("What is the best answer:\n\nA. one\nB. two\n", "The answer is 7.", "7", "**A.** no\n**B.** no, because"),
)
DIFFERENT = {"B. two": ("B", None), "[[G]]": (None, "G"), "The answer is (A). No: the answer is (E).": (None, "E")}
"""What teachwise and what the card's code read: a letter with its option's text, and letters that name no option."""


def test_the_code_on_the_card_reads_as_teachwise_does_but_for_what_the_card_says():
    reading = "\n".join(line for line in SNIPPET.splitlines() if line.startswith(("stated", "answer")))

    def read(text):
        space = {"re": re, "how": {"reading": READING}, "text": text}
        exec(reading, space)
        return space["answer"]

    options = ["one", "two", "three", "four"]
    assert {text: read(text) for text in REPLIES} == {text: read_letter(text, options) for text in REPLIES}
    assert {text: (read_letter(text, options), read(text)) for text in DIFFERENT} == DIFFERENT
    told = " ".join(_ask(ROUTER, "mine").split())
    assert "also reads a letter followed by its option's very text, and counts a letter that names no option" in told
    for form in ("the last `[[X]]` decides", '"the answer is (X)"', '"answer: X"', r"`\boxed{X}`"):
        assert form in told


def test_the_code_on_the_card_says_so_where_no_letter_is_read(capsys):
    printing = SNIPPET.splitlines()[-1]
    for answer in ("B", None):
        exec(printing, {"entropy": 1.37736, "answer": answer})
    assert capsys.readouterr().out == "1.3774 nats: B\n1.3774 nats: no letter could be read\n"


def test_the_code_on_the_card_is_short():
    lines = [line for line in SNIPPET.splitlines() if line]
    assert sum(line.startswith(("import", "from")) for line in lines) == 3
    assert len(lines) - 3 <= 13
