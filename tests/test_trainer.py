"""Training: what carries loss, what is never cut, stages on the same weights, and kills that change nothing."""

import hashlib
import json
import math
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from made_records import rationale
from teachwise import train, trainer
from teachwise.engines.hf import HfEngine, load_chat
from teachwise.errors import DataError
from teachwise.lessons import Lesson, Skipped
from teachwise.records import Assignment
from teachwise.run_folder import Unit, read_records
from teachwise.sections import Stage
from teachwise.tasks.toy import Toy
from teachwise.toy.benchmark import draw
from teachwise.trainer import Lora, Row, Settings, train_stage, updates_for
from test_chat import PHI, byte_tokenizer

pytestmark = pytest.mark.slow

STUDENT = {"model": "toy", "revision": None, "dtype": "auto", "device": "cpu", "trust_remote_code": False}
LORA = Settings(
    lora=Lora(8, 16, 0.1),
    updates=8,
    learning_rate=5e-3,
    schedule="cosine",
    warmup_updates=2,
    weight_decay=0.01,
    batch_size=4,
    micro_batch_size=2,
    gradient_checkpointing=False,
    save_every=3,
    seed=0,
)
FULL = replace(LORA, lora=None, learning_rate=1e-3)
SETTINGS = {"lora": LORA, "full": FULL}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums in another order are other sums; the killed processes use one thread too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def examples():
    return {row.id: row.example("train") for row in Toy(limit={"train": 60, "dev": 0, "test": 0}).rows()}


@pytest.fixture(scope="module")
def solutions():
    return [item.solution for item in draw("train", 60, 0)]


@pytest.fixture(scope="module")
def rows(examples, solutions):
    """Eighteen rows, a third of them answers: no multiple of the batch. Each opens with a word that is news."""
    chat, task = load_chat("toy"), Toy()
    lessons = [
        Lesson(id, "direct", f"spare {example.answer}")
        if number % 3 == 0
        else Lesson(id, "cot", f"spare {solutions[number]}")
        for number, (id, example) in enumerate(list(examples.items())[:18])
    ]
    found, skipped = train.encoded(lessons, examples, task, chat, 0, 512)
    assert skipped == []
    return found


@pytest.fixture(scope="module")
def run_stage(rows, tmp_path_factory):
    """Train the toy student on the rows; gives the folder and the result."""

    def run(settings, start=None, out=None, on=None, on_update=lambda update, note: None):
        out = out or tmp_path_factory.mktemp("train") / "stage-0"
        return out, train_stage(STUDENT, start, on or rows, out, settings, on_update)

    return run


@pytest.fixture(scope="module")
def whole(run_stage):
    """Uninterrupted trainings, by method."""
    return {name: run_stage(settings)[0] for name, settings in SETTINGS.items()}


def weights_of(folder):
    (path,) = folder.glob("*.safetensors")
    return path


def digest(folder):
    return hashlib.sha256(weights_of(folder).read_bytes()).hexdigest()


def losses(result):
    return [loss for _, loss in result["loss_curve"]]


def batches_of(rows, settings, tmp_path):
    """All batches of one pass, as the model gets them."""
    model, chat = trainer._model(STUDENT, None, settings)
    made = trainer._trainer(model, chat, rows, tmp_path, settings, lambda *_: None)
    return model, list(made.get_train_dataloader())


# ------------------------------------------------------------------------------- what carries loss, and all of it


def test_loss_is_on_the_completion_and_its_end_and_on_nothing_else(rows, tmp_path):
    _, batches = batches_of(rows, FULL, tmp_path)
    seen = []
    for batch in batches:
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            real = ids[mask == 1].tolist()
            learnt = labels[mask == 1].tolist()
            row = next(row for row in rows if row.prompt + row.completion == real)
            assert learnt == [-100] * len(row.prompt) + row.completion
            assert (labels[mask == 0] == -100).all()
            seen.append(real)
    assert sorted(seen) == sorted(row.prompt + row.completion for row in rows)


def test_prompt_tokens_bring_no_gradient(rows, tmp_path):
    """The loss that trains is the mean over completion tokens, computed by hand from the logits."""
    model, batches = batches_of(rows, FULL, tmp_path)
    model.eval()
    made = trainer._trainer(model, load_chat("toy"), rows, tmp_path, FULL, lambda *_: None)
    with torch.no_grad():
        for batch in batches[:3]:
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            chosen = torch.log_softmax(logits[:, :-1].float(), -1)
            wanted, by_hand, n_learnt = batch["labels"][:, 1:], 0.0, 0
            for place in (wanted != -100).nonzero().tolist():
                by_hand -= chosen[place[0], place[1], wanted[place[0], place[1]]].item()
                n_learnt += 1
            assert n_learnt == sum((row != -100).sum().item() for row in batch["labels"])
            assert made.compute_loss(model, dict(batch)).item() == pytest.approx(by_hand / n_learnt, rel=1e-3)


@pytest.mark.parametrize("method", SETTINGS)
def test_words_of_the_prompt_are_not_learnt(run_stage, method):
    """Prompts all alike, completions too: after training the completion is sure and the prompt's next word is not."""
    engine = HfEngine("toy")
    prompt = engine.chat.prompt_ids([[{"role": "user", "content": "options A red B blue question land7 color answer"}]])
    (completion,) = engine.chat.completion_ids(["gold"])
    out, _ = run_stage(replace(SETTINGS[method], updates=30, schedule="constant"), on=[Row(prompt[0], completion)] * 8)
    tuned = HfEngine("toy", adapter=out) if method == "lora" else HfEngine(str(out))
    likelihood = [_likelihood(one, prompt[0] + completion) for one in (engine, tuned)]
    n_prompt = len(prompt[0])
    assert likelihood[1][n_prompt - 1 :].exp().min() > 0.9
    assert likelihood[1][: n_prompt - 1].mean() < likelihood[0][: n_prompt - 1].mean() + 0.5
    assert tuned.generate(prompt, 6)[0].text == "gold"
    assert not tuned.generate(prompt, 6)[0].is_truncated


def _likelihood(engine, ids):
    with torch.no_grad():
        logits = engine.model(input_ids=torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits.float(), -1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_every_row_ends_in_the_token_that_ends_the_turn_and_begins_with_the_served_prompt(examples, solutions):
    chat, task = load_chat("toy"), Toy()
    lessons = [Lesson(id, "cot", text) for id, text in zip(examples, solutions, strict=True)]
    found, _ = train.encoded(lessons, examples, task, chat, 0, 512)
    for lesson, row in zip(lessons, found, strict=True):
        assert row.completion[-1] == chat.end_id == chat.tokenizer.eos_token_id
        assert row.prompt == chat.prompt_ids([task.messages(examples[lesson.id], "cot")])[0]
        assert chat.tokenizer.decode(row.completion[:-1]) == lesson.completion


def test_rows_that_are_too_long_are_left_out_and_counted_and_none_is_cut(examples, solutions):
    chat, task = load_chat("toy"), Toy()
    lessons = [Lesson(id, "cot", text) for id, text in zip(examples, solutions, strict=True)]
    every, none = train.encoded(lessons, examples, task, chat, 1, 10_000)
    assert none == []
    limit = sorted(row.length for row in every)[40]
    kept, left = train.encoded(lessons, examples, task, chat, 1, limit)
    assert kept == [row for row in every if row.length <= limit]
    long = {lesson.id: row.length for lesson, row in zip(lessons, every, strict=True) if row.length > limit}
    assert left == [Skipped(id, 1, f"{length:,} tokens, more than train.max_length") for id, length in long.items()]
    assert len(kept) + len(left) == 60
    assert left


def test_the_longest_row_reaches_the_model_whole(rows, tmp_path):
    """TRL cuts at 1,024 tokens unless told otherwise, and the end is where the answer stands."""
    long = Row([1] + [40] * 20, [50] * 1500 + [2])
    _, batches = batches_of([long, *rows[:3]], FULL, tmp_path)
    (found,) = (batch for batch in batches if batch["input_ids"].shape[1] > 600)
    labels = found["labels"][(found["labels"] == 50).any(1)][0]
    assert (labels != -100).sum() == 1501
    assert labels[labels != -100][-1] == 2


# ---------------------------------------------------------- every setting reaches the libraries that carry it out

ODD = Settings(
    lora=Lora(r=3, alpha=7, dropout=0.15),
    updates=11,
    learning_rate=3e-4,
    schedule="cosine",
    warmup_updates=5,
    weight_decay=0.07,
    batch_size=6,
    micro_batch_size=2,
    gradient_checkpointing=False,
    save_every=4,
    seed=9,
)
"""No two numbers alike, and none the default of TRL, PEFT or the recipe."""


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
@pytest.mark.parametrize("method", SETTINGS)
def test_every_setting_of_a_stage_reaches_the_trainer(rows, tmp_path, method, schedule):
    settings = replace(ODD, schedule=schedule, lora=ODD.lora if method == "lora" else None)
    model, chat = trainer._model(STUDENT, None, settings)
    made = trainer._trainer(model, chat, rows, tmp_path, settings, lambda *_: None)
    wanted = {
        "output_dir": str(tmp_path),
        "max_steps": 11,
        "learning_rate": 3e-4,
        "lr_scheduler_type": schedule,
        "warmup_steps": 5,
        "weight_decay": 0.07,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "seed": 9,
        "data_seed": 9,
        "max_length": None,
        "packing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "save_steps": 4,
        "use_cpu": True,
        "bf16": False,
    }
    assert {name: getattr(made.args, name) for name in wanted} == wanted
    assert made.processing_class is chat.tokenizer


@pytest.mark.parametrize("is_on", [False, True])
def test_gradient_checkpointing_reaches_the_trainer(rows, tmp_path, is_on):
    settings = replace(ODD, gradient_checkpointing=is_on)
    model, chat = trainer._model(STUDENT, None, settings)
    made = trainer._trainer(model, chat, rows, tmp_path, settings, lambda *_: None)
    assert bool(made.args.activation_checkpointing or made.args.gradient_checkpointing) is is_on


def test_the_optimizer_decays_the_weights_and_its_learning_rate_rises_and_falls_as_told(rows, tmp_path):
    model, chat = trainer._model(STUDENT, None, ODD)
    made = trainer._trainer(model, chat, rows, tmp_path, ODD, lambda *_: None)
    made.create_optimizer_and_scheduler(num_training_steps=11)
    assert {group["weight_decay"] for group in made.optimizer.param_groups} <= {0.07, 0.0}
    assert made.optimizer.param_groups[0]["weight_decay"] == 0.07
    rates = []
    for _ in range(11):
        rates.append(made.optimizer.param_groups[0]["lr"])
        made.optimizer.step()
        made.lr_scheduler.step()
    assert rates[:6] == pytest.approx([3e-4 * n / 5 for n in range(6)])
    assert rates[6:] == pytest.approx([3e-4 * (1 + math.cos(math.pi * n / 6)) / 2 for n in range(1, 6)])


def test_the_adapter_has_its_rank_scale_and_dropout_on_every_linear_layer():
    shape = LlamaConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=32)
    adapted = trainer._with_adapter(LlamaForCausalLM(shape), None, ODD.lora, None)
    (config,) = adapted.peft_config.values()
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 7, 0.15)
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.rpartition(".")[2] for name in config.target_modules} == linear
    assert (config.task_type, config.bias, config.use_rslora) == ("CAUSAL_LM", "none", False)
    layers = [layer for layer in adapted.modules() if hasattr(layer, "lora_A")]
    assert len(layers) == 2 * 7
    for layer in layers:
        assert layer.scaling["default"] == pytest.approx(7 / 3)
        assert layer.lora_A["default"].out_features == 3
        assert layer.lora_dropout["default"].p == 0.15


ODD_TRAIN = {
    "epochs": 2,
    "learning_rate": 2e-4,
    "schedule": "linear",
    "warmup_share": 0.25,
    "weight_decay": 0.07,
    "batch_size": 6,
    "micro_batch_size": 2,
    "lora_r": 3,
    "lora_alpha": 7,
    "lora_dropout": 0.15,
    "gradient_checkpointing": True,
    "save_every": 4,
}
ODD_RESULT = Settings(
    lora=Lora(3, 7, 0.15),
    updates=10,  # 29 assigned by 6 are five a pass, two passes
    learning_rate=2e-4,
    schedule="linear",
    warmup_updates=2,  # round(2.5)
    weight_decay=0.07,
    batch_size=6,
    micro_batch_size=2,
    gradient_checkpointing=True,
    save_every=4,
    seed=5,
)


@pytest.mark.parametrize(
    ("train_section", "stage", "change"),
    [
        ({}, {}, {}),
        ({"method": "full"}, {}, {"lora": None}),
        ({"micro_batch_size": None}, {}, {"micro_batch_size": 6}),
        ({}, {"epochs": 4}, {"updates": 20, "warmup_updates": 5}),
        ({}, {"learning_rate": 7e-4}, {"learning_rate": 7e-4}),
        ({"schedule": "cosine"}, {}, {"schedule": "cosine"}),
        ({"warmup_share": 0}, {}, {"warmup_updates": 0}),
    ],
)
def test_every_field_of_the_recipe_reaches_the_stage_and_the_seed_is_the_units_own(
    recipe_with, tmp_path, monkeypatch, train_section, stage, change
):
    called = []

    def train_stage(student, start, rows, out, settings, on_update, on_ready):
        called.append((student, start, rows, settings, on_ready))
        out.mkdir()
        (out / "stage.json").write_text("{}")

    monkeypatch.setattr("teachwise.trainer.train_stage", train_stage)
    recipe = recipe_with(train={**ODD_TRAIN, **train_section}, seeds=[0, 5])
    rows, start = [Row([1], [2])] * 20, tmp_path / "before"
    unit = Unit("train", "banded", 5)
    train._trained(recipe, unit, Stage(hard="rationale", **stage), rows, 29, start, tmp_path / "stage-1", print)
    assert called == [(recipe.student.model_dump(), start, rows, replace(ODD_RESULT, **change), print)]


# ---------------------------------------------------------------------------------------------- updates


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 12))
def test_updates_are_whole_passes_over_what_was_assigned(n_assigned, batch_size, epochs):
    updates = updates_for(n_assigned, batch_size, epochs)
    assert updates == -(-n_assigned // batch_size) * epochs
    assert updates_for(1, batch_size, 0.01) == 1


def test_the_result_says_what_was_really_done(run_stage, rows):
    """Eighteen rows by 4 are five updates a pass, the last of two rows: 8 updates see 18 + 12 rows."""
    notes = []
    _, result = run_stage(FULL, on_update=lambda update, note: notes.append((update, note)))
    assert (result["rows"], result["updates"]) == (18, 8)
    assert result["passes"] == pytest.approx(30 / 18, abs=1e-3)
    assert result["trained_tokens"] == pytest.approx(sum(row.length for row in rows) * 30 / 18, abs=1)
    assert result["completion_tokens"] == sum(len(row.completion) for row in rows)
    assert result["settings"] == asdict(FULL)
    assert [update for update, _ in result["loss_curve"]] == list(range(1, 9))
    assert [update for update, _ in notes] == list(range(1, 9))
    assert losses(result)[-1] < losses(result)[0]


def test_rows_in_memory_at_once_change_the_speed_and_not_the_result(run_stage, rows):
    """Every token weighs the same, however the rows of an update are cut up (long rationales beside bare letters)."""
    curves = [losses(run_stage(replace(FULL, micro_batch_size=size))[1]) for size in (1, 4)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


# ----------------------------------------------------------------------------------------------- stages


@pytest.mark.parametrize("method", SETTINGS)
def test_the_second_stage_goes_on_from_the_weights_of_the_first(run_stage, rows, method):
    settings = replace(SETTINGS[method], schedule="constant", warmup_updates=0, weight_decay=0.0)
    if settings.lora:
        settings = replace(settings, lora=Lora(8, 16, 0.0))
    first, learnt = run_stage(replace(settings, updates=20, batch_size=18, micro_batch_size=18))
    once = replace(settings, updates=1, batch_size=18, micro_batch_size=18, learning_rate=1e-4)
    second, result = run_stage(once, start=first)
    assert losses(learnt)[0] > 2 * losses(learnt)[-1], "the first stage learnt something"
    assert losses(result)[0] == pytest.approx(losses(learnt)[-1], rel=0.25)
    before, after = load_file(weights_of(first)), load_file(weights_of(second))
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) > 0.9 * len(before), "the second stage trains them further"
    assert all(torch.allclose(before[name], after[name], atol=2e-3) for name in before)


def test_a_lora_stage_trains_the_adapter_and_nothing_else(whole):
    model, _ = trainer._model(STUDENT, whole["lora"], LORA)
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(trainable) == 2 * 7 * 5, "every linear layer of five blocks"
    stored = load_file(weights_of(whole["lora"]))
    assert all(torch.equal(stored[name.replace(".default", "")], model.get_parameter(name)) for name in trainable)
    assert any(stored[name].abs().max() > 0 for name in stored if "lora_B" in name)


@pytest.mark.parametrize("method", SETTINGS)
def test_a_finished_stage_serves_with_its_own_tokenizer_and_leaves_no_work_behind(whole, rows, method):
    folder = whole[method]
    assert [path.name for path in folder.parent.iterdir()] == ["stage-0"]
    assert json.loads((folder / "stage.json").read_text())["updates"] == 8
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    tuned = HfEngine("toy", adapter=folder) if method == "lora" else HfEngine(str(folder))
    assert load_chat(str(folder)).end_id == tuned.chat.end_id
    scores = [e.answer_scores([rows[0].prompt], ["ABCDE"])[0].entropy_nats for e in (HfEngine("toy"), tuned)]
    assert abs(scores[0] - scores[1]) > 1e-6


def phi_like(folder, **settings):
    """A tiny model whose turns end in another token than its texts, as Phi's do."""
    tokenizer = byte_tokenizer(PHI)
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=4, eos_token_id=1)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, end], **settings}))
    return end


@pytest.mark.parametrize("method", SETTINGS)
def test_a_student_learns_to_end_its_turn_where_that_is_not_the_end_of_a_text(tmp_path, method):
    end = phi_like(tmp_path / "phi", do_sample=True, temperature=0.6, top_p=0.9)
    student = {**STUDENT, "model": str(tmp_path / "phi")}
    chat = load_chat(student["model"])
    (prompt,), (completion,) = chat.prompt_ids([[{"role": "user", "content": "x"}]]), chat.completion_ids(["B"])
    assert completion[-1] == end != chat.tokenizer.eos_token_id
    settings = replace(
        SETTINGS[method], updates=60, learning_rate=2e-2, schedule="constant", lora=SETTINGS[method].lora and LORA.lora
    )
    train_stage(student, None, [Row(prompt, completion)] * 4, tmp_path / "out", settings, lambda *_: None)
    out = str(tmp_path / "out")
    tuned = HfEngine(student["model"], adapter=out) if method == "lora" else HfEngine(out)
    assert tuned.chat.stop_ids == chat.stop_ids
    (written,) = tuned.generate([prompt], 12)
    assert (written.text, written.tokens, written.is_truncated) == ("B", 2, False)


def test_odd_generation_settings_of_a_checkpoint_do_not_stop_it_from_being_saved(tmp_path):
    """Many a checkpoint names a temperature but does not sample; transformers refuses to write such settings."""
    phi_like(tmp_path / "phi", temperature=0.6, top_p=0.9)
    student = {**STUDENT, "model": str(tmp_path / "phi")}
    row = Row([5, 6], [7, 4])
    train_stage(student, None, [row] * 4, tmp_path / "out", replace(FULL, updates=2), lambda *_: None)
    assert HfEngine(str(tmp_path / "out")).generate([[5, 6]], 2)


# ------------------------------------------------------------------------------------------------ seeds


@pytest.mark.parametrize("method", SETTINGS)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(run_stage, whole, method):
    same, _ = run_stage(SETTINGS[method])
    other, _ = run_stage(replace(SETTINGS[method], seed=1))
    assert digest(same) == digest(whole[method])
    assert digest(other) != digest(whole[method])


# ------------------------------------------------------------------------------------------------ kill -9

CHILDREN = """
# Imports once, then forks a process for every scenario; each is killed where the scenario says.
import json, os, signal, sys
from pathlib import Path
from teachwise import trainer
from teachwise.trainer import Lora, Row, Settings
import torch

torch.set_num_threads(1)
work = json.load(open(sys.argv[1]))
rows = [Row(*row) for row in work["rows"]]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def at(update):
    return lambda n, note: die() if n == update else None

for scenario in work["scenarios"]:
    if (child := os.fork()) == 0:
        settings = scenario["settings"]
        lora = Lora(**settings.pop("lora")) if settings["lora"] else settings.pop("lora")
        if scenario["kill"] == "before the final save":
            trainer.shutil.rmtree = die
        if scenario["kill"] == "in the final save":
            trainer.write_json = die
        if scenario["kill"] == "before the folder appears":
            trainer.os.replace = lambda a, b: die() if str(a).endswith("ready") else os.rename(a, b)
        update = scenario["kill"] if isinstance(scenario["kill"], int) else 0
        out = Path(scenario["out"])
        trainer.train_stage(work["student"], None, rows, out, Settings(lora=lora, **settings), at(update))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status))
"""
KILLS = [2, 5, 8, "before the final save", "in the final save", "before the folder appears"]
"""An update, or a place; checkpoints are written after updates 3 and 6, and the whole stage after 8."""
KILLED = [*(("lora", kill) for kill in KILLS), ("full", 5), ("full", "before the final save")]


@pytest.fixture(scope="module")
def killed(rows, tmp_path_factory):
    """Folders of trainings that were killed with signal 9, by method and place."""
    root = tmp_path_factory.mktemp("killed")
    outs = {(method, kill): root / f"{method}-{kill}" / "stage-0" for method, kill in KILLED}
    scenarios = [
        {"out": str(out), "kill": kill, "settings": asdict(SETTINGS[method])} for (method, kill), out in outs.items()
    ]
    work = {"rows": [[row.prompt, row.completion] for row in rows], "student": STUDENT, "scenarios": scenarios}
    (root / "work.json").write_text(json.dumps(work))
    done = subprocess.run([sys.executable, "-c", CHILDREN, root / "work.json"], capture_output=True, text=True)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * len(outs), done.stderr
    return outs


def checkpoints(out):
    return sorted(path.name for path in out.with_name("stage-0.work").glob("checkpoint-*"))


@pytest.mark.parametrize(("method", "kill"), KILLED)
def test_a_killed_stage_goes_on_to_the_same_weights_bit_for_bit(killed, whole, run_stage, capsys, method, kill):
    out = killed[method, kill]
    assert not out.exists(), "a stage that is not finished has no folder"
    saved = {2: [], 5: [3]}.get(kill, [3, 6])
    assert checkpoints(out) == [f"checkpoint-{update}" for update in saved]
    updates = []
    _, result = run_stage(SETTINGS[method], out=out, on_update=lambda update, note: updates.append(update))
    said = f"going on from update {max(saved)} of 8: {out}\n" if saved else ""
    assert capsys.readouterr().err == said
    assert updates == list(range(max(saved, default=0) + 1, 9)), "what a checkpoint holds is not done again"
    assert digest(out) == digest(whole[method])
    assert result == json.loads((whole[method] / "stage.json").read_text())
    assert [path.name for path in out.parent.iterdir()] == ["stage-0"]


@pytest.mark.parametrize("method", SETTINGS)
def test_a_half_written_checkpoint_is_not_gone_on_from(whole, run_stage, tmp_path, method):
    """It has the highest number, weights of zeros, and no sign that it was finished."""

    def die_at_seven(update, note):
        if update == 7:
            raise KeyboardInterrupt

    out = tmp_path / "stage-0"
    with pytest.raises(KeyboardInterrupt):
        run_stage(SETTINGS[method], out=out, on_update=die_at_seven)
    assert checkpoints(out) == ["checkpoint-3", "checkpoint-6"]
    half = out.with_name("stage-0.work") / "checkpoint-7"
    half.mkdir()
    for path in (half.parent / "checkpoint-6").iterdir():
        if path.name not in ("whole", "optimizer.pt", "trainer_state.json"):
            (half / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run_stage(SETTINGS[method], out=out)
    assert digest(out) == digest(whole[method])


# ------------------------------------------------------------------------------------------ the whole step


@pytest.fixture
def arm(recipe_with, put, examples, solutions):
    """Train a banded arm of 20 answers and 20 rationales, some of them rejected; gives recipe, unit and run."""
    ids = list(examples)[:40]
    unit = Unit("train", "banded")
    verdicts = ["correct" if number % 4 else "wrong" for number in range(20)]
    put(Unit("prepare"), examples=list(examples.values()))
    put(
        unit.of("route"),
        assignments=[
            *(Assignment(id, "easy", "answer", 0) for id in ids[:20]),
            *(Assignment(id, "hard", "rationale", 1) for id in ids[20:]),
            *(Assignment(id, "medium", "drop", -1) for id in list(examples)[40:]),
        ],
    )
    rationales = [
        rationale(id, verdict, "A", text)
        for id, verdict, text in zip(ids[20:], verdicts, solutions[20:40], strict=True)
    ]
    put(unit.of("teach"), rationales=rationales)
    put.run.begin(unit, "by-hand")

    def recipe(**changes):
        stages = [{"easy": "answer"}, {"hard": "rationale", "epochs": 2, "learning_rate": 0.0005}]
        settings = {"batch_size": 8, "epochs": 1, "lora_r": 4, "max_length": 80, "learning_rate": 0.001}
        return recipe_with(
            data={"task": "toy"},
            arms={"banded": {"policy": "bands", "stages": stages}},
            train={**settings, **changes.pop("train", {})},
            **changes,
        )

    return lambda **changes: (recipe(**changes), put.run, unit)


@pytest.mark.parametrize("on_rejected", ["drop", "answer"])
def test_updates_are_counted_over_what_was_assigned_however_much_was_rejected(arm, on_rejected):
    recipe, run, unit = arm(on_rejected=on_rejected)
    counts = train.train_arm(recipe, run, unit)
    stages = [json.loads((run.folder(unit) / f"stage-{n}/stage.json").read_text()) for n in (0, 1)]
    assert [stage["updates"] for stage in stages] == [3, 6]
    assert [stage["rows"] for stage in stages] == [20, 15 if on_rejected == "drop" else 20]
    assert [stage["settings"]["learning_rate"] for stage in stages] == [0.001, 0.0005]
    skipped = read_records(run.folder(unit) / "skipped.parquet", Skipped)
    assert [(one.stage, one.reason) for one in skipped] == [(1, "rationale wrong")] * (
        5 if on_rejected == "drop" else 0
    )
    assert counts == {
        "stages": 2,
        "rows": sum(stage["rows"] for stage in stages),
        "skipped": len(skipped),
        "updates": 9,
        "trained_tokens": sum(stage["trained_tokens"] for stage in stages),
    }


def test_a_finished_stage_is_not_trained_again(arm, monkeypatch):
    recipe, run, unit = arm()
    first = train.train_arm(recipe, run, unit)
    weights = [digest(run.folder(unit) / f"stage-{number}") for number in (0, 1)]
    monkeypatch.setattr("teachwise.trainer.train_stage", lambda *_: pytest.fail("trained again"))
    assert train.train_arm(recipe, run, unit) == first
    monkeypatch.undo()
    (run.folder(unit) / "stage-1" / "stage.json").unlink()
    for path in sorted((run.folder(unit) / "stage-1").iterdir()):
        path.unlink()
    (run.folder(unit) / "stage-1").rmdir()
    train.train_arm(recipe, run, unit)
    assert [digest(run.folder(unit) / f"stage-{number}") for number in (0, 1)] == weights


def test_too_long_rows_are_skipped_with_the_reason_and_the_training_is_as_long(arm):
    recipe, run, unit = arm(train={"max_length": 45})
    counts = train.train_arm(recipe, run, unit)
    skipped = read_records(run.folder(unit) / "skipped.parquet", Skipped)
    long = [one for one in skipped if "more than train.max_length" in one.reason]
    assert 0 < len(long) < 15
    assert counts["rows"] + counts["skipped"] == 40
    assert counts["updates"] == 9


def test_a_stage_with_nothing_left_to_learn_says_why(arm):
    recipe, run, unit = arm(train={"max_length": 5})
    with pytest.raises(DataError, match=r"no row is left to train on \(20 were assigned\)") as error:
        train.train_arm(recipe, run, unit)
    assert "train.max_length" in error.value.hint
