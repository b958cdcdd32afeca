import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import openai
import pytest

from teachwise.pipeline import run_recipe
from teachwise.recipe import load_recipe
from teachwise.records import Assignment, Example, Prediction, Rationale
from teachwise.run_folder import Run, Unit
from teachwise.tasks.mmlu_pro import MmluPro

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "mmlu_pro_real"
QUESTIONS = "mmlu_pro_qwen25_3b_entropy.parquet"
ARMS = ["base", "sft", "banded", "random", "distill"]
MEASURED = ["seeds=[0]", "score.measure=column", "score.column=entropy", "score.correct=student_correct"]


def module(name):
    """A file of the example's folder, imported under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def replay():
    return module("replay_server")


@pytest.fixture(scope="module")
def recording(replay, shared_data):
    return replay.load_recording(shared_data)


@pytest.fixture(scope="module")
def example(replay):
    return module("run")


@pytest.fixture(scope="module")
def questions(shared_data):
    return [row.example("train") for row in MmluPro(str(shared_data / QUESTIONS)).rows()]


def teachwise(*words):
    return subprocess.run([sys.executable, "-m", "teachwise", *words], capture_output=True, text=True, check=True)


# ------------------------------------------------------------------------------------------- shipped recipe


def test_the_paper_recipe_has_the_papers_settings():
    recipe = load_recipe("mmlu_pro_qwen2.5_3b")
    train = recipe.train
    assert (train.method, train.lora_r, train.lora_alpha, train.lora_dropout) == ("lora", 64, 128, 0.05)
    assert (train.learning_rate, train.schedule, train.batch_size, train.max_length) == (1e-4, "constant", 256, 2048)
    assert list(recipe.arms) == ARMS
    assert recipe.seeds == [0, 1, 2]
    assert recipe.data.source is None
    epochs = {arm: [stage.epochs or train.epochs for stage in recipe.stages_of(arm)] for arm in ARMS}
    assert epochs == {"base": [], "sft": [20], "distill": [20], "banded": [10, 10], "random": [10, 10]}
    gives = [stage.gives for stage in recipe.stages_of("banded")]
    assert gives == [{"easy": "answer", "medium": "answer"}, {"hard": "rationale"}]
    assert recipe.arms["banded"].edges == (0.25, 0.75)


def test_the_paper_recipe_is_checked_by_the_command():
    assert "Qwen/Qwen2.5-3B-Instruct" in teachwise("check", "mmlu_pro_qwen2.5_3b").stdout


def test_the_example_recipe_says_that_the_weights_are_random():
    recipe = load_recipe(FOLDER / "recipe.yaml")
    assert "random" in recipe.note
    assert "plumbing" in recipe.note
    assert list(recipe.arms) == ARMS


@pytest.mark.parametrize(
    ("overrides", "sizes"),
    [
        ([], {"easy": 674, "medium": 1347, "hard": 674}),
        (["data.limit={}"], {"easy": 2381, "medium": 4760, "hard": 2381}),
    ],
)
def test_the_paper_recipe_routes_measured_entropies_without_any_weights(shared_data, tmp_path, overrides, sizes):
    source = f"data.source={shared_data / QUESTIONS}"
    recipe = load_recipe("mmlu_pro_qwen2.5_3b", [source, *MEASURED, "student=no/such-weights", *overrides])
    run = run_recipe(recipe, tmp_path, until="route")
    assert run.json(Unit("prepare"), "prepare.json")["counts"]["repeats"] == 159
    validation = run.json(Unit("validate"), "validation.json")
    assert validation["verdict"] == "PASS"
    assert validation["auc_low"] < 0.7093 < validation["auc_high"]
    banded = run.records(Unit("route", "banded", 0), "assignments.parquet", Assignment)
    assert Counter(one.band for one in banded) == sizes
    assert {one.band: (one.give, one.stage) for one in banded} == {
        "easy": ("answer", 0),
        "medium": ("answer", 0),
        "hard": ("rationale", 1),
    }


# ------------------------------------------------------------------------------------------- recorded teacher


def client(server):
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)


def test_the_server_replays_what_the_teacher_wrote_to_a_question(replay, recording, questions, shared_data):
    task = MmluPro(str(shared_data / QUESTIONS))
    with replay.served(recording) as server:
        found = client(server).chat.completions.create(
            model="llama", messages=task.teacher_messages(questions[0]), max_tokens=512
        )
        cut = client(server).chat.completions.create(
            model="llama", messages=task.teacher_messages(questions[0]), max_tokens=5
        )
        assert server.n_replayed == 2
        assert server.server_address[0] == "127.0.0.1"
    text = found.choices[0].message.content
    assert text.startswith("We refer to Wikipedia articles on advertising for help.")
    assert text.endswith("The answer is (I).")
    assert task.read_answer(questions[0], text) == "I"
    assert (found.choices[0].finish_reason, found.usage.completion_tokens) == ("stop", len(text.split()))
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 5)


def test_the_server_invents_nothing(replay, recording):
    with replay.served(recording) as server:
        with pytest.raises(openai.NotFoundError, match="no rationale was recorded"):
            client(server).chat.completions.create(model="llama", messages=[{"role": "user", "content": "1 + 1?"}])
        with pytest.raises(openai.BadRequestError, match="messages"):
            client(server).post("/chat/completions", body={"model": "llama"}, cast_to=object)
        with pytest.raises(openai.NotFoundError, match="unknown path"):
            client(server).post("/embeddings", body={}, cast_to=object)
        assert server.n_replayed == 0


def test_the_longest_recorded_question_in_a_prompt_counts(replay):
    recording = {replay.as_asked("Which?", options): " ".join(options) for options in (["x", "y"], ["x", "y", "z"])}
    assert replay.find_rationale(recording, "Say.\nWhich?\n\nA. x\nB.  y\nC. z\n\nThink.") == "x y z"
    assert replay.find_rationale(recording, "Which?\n\nA. x\nB. y\n\nThink.") == "x y"
    assert replay.find_rationale(recording, "Which?\n\nA. y\nB. x\n\nThink.") is None


def test_every_distinct_question_gets_its_own_rationale(replay, recording, questions):
    task_sees = {replay.as_asked(one.question, one.options) for one in questions}
    assert task_sees == set(recording)
    assert len(recording) == len({one.id for one in questions}) == 12_030 - 159


# ------------------------------------------------------------------------------------------- student


def test_the_student_is_a_loadable_qwen2_and_always_the_same(questions, tmp_path):
    from teachwise.engines.hf import HfEngine

    make = module("make_student")
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps({"question": q.question, "options": q.options}) + "\n" for q in questions[::40]))
    assert make.make_student(few, tmp_path / "a") < 500_000
    make.make_student(few, tmp_path / "b")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    engine = HfEngine(str(tmp_path / "a"))
    assert type(engine.model).__name__ == "Qwen2ForCausalLM"
    chat = engine.chat
    assert len(chat.letter_ids("ABCDEFGHIJ")) == 10
    turns = [{"role": "system", "content": "Say."}, {"role": "user", "content": "Which? \u00e9\u4e2d"}]
    asked = (
        "<|im_start|>system\nSay.<|im_end|>\n<|im_start|>user\nWhich? \u00e9\u4e2d<|im_end|>\n<|im_start|>assistant\n"
    )
    (ids,) = chat.prompt_ids([turns])
    assert chat.tokenizer.decode(ids) == asked
    assert chat.tokenizer.decode([chat.end_id]) == "<|im_end|>"
    (written,) = engine.generate([ids], max_new_tokens=3)
    assert 1 <= written.tokens <= 3


# ------------------------------------------------------------------------------------------- the whole script


def test_the_facts(example, shared_data, tmp_path):
    from teachwise.route import route_table
    from teachwise.tasks.table import read_table

    sizes = route_table(str(shared_data / QUESTIONS), "entropy", (0.25, 0.75), tmp_path / "banded.parquet")
    assert sizes == {"easy": 3008, "medium": 6014, "hard": 3008}
    found = example.teacher_by_band(
        read_table(str(tmp_path / "banded.parquet")), read_table(str(shared_data / example.RATIONALES))
    )
    assert [round(band.stored / band.n, 3) for band in found.values()] == [0.786, 0.605, 0.517]
    assert [band.stated for band in found.values()] == [2364, 3625, 1539]
    assert [band.unreadable for band in found.values()] == [19, 118, 116]


def script(*words, env=None):
    command = [sys.executable, str(FOLDER / "run.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})})


def test_without_the_data_the_script_says_so_and_stops_in_peace(tmp_path):
    done = script("--data", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert done.stdout.startswith(f"nothing done: no {QUESTIONS}")
    assert "--data" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def finished(shared_data, tmp_path_factory):
    """The whole script on fewer rows; its output and its run."""
    out = tmp_path_factory.mktemp("mmlu_pro_real")
    limit = "data.limit={train: 32, dev: 8, test: 16}"
    small = [limit, "validate.on_fail=warn", "train.max_length=512", "evaluate.max_new_tokens=4"]
    done = script("--data", shared_data, "--out", out, *small, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Warning" not in done.stderr
    yield done.stdout, Run(out / "run")
    shutil.rmtree(out)


@pytest.mark.slow
def test_the_script_prints_the_facts_before_it_runs(finished):
    output, _ = finished
    for fact in ("0.7093  0.6995 - 0.7191   12,030  0.3620", "easy 3,008  medium 6,014  hard 3,008", "8382"):
        assert fact in output[: output.index("RANDOM weights")]
    assert "32 rationales were replayed over http://127.0.0.1:" in output


@pytest.mark.slow
def test_every_arm_of_the_script_is_real(finished):
    _, run = finished
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    assert Counter(one.split for one in examples) == {"train": 32, "dev": 8, "test": 16}
    stages = {"base": 0, "sft": 1, "distill": 1, "banded": 2, "random": 2}
    bought = {"base": 0, "sft": 0, "distill": 32, "banded": 8, "random": 8}
    for arm in ARMS:
        rationales = run.records(Unit("teach", arm, 0), "rationales.parquet", Rationale)
        assert len(rationales) == bought[arm]
        assert not rationales or any(row.kept and row.text for row in rationales)
        found = sorted(run.folder(Unit("train", arm, 0)).glob("stage-*/adapter_model.safetensors"))
        assert len(found) == stages[arm]
        predictions = run.records(Unit("evaluate", arm, 0), "predictions.parquet", Prediction)
        assert Counter(row.mode for row in predictions) == {"direct": 24, "cot": 24, "routed": 24}


@pytest.mark.slow
def test_the_report_says_that_the_weights_are_random(finished):
    output, run = finished
    page = run.folder(Unit("report")) / "report.html"
    assert str(page) in output
    text = page.read_text(encoding="utf-8")
    assert "weights are random" in text
    for arm in ARMS:
        assert arm in text
    data = json.loads((page.parent / "report.json").read_text())
    assert data["ledger"]["requests"] == {"ok": 32}
    assert [data["comparison"]["arms"][arm]["cost"]["rationales_bought"] for arm in ARMS] == [0, 0, 8, 8, 32]
