"""pack: what is deployed answers as what was judged, its card tells what was measured, and it gives nothing away."""

import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from teachwise import cli, pack
from teachwise.answer import answer_table
from teachwise.engines.hf import HfEngine, load_chat
from teachwise.errors import DataError
from teachwise.figures import points
from teachwise.pack import pack_arm
from teachwise.records import Example, Prediction
from teachwise.run_folder import Run, Unit
from teachwise.tasks.table import read_table, write_table
from teachwise.trainer import Lora, Row, Settings, merge_adapter, train_stage
from teachwise.tuned import find_tuned, tuned_in_pack

pytestmark = pytest.mark.slow

KINDS = {"adapter": ("lora", False), "merged": ("lora", True), "full": ("full", False)}
LAST = "train/banded/seed-0/round-0/stage-1"


@pytest.fixture(scope="module", autouse=True)
def beside_the_student(tiny_run):
    """The working directory holds the folder `my-student`, by whose name the adapter's pack calls it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tiny_run("lora").parent)
        yield


@pytest.fixture(scope="module")
def packed(tiny_run):
    """Packs of the tiny runs, by kind."""
    made = {}

    def build(kind):
        if kind not in made:
            method, merge = KINDS[kind]
            made[kind] = Path(f"pack-{kind}")
            pack_arm(tiny_run(method), "banded", None, made[kind], merge)
        return made[kind]

    return build


@pytest.fixture(scope="module")
def asked(tiny_run):
    return [e for e in Run(tiny_run("lora")).records(Unit("prepare"), "examples.parquet", Example) if e.split == "test"]


def load(folder, kind):
    loader = AutoPeftModelForCausalLM if kind == "adapter" else AutoModelForCausalLM
    return loader.from_pretrained(str(folder)).eval()


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0]


def json_of(folder):
    return json.loads((folder / "teachwise.json").read_text())


def card_of(folder):
    return (folder / "README.md").read_text()


# ----------------------------------------------------------------------------- it answers as what was judged


@pytest.mark.parametrize("kind", KINDS)
def test_a_pack_loads_with_the_usual_loaders_and_has_the_logits_of_the_trained_student(packed, tiny_run, kind):
    method, _ = KINDS[kind]
    last = tiny_run(method) / LAST
    trained = HfEngine("my-student", adapter=last) if method == "lora" else HfEngine(str(last))
    ids = load_chat("my-student").prompt_ids([[{"role": "user", "content": "options A 8 B 6 question calc 6 - 1"}]])[0]
    found, wanted = logits(load(packed(kind), kind), ids), logits(trained.model, ids)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert (logits(HfEngine("my-student").model, ids) - wanted).abs().max() > 1e-2, "training moved them"
    assert AutoTokenizer.from_pretrained(packed(kind)).chat_template == load_chat("my-student").tokenizer.chat_template


@pytest.mark.parametrize("kind", KINDS)
def test_run_and_pack_and_evaluate_give_the_same_answers(packed, tiny_run, asked, tmp_path, kind):
    method, _ = KINDS[kind]
    rows = [{"question": e.question, "options": list(e.options), "answer": e.answer} for e in asked]
    write_table(tmp_path / "q.jsonl", rows)
    student = "my-student" if kind == "adapter" else None
    from_run = answer_table(tiny_run(method), str(tmp_path / "q.jsonl"), tmp_path / "run.jsonl", "banded")
    from_pack = answer_table(packed(kind), str(tmp_path / "q.jsonl"), tmp_path / "pack.jsonl", student=student)
    assert (from_run["trained_on"], from_run["chose_threshold"]) == (0, 0)
    assert from_pack == {**from_run, "trained_on": None, "chose_threshold": None}
    ours, theirs = (read_table(str(tmp_path / f"{name}.jsonl")) for name in ("pack", "run"))
    for one, other in zip(ours, theirs, strict=True):
        assert one == {**other, "answer_entropy": pytest.approx(other["answer_entropy"], abs=1e-4)}
    judged = Run(tiny_run(method)).records(Unit("evaluate", "banded"), "predictions.parquet", Prediction)
    mode = from_run["mode"]
    judged = {one.id: one for one in judged if (one.split, one.mode) == ("test", mode)}
    assert [(row["student_answer"], row["student_text"]) for row in ours] == [
        (judged[example.id].stated, judged[example.id].text) for example in asked
    ]


def test_a_pack_needs_no_run(packed, tiny_run):
    """All that a run would tell stands in the pack, but for where the weights lie and how fast to go."""
    for kind, (method, _) in KINDS.items():
        from_run = find_tuned(tiny_run(method), "banded", None, None)
        from_pack = find_tuned(packed(kind), None, None, "my-student" if kind == "adapter" else None)
        same = {"engine": {}, "batch_tokens": 0, "seen": None}
        assert replace(from_pack, **same) == replace(from_run, **same)


ROWS = [Row([1, 9, 4], [30, 2]), Row([1, 8, 4], [31, 2])] * 4
LORA = Settings(
    lora=Lora(8, 16, 0.0),
    updates=10,
    learning_rate=1e-2,
    schedule="constant",
    warmup_updates=0,
    weight_decay=0.0,
    batch_size=8,
    micro_batch_size=8,
    gradient_checkpointing=False,
    save_every=100,
    seed=0,
)


def test_the_adapter_of_the_last_stage_holds_what_all_stages_learnt(tmp_path):
    student = {"model": "my-student", "revision": "v1", "dtype": "auto", "device": "cpu", "trust_remote_code": False}
    train_stage(student, None, ROWS, tmp_path / "stage-0", LORA, lambda *_: None)
    barely = replace(LORA, updates=1, learning_rate=1e-9)
    train_stage(student, tmp_path / "stage-0", ROWS, tmp_path / "stage-1", barely, lambda *_: None)
    merge_adapter(student, tmp_path / "stage-1", tmp_path / "merged")
    before = logits(HfEngine("my-student").model, [1, 9, 4])
    first = logits(HfEngine("my-student", adapter=tmp_path / "stage-0").model, [1, 9, 4])
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), [1, 9, 4])
    assert (before - first).abs().max() > 1
    assert torch.allclose(merged, first, atol=1e-4)
    settings = json.loads((tmp_path / "stage-1" / "adapter_config.json").read_text())
    assert settings["revision"] == "v1", "a pinned student stays pinned for whoever loads the stage"


def test_a_merged_student_is_summed_in_float32_and_stored_in_its_own_dtype(tmp_path):
    student = {"model": "half", "revision": None, "dtype": "auto", "device": "cpu", "trust_remote_code": False}
    AutoModelForCausalLM.from_pretrained("my-student", dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained("my-student").save_pretrained(tmp_path / "half")
    student["model"] = str(tmp_path / "half")
    train_stage(student, None, ROWS, tmp_path / "stage-0", LORA, lambda *_: None)
    assert merge_adapter(student, tmp_path / "stage-0", tmp_path / "merged") == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16
    assert merge_adapter({**student, "dtype": "float32"}, tmp_path / "stage-0", tmp_path / "exact") == "float32"
    rounded, sums = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "exact"))
    assert all(torch.equal(rounded[name], sums[name].bfloat16()) for name in sums)
    exact = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "exact"), [1, 9, 4])
    apart = logits(HfEngine(student["model"], adapter=tmp_path / "stage-0").model, [1, 9, 4])
    assert torch.allclose(exact, apart, atol=1e-4)


# -------------------------------------------------------------------------------------- what it gives away


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_holds_a_path_of_this_machine_an_endpoint_or_a_key(packed, tiny_run, kind):
    home = tiny_run("lora").parent
    secrets = [str(home), home.parent.name, str(Path(pack.__file__).parents[2]), str(Path.home()) + "/"]
    secrets += ["127.0.0.1", "sk-tiny", "TINY_KEY"]
    files = [path for path in packed(kind).rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert [secret for secret in secrets if secret.encode() in content] == [], path.name
    stage = tiny_run("lora") / LAST
    assert str(home) in (stage / "adapter_config.json").read_text(), "there was something to leave out"


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_safetensors_and_nothing_else_lies_in_the_folder(packed, kind):
    names = {path.name for path in packed(kind).iterdir()}
    own = {"adapter_model.safetensors", "adapter_config.json"} if kind == "adapter" else {"model.safetensors"}
    shared = {"README.md", "teachwise.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert names - {"config.json", "generation_config.json"} == own | shared


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_may_read_the_card_may_read_the_weights(packed, tiny_run, kind):
    for folder, page in ((packed(kind), "README.md"), (tiny_run(KINDS[kind][0]) / LAST, "stage.json")):
        modes = {path.name: oct(path.stat().st_mode) for path in folder.iterdir()}
        assert modes == dict.fromkeys(modes, modes[page])


def test_an_adapter_names_its_student_and_finds_its_folder_here_or_asks(packed, tmp_path, monkeypatch, capsys):
    settings = json.loads((packed("adapter") / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("my-student", "v1")
    recorded = {"model": "my-student", "is_folder": True, "revision": "v1", "dtype": "auto"}
    assert json_of(packed("adapter"))["student"] == recorded
    assert tuned_in_pack(packed("adapter")) == tuned_in_pack(packed("adapter"), "my-student")
    assert "student: the folder my-student in this directory" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(DataError, match="holds no adapter"):
        tuned_in_pack(packed("merged"), "my-student")
    assert "trust_remote_code" not in tuned_in_pack(packed("merged")).engine
    assert "`teachwise answer` looks there too" in card_of(packed("adapter"))
    adapter = packed("adapter").resolve()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="was a folder called 'my-student', and none is in this directory"):
        tuned_in_pack(adapter)


# ------------------------------------------------------------------------------------------------- the card


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_opens_as_the_hub_wants_it(packed, kind):
    front = yaml.safe_load(card_of(packed(kind)).split("---\n")[1])
    assert front["base_model"] == "my-student"
    assert front["library_name"] == ("peft" if kind == "adapter" else "transformers")
    assert front["license"] == "unknown"
    assert {"teachwise", "multiple-choice"} <= set(front["tags"])
    assert ("lora" in front["tags"]) == (kind == "adapter")


def test_the_card_tells_what_was_measured(packed, tiny_run):
    run = Run(tiny_run("lora"))
    entry = run.json(Unit("compare"), "comparison.json")["arms"]["banded"]
    text = card_of(packed("adapter"))
    words = {"direct": "answering at once", "cot": "thinking first", "routed": "thinking only when unsure"}
    for mode, found in entry["modes"].items():
        own = found["accuracy"]
        name = f"**{words[mode]}** (chosen)" if mode == entry["mode"] else words[mode]
        assert f"| {name} | {own['value']:.1%} ({own['low']:.1%} to {own['high']:.1%}) |" in text
    for other in ("base", "random"):
        gap = entry["against"][other]["difference"]
        span = f"{points(gap['value'])} ({points(gap['low'])} to {points(gap['high'])})"
        assert f"| `{other}` | {span} |" in text
        assert (f"not told apart from `{other}`" in text) == (gap["low"] <= 0 <= gap["high"])
    assert f"{entry['cost']['teacher_tokens']:,.0f} tokens read and written by `toy-teacher`" in text
    assert f"{entry['cost']['rationales_kept']:.0f} of {entry['cost']['rationales_bought']:.0f} rationales kept" in text
    assert "60 train, 20 dev, 40 test" in text
    assert "Intervals cover questions only (one seed)." in text
    digest = hashlib.sha256((run.root / "resolved.yaml").read_bytes()).hexdigest()[:16]
    assert f"`{digest}`" in text
    assert json_of(packed("adapter"))["recipe_hash"] == digest


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_on_the_card_runs_and_routes_as_teachwise_does(packed, capsys, tmp_path, kind):
    """Once as it is, once with a threshold that turns the routing of its example round."""
    load_it, ask_it = re.findall(r"```python\n(.*?)```", card_of(packed(kind)), re.DOTALL)
    space: dict = {}
    exec(load_it, space)
    assert space["model"].config.model_type == "llama"
    content = json_of(packed(kind))
    example = content["example"]
    write_table(tmp_path / "q.jsonl", [{"question": example["question"], "options": example["options"]}])
    student = "my-student" if kind == "adapter" else None
    for mode in ("direct", "cot"):
        answer_table(packed(kind), str(tmp_path / "q.jsonl"), tmp_path / "a.jsonl", mode=mode, student=student)
        (row,) = read_table(str(tmp_path / "a.jsonl"))
        other = tmp_path / f"{mode}-{kind}.json"
        limit = row["answer_entropy"] + (1e-3 if mode == "direct" else -1e-3)
        other.write_text(json.dumps({**content, "mode": "routed", "threshold_nats": limit}))
        exec(ask_it.replace(f"{packed(kind)}/teachwise.json", str(other)), {})
        entropy, answer = re.fullmatch(r"([\d.]+) nats: (.+)\n", capsys.readouterr().out).groups()
        assert float(entropy) == pytest.approx(row["answer_entropy"], abs=1e-3)
        assert answer == (row["student_answer"] or "no letter could be read")
        assert (row["student_mode"], len(row["student_text"]) > 1) == (mode, mode == "cot")


def test_a_table_of_ones_own_gives_the_card_no_question(tiny_run, recipe_with):
    tuned = find_tuned(tiny_run("full"), "banded", None, None)
    recipe = recipe_with()
    example = pack._example(recipe, Run("nowhere"))
    found = pack.example_prompts(tuned, recipe, example)["example"]
    assert found["question"] == "How many legs does a spider have?"
    (system, user), chat = found["messages"]["cot"], load_chat("my-student")
    assert "about biology" in system["content"]
    assert "B. eight" in user["content"]
    assert found["prompts"]["cot"] == chat.render([system, user])
    assert system["content"] in found["prompts"]["cot"], "kept also where the template drops system messages"


# ---------------------------------------------------------------------------------- the folder, all or nothing


def test_a_folder_with_something_in_it_is_never_replaced_unasked(tiny_run, packed, tmp_path):
    run = tiny_run("lora")
    (tmp_path / "mine").mkdir()
    pack_arm(run, "banded", None, tmp_path / "mine")  # empty
    made = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    with pytest.raises(DataError, match="holds a pack already"):
        pack_arm(run, "random", None, tmp_path / "mine")
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == made
    (tmp_path / "mine" / "stale.txt").write_text("old")
    pack_arm(run, "random", None, tmp_path / "mine", force=True)
    assert json_of(tmp_path / "mine")["arm"] == "random"
    assert not (tmp_path / "mine" / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"], "nothing is left beside it"


def test_not_even_force_replaces_a_folder_that_is_no_pack(tiny_run, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years")
    for place in ("home", "home/thesis.txt"):
        with pytest.raises(DataError, match="is no pack"):
            pack_arm(tiny_run("lora"), "banded", None, tmp_path / place, force=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years"


def test_a_pack_that_fails_half_way_leaves_the_old_one_and_nothing_else(tiny_run, tmp_path, monkeypatch):
    run = tiny_run("lora")
    pack_arm(run, "banded", None, tmp_path / "mine")
    with monkeypatch.context() as patch:
        patch.setattr(pack, "card", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack_arm(run, "random", None, tmp_path / "mine", force=True)
        with pytest.raises(ZeroDivisionError):
            pack_arm(run, "random", None, tmp_path / "new")
    assert json_of(tmp_path / "mine")["arm"] == "banded"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_cannot_be_packed_says_why(tiny_run, tmp_path, monkeypatch):
    for run, arm, merge, found in (
        (tiny_run("lora"), "base", False, "arm 'base' trains nothing"),
        (tiny_run("lora"), None, False, "no arm is named"),
        (tiny_run("full"), "banded", True, "no adapter to merge"),
    ):
        with pytest.raises(DataError, match=found):
            pack_arm(run, arm, None, tmp_path / "out", merge)
    before = Run.manifest
    monkeypatch.setattr(Run, "manifest", lambda run, unit: None if unit.step == "compare" else before(run, unit))
    with pytest.raises(DataError, match="not compared yet"):
        pack_arm(tiny_run("lora"), "banded", None, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_commands_pack_and_answer(tiny_run, asked, tmp_path, monkeypatch, capsys):
    write_table(tmp_path / "q.csv", [{"question": e.question, "options": list(e.options)} for e in asked])

    def teachwise(*words):
        monkeypatch.setattr(sys, "argv", ["teachwise", *map(str, words)])
        cli.main()
        return capsys.readouterr().out

    made = teachwise("pack", tiny_run("lora"), "--arm", "banded", "--merge", "--out", tmp_path / "mine")
    assert re.fullmatch(r"seed 0, to be asked \w+, 1.4 MiB -> .*mine\n", made)
    told = teachwise("answer", tmp_path / "mine", tmp_path / "q.csv", "--out", tmp_path / "a.parquet", "--mode", "cot")
    assert told.startswith("40 answered: 0 at once, 40 thinking; ")
    assert len(read_table(str(tmp_path / "a.parquet"))) == 40
    with pytest.raises(SystemExit) as stop:
        teachwise("answer", tmp_path / "mine", tmp_path / "q.csv", "--arm", "banded")
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_pack_takes_neither_arm_nor_seed(packed):
    for options in (("banded", None), (None, 0)):
        with pytest.raises(DataError, match="is a pack, which holds one arm and seed"):
            find_tuned(packed("full"), *options, None)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"format": 99}, "format 99, wanted 1"),
        ({"mode": "guess"}, "mode 'guess'"),
        ({"task": "essays"}, "task 'essays'"),
        ({"task": "toy_open"}, "its questions are open"),
        ({"threshold_nats": "low"}, "is damaged"),
        ({"student": None}, "is damaged"),
    ],
)
def test_a_pack_that_cannot_be_understood_is_refused(packed, tmp_path, change, found):
    (tmp_path / "teachwise.json").write_text(json.dumps({**json_of(packed("full")), **change}))
    with pytest.raises(DataError, match=found):
        tuned_in_pack(tmp_path)
    (tmp_path / "teachwise.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match="is damaged"):
        tuned_in_pack(tmp_path)
    (tmp_path / "teachwise.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        tuned_in_pack(tmp_path)
