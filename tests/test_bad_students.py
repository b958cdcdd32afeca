"""A student that is not there, is damaged or cannot do what is asked: one line, a hint, and no result half written."""

import errno
import json

import pytest
import torch
from safetensors import SafetensorError
from transformers import LlamaConfig, LlamaForCausalLM

from complaint import as_jsonl, assert_told, content_of, questions, teachwise, write_recipe
from teachwise.engines.hf import load_chat
from teachwise.errors import StudentError
from test_engine_hf import SHAPE, saved

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A tiny model with random weights, and what its files held when they were whole."""
    folder = tmp_path_factory.mktemp("student")
    torch.manual_seed(0)
    saved(LlamaForCausalLM(LlamaConfig(**SHAPE)), folder)
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def whole(student):
    """The student's folder; whatever a test does to it is undone."""
    folder, files = student
    yield folder
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def gone(name):
    return lambda folder: (folder / name).unlink()


def holding(name, content):
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def with_fields(name, **fields):
    def change(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **fields}))

    return change


def without_the_letter(folder):
    content = json.loads((folder / TOKENIZER).read_text())
    content["model"]["vocab"].pop("B")
    (folder / TOKENIZER).write_text(json.dumps(content))


def without_end(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("eos_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").unlink()


def not_numbers(folder):
    from safetensors.torch import load_file, save_file

    weights = {name: tensor * float("nan") for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


TEMPLATE = "chat_template.jinja"
MODEL = "model '{}' "
FIT = "its config.json and its weights do not go together"
STUDENT_CASES = {
    "no weights": (gone(WEIGHTS), MODEL, "no file named model.safetensors", "check the name or folder"),
    "weights that are cut off": (cut(WEIGHTS), MODEL, "cannot be loaded: Error while deserializing", "check the name"),
    "empty weights": (holding(WEIGHTS, b""), MODEL, "cannot be loaded: Error while deserializing", "check the name"),
    "a pointer for weights": (
        holding(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"),
        MODEL,
        "header",
        "check",
    ),
    "no config": (gone(CONFIG), MODEL, "cannot be loaded: Unrecognized model", "check the name"),
    "half a config": (holding(CONFIG, '{"model_type": '), MODEL, "is not a valid JSON file", "check the name"),
    "an unknown architecture": (with_fields(CONFIG, model_type="llama99"), MODEL, "llama99", "check the name"),
    "another kind of model": (with_fields(CONFIG, model_type="t5"), MODEL, "cannot be loaded: Unrecognized", "check"),
    "more layers than weights": (
        with_fields(CONFIG, num_hidden_layers=4),
        MODEL,
        "of its weights",
        "download it again",
    ),
    "another size": (with_fields(CONFIG, vocab_size=999), MODEL, FIT, "download it again"),
    "impossible heads": (with_fields(CONFIG, num_attention_heads=7), MODEL, FIT, "download it again"),
    "a word for a size": (with_fields(CONFIG, hidden_size="many"), MODEL, FIT, "download it again"),
    "no tokenizer": (gone(TOKENIZER), "tokenizer of '{}' cannot be loaded", "", "tokenizer.json"),
    "half a tokenizer": (cut(TOKENIZER), "tokenizer of '{}' cannot be loaded", "", "tokenizer.json"),
    "a letter that is unknown": (without_the_letter, "{}: option letter 'B' is unknown", "", "vocabulary"),
    "no end of text": (without_end, "{}: the tokenizer has no end-of-text token", "", "eos_token"),
    "a broken template": (holding(TEMPLATE, "{% for m in messages %}"), "{}: its chat template cannot", "", TEMPLATE),
    "a template that refuses": (
        holding(TEMPLATE, "{{ raise_exception('no') }}"),
        "{}: its chat template",
        "no",
        TEMPLATE,
    ),
    "a template for others": (holding(TEMPLATE, "{{ messages[0].x.y }}"), "{}: its chat template cannot", "", TEMPLATE),
    "a template that says nothing": (
        holding(TEMPLATE, "Hello!"),
        "{}: its chat template leaves the messages out",
        "",
        "",
    ),
    "weights that are no numbers": (
        not_numbers,
        "AnswerEvidence ",
        "entropy_nats is nan, wanted a finite number",
        "dtype",
    ),
}


def test_a_hub_name_without_a_network_is_not_told_to_be_a_folder(monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files")

    monkeypatch.setattr("teachwise.engines.hf.AutoTokenizer.from_pretrained", offline)
    with pytest.raises(StudentError, match="tokenizer of 'someone/model' cannot be loaded") as refused:
        load_chat("someone/model")
    assert "needs the network or a filled cache" in refused.value.hint
    assert "folder" not in refused.value.hint


@pytest.mark.parametrize("name", STUDENT_CASES)
def test_a_student_that_cannot_be_used_is_named_and_nothing_is_written(tmp_path, whole, name):
    damage, place, said, hint = STUDENT_CASES[name]
    damage(whole)
    (tmp_path / "q.jsonl").write_text(as_jsonl(questions(6)))
    before = content_of(tmp_path), content_of(whole)
    words = ("score", tmp_path / "q.jsonl", "--student", whole, "--out", tmp_path / "scored.jsonl")
    code, out, err = teachwise(*words)
    assert (code, out) == (2, "")
    assert_told(err, place.format(whole), said, hint)
    assert (content_of(tmp_path), content_of(whole)) == before


WORKING = {
    "no chat template": gone(TEMPLATE),
    "no padding token": with_fields("tokenizer_config.json", pad_token=None),
    "broken generation settings": holding("generation_config.json", "{"),
}


@pytest.mark.parametrize("name", WORKING)
def test_a_student_that_lacks_what_can_be_done_without_just_works(tmp_path, whole, name):
    WORKING[name](whole)
    (tmp_path / "q.jsonl").write_text(as_jsonl(questions(6)))
    words = ("score", tmp_path / "q.jsonl", "--student", whole, "--out", tmp_path / "scored.jsonl")
    code, out, _ = teachwise(*words)
    assert (code, out) == (0, f"6 questions scored, 0 rows unusable -> {tmp_path / 'scored.jsonl'}\n")


NAMES = {
    "TMP/gone": ("model 'TMP/gone': there is no such folder", "or a hub name owner/name"),
    "./gone": ("model './gone': there is no such folder", "or a hub name owner/name"),
    "TMP/q.jsonl": ("model 'TMP/q.jsonl': is a file, wanted the folder of a model", "config.json"),
    "TMP": ("model 'TMP' cannot be loaded: Unrecognized model", "check the name"),
    "nobody/nothing": ("model 'nobody/nothing' cannot be loaded", "needs the network or a filled cache"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_student_that_is_not_there_is_named(tmp_path, name):
    place, hint = NAMES[name]
    (tmp_path / "q.jsonl").write_text(as_jsonl(questions(6)))
    words = ("--student", name.replace("TMP", str(tmp_path)), "--out", tmp_path / "scored.jsonl")
    code, out, err = teachwise("score", tmp_path / "q.jsonl", *words)
    assert (code, out) == (2, "")
    assert_told(err, place.replace("TMP", str(tmp_path)), "", hint)
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


@pytest.mark.parametrize("device", ["cuda:63", "xpu", "hpu"])
def test_a_device_that_this_machine_lacks_is_named(tmp_path, whole, device):
    recipe = write_recipe(tmp_path)
    words = (f"student={{model: {whole}, device: '{device}'}}", "score={measure: answer_entropy}")
    code, _, err = teachwise("score", recipe, "--out", tmp_path / "run", *words)
    assert code == 2
    assert_told(err, f"student.device '{device}' cannot be used here: ", "", "student.device=auto")


SCORE_CASES = {
    "no rows to score": (
        questions(6, options=["one"]),
        "scored.jsonl",
        "TMP/q.jsonl: none of 6 rows can be used; row 0: ",
    ),
    "scored before": (questions(6, student_answer="A"), "scored.jsonl", "TMP/q.jsonl: has a column 'student_answer'"),
    "a kind that cannot be written": (questions(6), "scored.xlsx", "TMP/scored.xlsx: unknown kind '.xlsx' to write"),
    "no suffix": (questions(6), "scored", "TMP/scored: unknown kind '' to write"),
}


@pytest.mark.parametrize("name", SCORE_CASES)
def test_what_cannot_end_well_is_told_before_the_student_is_loaded(tmp_path, monkeypatch, name):
    rows, out_file, place = SCORE_CASES[name]
    monkeypatch.setattr("teachwise.engines.hf.load_model", lambda *_: pytest.fail("the student was loaded"))
    (tmp_path / "q.jsonl").write_text(as_jsonl(rows))
    code, out, err = teachwise("score", tmp_path / "q.jsonl", "--student", "toy", "--out", tmp_path / out_file)
    assert (code, out) == (2, "")
    assert_told(err, place.replace("TMP", str(tmp_path)), "")
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


@pytest.mark.parametrize(
    ("raised", "number"),
    [
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 10 vs 9"), errno.ENOSPC),
        (SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"), errno.EACCES),
    ],
)
def test_weights_that_cannot_be_written_are_told_as_what_the_system_refused(tmp_path, raised, number):
    from teachwise.errors import refusal
    from teachwise.trainer import _refusals_told

    with pytest.raises(OSError, match=str(tmp_path)) as caught, _refusals_told(tmp_path):
        raise raised
    assert caught.value.errno == number
    assert str(refusal(caught.value)).startswith(f"{tmp_path}: ")
    with pytest.raises(RuntimeError, match="ours"), _refusals_told(tmp_path):
        raise RuntimeError("ours")
