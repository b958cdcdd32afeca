"""The doctor: every way of training wrong without a word is found before the first update, and told with the tokens."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers

from complaint import assert_told, teachwise
from made_records import rationale
from teachwise import train, trainer
from teachwise.chat import Chat
from teachwise.checkup import check_up
from teachwise.doctor import NO_LOSS, Rendered, chosen, examine, examine_stage, marked, typed_marks
from teachwise.errors import DataError, StudentError
from teachwise.lessons import Lesson
from teachwise.probe import PROBE, Reload, reload_of
from teachwise.records import Assignment
from teachwise.run_folder import Unit
from teachwise.tasks import load_task
from teachwise.tasks.toy import Toy
from teachwise.toy.benchmark import draw
from test_chat import CHATML, PHI, byte_tokenizer, word_tokenizer

TASK = load_task("multiple_choice", source="q.csv")
OLD_DATASET = trainer._dataset


@pytest.fixture(scope="module")
def chat():
    return Chat(byte_tokenizer(CHATML))


@pytest.fixture
def rendered(example_with):
    """One sequence as it ought to be, learnt with one chat; fields can be replaced."""

    def build(chat, mode="direct", text="B", **changes):
        example = example_with("e1", row=7, answer="B")
        rows, _ = train.encoded([Lesson("e1", mode, text)], {"e1": example}, TASK, chat, 0, 9999)
        prompt, completion = rows[0].prompt, rows[0].completion
        labels = [NO_LOSS] * len(prompt) + completion
        return replace(Rendered(example, mode, prompt + completion, labels, prompt), **changes)

    return build


def faults(rows, chat):
    """Names of the checks that failed, with what they say."""
    return {found.check: found.fault for found in examine(rows, chat, TASK) if found.fault}


# ------------------------------------------------------------------------------------- sequences, one by one


@pytest.mark.parametrize("template", [CHATML, PHI, None])
def test_a_sound_sequence_passes_every_check_and_is_counted(rendered, template):
    chat = Chat(byte_tokenizer(template))
    rows = [rendered(chat), rendered(chat, "cot", "it is two, so [[B]]")]
    found = examine(rows, chat, TASK)
    assert [one.check for one in found] == ["supervised", "prompt", "stop", "same prompt", "options", "answer"]
    assert [(one.rows, one.fault, one.faulty) for one in found] == [(2, "", ())] * 6
    assert found[0].saw.startswith(f"{sum(len(row.learnt) for row in rows)} of ")


def test_a_sequence_without_loss_is_found(rendered, chat):
    row = rendered(chat)
    found = faults([row, replace(row, labels=[NO_LOSS] * len(row.ids))], chat)
    assert list(found) == ["supervised"]
    assert "row 7: no token carries loss" in found["supervised"]
    assert "(1 of 2 sequences)" in found["supervised"]
    assert "«" not in found["supervised"]


def test_one_token_of_a_prompt_that_carries_loss_is_found_and_shown(rendered, chat):
    row = rendered(chat)
    labels = [*row.labels]
    labels[2] = row.ids[2]
    found = faults([replace(row, labels=labels)], chat)
    assert list(found) == ["prompt"]
    assert "1 tokens of the prompt carry loss" in found["prompt"]
    assert "<|im_start|>s «y» stem" in found["prompt"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_stop_token_that_is_not_learnt_is_found(rendered, chat, is_there):
    """Masked, as where the padding token is the stop token; or not in the sequence at all."""
    row = rendered(chat)
    if is_there:
        row = replace(row, labels=[*row.labels[:-1], NO_LOSS])
    else:
        row = replace(row, ids=row.ids[:-1], labels=row.labels[:-1])
    found = faults([row], chat)
    assert list(found) == ["stop"]
    assert "'<|im_end|>'" in found["stop"]
    assert found["stop"].endswith("«B» <|im_end|>" if is_there else "«B»")


@pytest.mark.parametrize("served", [CHATML.replace("assistant", "model"), "{{ bos_token }}" + CHATML, PHI])
def test_a_prompt_that_is_asked_in_other_tokens_than_it_was_trained_in_is_found(rendered, chat, served):
    other = Chat(byte_tokenizer(served), chat.stop_ids)
    row = rendered(chat)
    found = faults([replace(row, asked=rendered(other).asked)], other)
    assert list(found) == ["same prompt"]
    assert "other tokens than it is asked in: at token" in found["same prompt"]


def test_a_prompt_that_is_asked_with_more_or_less_at_its_end_is_found(rendered, chat):
    row = rendered(chat)
    for asked in (row.asked[:-1], [*row.asked, 9, 9]):
        assert list(faults([replace(row, asked=asked)], chat)) == ["same prompt"]


def test_an_answer_that_was_cut_off_is_found(rendered, chat):
    whole, cut = rendered(chat, "cot", "it is two, so [[B]]"), rendered(chat, "cot", "it is two, so")
    found = faults([whole, cut], chat)
    assert list(found) == ["answer"]
    assert "found None, wanted B" in found["answer"]


def test_an_answer_that_the_tokenizer_cannot_write_is_found(rendered, example_with):
    example = example_with("e1", answer="B")
    words = " ".join(message["content"] for message in TASK.messages(example, "cot")).split()
    template = "{% for m in messages %}{{ m['content'] + ' </s> ' }}{% endfor %}"
    knows = Chat(word_tokenizer([*words, "so", "[[B]]", *"ABC"], template))
    assert faults([rendered(knows, "cot", "so [[B]]")], knows) == {}
    knows_not = Chat(word_tokenizer([*words, "so", *"ABC"], template))
    assert list(faults([rendered(knows_not, "cot", "so [[B]]")], knows_not)) == ["answer"]


def test_a_stop_token_inside_a_rationale_cuts_its_answer_off_when_it_is_served(rendered, chat):
    assert list(faults([rendered(chat, "cot", "it is two <|im_end|> so [[B]]")], chat)) == ["answer"]


def test_option_letters_without_a_token_of_their_own_are_found(rendered, chat):
    template = "{% for m in messages %}{{ m['content'] + ' </s> ' }}{% endfor %}"
    lacks = Chat(word_tokenizer(["A", "B"], template))
    found = faults([rendered(lacks)], lacks)
    assert list(found) == ["options"]
    assert "option letter 'C' is unknown" in found["options"]
    share = byte_tokenizer(CHATML)
    share.backend_tokenizer.normalizer = normalizers.Replace("C", "B")
    found = faults([rendered(Chat(share))], Chat(share))
    assert list(found) == ["options"]
    assert "share tokens" in found["options"]


def test_an_answer_that_is_learnt_as_another_token_than_the_one_that_is_scored_is_found(rendered, chat):
    found = faults([rendered(chat, text=" B")], chat)
    assert list(found) == ["options"]
    assert "not learnt as the token that is scored" in found["options"]


# ------------------------------------------------------------------------------------------ stage, marks, rows


def checks_of(*stage):
    return {found.check: found.fault for found in examine_stage(*stage)}


def test_a_stage_that_trains_no_weight_or_in_other_batches_is_found():
    assert checks_of(10, 16, 16, None) == {"trainable": "", "batch": "", "reload": ""}
    assert "0 weights can be trained" in checks_of(0, 16, 16, None)["trainable"]
    assert checks_of(10, 32, 16, None)["batch"] == "32 sequences make an update, wanted train.batch_size 16"


def test_weights_that_came_back_from_the_disk_as_others_are_found():
    assert checks_of(10, 16, 16, Reload(1.0, 1.0009, 0.001))["reload"] == ""
    for loaded in (1.002, 0.9, float("nan")):
        assert "not the trained ones" in checks_of(10, 16, 16, Reload(1.0, loaded, 0.001))["reload"]


def test_learnt_tokens_stand_in_marks_and_long_stretches_are_shortened(chat):
    ids = chat.tokenizer("ab\n" + "x" * 100 + "y")["input_ids"][1:]
    assert marked(ids[:3], [NO_LOSS, ids[1], NO_LOSS], chat) == "a «b» \\n"
    shown = marked(ids, [NO_LOSS] * 3 + ids[3:], chat)
    assert shown == "ab\\n " + "«x»" * 12 + " ... 77 more ... " + "«x»" * 11 + "«y»"


def test_texts_that_spell_a_special_token_out_are_named_with_it(chat):
    texts = {"plain": "a < b", "typed": "what does <|im_end|> mean?", "unknown": "<|im_middle|>", "two": "<s> </s> <s>"}
    assert typed_marks(texts, chat) == {"typed": ["<|im_end|>"], "two": ["<s>", "</s>"]}
    harmless = byte_tokenizer(CHATML, split_special_tokens=True)
    if harmless("<s>", add_special_tokens=False)["input_ids"] != [0]:
        assert typed_marks(texts, Chat(harmless)) == {}


def test_the_longest_sequences_are_always_among_those_looked_at():
    lengths = [10] * 1000
    lengths[333] = lengths[777] = 99
    numbers = chosen(lengths)
    assert {0, 333, 777, 999} <= set(numbers)
    assert len(numbers) <= 64
    assert numbers == sorted(set(numbers))
    assert chosen([5, 6]) == [0, 1]


# ------------------------------------------------------------------------------- at the start of a training stage


@pytest.fixture(scope="module")
def questions():
    examples = [row.example("train") for row in Toy(limit={"train": 16, "dev": 0, "test": 0}).rows()]
    return examples, [item.solution for item in draw("train", 16, 0)]


@pytest.fixture
def arm(recipe_with, put, questions):
    """Train an arm of 8 answers, then 8 rationales, on the toy student: the run's folder of that unit."""
    examples, solutions = questions
    unit = Unit("train", "banded")

    def go(method="full", change=lambda examples, rationales: (examples, rationales), **section):
        bought = [rationale(e.id, "correct", e.answer, text) for e, text in zip(examples, solutions, strict=True)]
        asked, bought = change(list(examples), bought)
        put(Unit("prepare"), examples=asked)
        given = [
            Assignment(e.id, *(("easy", "answer", 0) if n < 8 else ("hard", "rationale", 1)))
            for n, e in enumerate(asked)
        ]
        put(unit.of("route"), assignments=given)
        put(unit.of("teach"), rationales=bought[8:])
        put.run.begin(unit, "by-hand")
        recipe = recipe_with(
            data={"task": "toy"},
            arms={"banded": {"policy": "bands", "stages": [{"easy": "answer"}, {"hard": "rationale"}]}},
            train={"method": method, "batch_size": 8, "epochs": 1, "lora_r": 4, "learning_rate": 0.01, **section},
        )
        train.train_arm(recipe, put.run, unit)

    go.folder = put.run.folder(unit)
    return go


def seen(folder, stage):
    content = json.loads((folder / f"stage-{stage}.doctor.json").read_text(encoding="utf-8"))
    return {found["check"]: found for found in content["findings"]} | {"typed": content["typed"]}


def assert_stopped(arm, check, said, stage=0, **how):
    """The stage is refused with the check's words, nothing of it is trained, and the run says what was found."""
    with pytest.raises(StudentError) as error:
        arm(**how)
    assert error.value.found.startswith(f"train: banded, stage-{stage}: ")
    assert said in error.value.found
    assert error.value.hint
    assert not (arm.folder / f"stage-{stage}").exists()
    found = seen(arm.folder, stage)[check]
    assert said in found["fault"]
    return error.value.found


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_was_looked_at_stands_beside_every_stage_and_reloaded_weights_are_the_saved_ones(arm, method):
    arm(method)
    for stage in (0, 1):
        found = seen(arm.folder, stage)
        assert {name: one["fault"] for name, one in found.items() if name != "typed" and one["fault"]} == {}
        assert found["answer"]["rows"] == 8
    assert seen(arm.folder, 0)["reload"]["saw"] == "no stage before to load again"
    probe = json.loads((arm.folder / "stage-0" / PROBE).read_text(encoding="utf-8"))
    assert f"loss {probe['loss_nats']:.6f} before saving" in seen(arm.folder, 1)["reload"]["saw"]
    assert 0 < len(probe["rows"]) <= 4


@pytest.mark.slow
def test_rows_that_are_skipped_as_too_long_are_not_looked_at(arm):
    arm(max_length=60)
    looked_at = [seen(arm.folder, stage)["answer"] for stage in (0, 1)]
    assert [one["fault"] for one in looked_at] == ["", ""]
    assert sum(one["rows"] for one in looked_at) < 16


def fed(monkeypatch, change):
    """The rows that reach the trainer are changed on their way: `change` maps ids and labels to others."""

    def dataset(rows):
        return OLD_DATASET(rows).map(lambda one: dict(zip(one, change(one["input_ids"], one["labels"]), strict=True)))

    monkeypatch.setattr(trainer, "_dataset", dataset)


@pytest.mark.slow
def test_a_trainer_that_gives_no_token_loss_is_stopped(arm, monkeypatch):
    fed(monkeypatch, lambda ids, labels: (ids, [-100] * len(ids)))
    assert_stopped(arm, "supervised", "no token carries loss")


@pytest.mark.slow
def test_a_trainer_that_learns_the_prompt_is_stopped(arm, monkeypatch):
    fed(monkeypatch, lambda ids, labels: (ids, ids))
    assert "«<bos>»«options»" in assert_stopped(arm, "prompt", "tokens of the prompt carry loss")


@pytest.mark.slow
def test_a_trainer_that_masks_the_stop_token_as_padding_is_stopped(arm, monkeypatch):
    fed(monkeypatch, lambda ids, labels: (ids, [*labels[:-1], -100]))
    assert "<eos>" in assert_stopped(arm, "stop", "the last token is not learnt")


@pytest.mark.slow
def test_a_beginning_of_text_written_twice_in_training_is_stopped(arm, monkeypatch):
    fed(monkeypatch, lambda ids, labels: (ids[:1] + ids, [-100, *labels]))
    assert "at token 1 training has '<bos>" in assert_stopped(arm, "same prompt", "other tokens than it is asked in")


@pytest.mark.slow
def test_rows_cut_at_a_length_with_the_end_put_back_are_stopped(arm, monkeypatch):
    fed(
        monkeypatch,
        lambda ids, labels: (ids[:-4] + ids[-1:], labels[:-4] + labels[-1:]) if len(ids) > 50 else (ids, labels),
    )
    assert_stopped(arm, "answer", "cannot be read back", stage=1)


@pytest.mark.slow
def test_a_batch_of_another_size_than_the_recipes_is_stopped(arm, monkeypatch):
    whole = train.settings_of
    monkeypatch.setattr(train, "settings_of", lambda *given: replace(whole(*given), micro_batch_size=3))
    assert_stopped(arm, "batch", "6 sequences make an update, wanted train.batch_size 8")


@pytest.fixture
def between(monkeypatch):
    """Something happens to the folder of the first stage once it is trained."""
    whole = trainer.train_stage

    def happens(change):
        def train_stage(student, start, rows, out, *more):
            result = whole(student, start, rows, out, *more)
            if out.name == "stage-0":
                change(out)
            return result

        monkeypatch.setattr(trainer, "train_stage", train_stage)

    return happens


def swell_weights(folder):
    (path,) = folder.glob("*.safetensors")
    save_file({name: weight * 2 for name, weight in load_file(path).items()}, path, metadata={"format": "pt"})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_stage_whose_weights_come_back_as_others_is_stopped(arm, between, method):
    between(swell_weights)
    assert_stopped(arm, "reload", "the saved weights are not the trained ones", stage=1, method=method)


@pytest.mark.slow
def test_a_template_that_changes_between_stages_is_stopped(arm, between):
    def change(folder):
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text(encoding="utf-8").replace("{{ bos_token }}", ""), encoding="utf-8")

    between(change)
    assert_stopped(arm, "same prompt", "other tokens than it is asked in", stage=1)


@pytest.mark.slow
def test_an_adapter_that_is_loaded_frozen_is_stopped(arm, monkeypatch):
    whole = trainer.PeftModel.from_pretrained
    monkeypatch.setattr(
        trainer.PeftModel, "from_pretrained", lambda model, start, is_trainable: whole(model, start, is_trainable=False)
    )
    assert_stopped(arm, "trainable", "0 weights can be trained", stage=1, method="lora")


@pytest.mark.slow
def test_a_question_that_spells_a_special_token_out_is_told_and_trained(arm, capsys):
    def change(examples, rationales):
        return [replace(examples[0], question=f"{examples[0].question} <pad>"), *examples[1:]], rationales

    arm(change=change)
    (name, marks), *others = seen(arm.folder, 0)["typed"].items()
    assert marks == ["<pad>"]
    assert others == []
    assert f"1 rows spell out <pad>, which is taken for the real token: {name}" in " ".join(
        capsys.readouterr().err.split()
    )
    assert seen(arm.folder, 1)["typed"] == {}


@pytest.mark.slow
def test_a_stop_token_typed_in_a_rationale_is_stopped(arm):
    def change(examples, rationales):
        return examples, [replace(one, text=one.text.replace("[[", "<eos> [[")) for one in rationales]

    assert_stopped(arm, "answer", "found None", stage=1, change=change)
    assert list(seen(arm.folder, 1)["typed"].values()) == [["<eos>"]] * 8


def test_a_damaged_probe_is_told(tmp_path):
    assert reload_of(None, None) is None
    assert reload_of(None, tmp_path) is None
    (tmp_path / PROBE).write_text('{"loss_nats": "?"}', encoding="utf-8")
    with pytest.raises(DataError, match="is damaged"):
        reload_of(torch.nn.Linear(1, 1), tmp_path)


# --------------------------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_the_doctor_looks_at_a_recipe_before_anything_is_bought_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, _ = teachwise("doctor", "toy", "data.limit={train: 40, dev: 5, test: 5}")
    assert code == 0
    assert said.startswith("toy, stand-ins for rationales: looked at 40 of 40 sequences\n")
    assert "FAULT" not in said
    assert "«<eos>»" in said
    assert "  cot: <bos> options" in said
    assert "  direct: <bos> options" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_student_without_a_token_for_every_option_ends_the_command_with_2(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = shutil.copytree(trainer.find_model("toy"), tmp_path / "student")
    text = (student / "tokenizer.json").read_text(encoding="utf-8")
    (student / "tokenizer.json").write_text(text.replace('"C"', '"C_"'), encoding="utf-8")
    code, said, err = teachwise("doctor", "toy", f"student={student}", "data.limit={train: 40, dev: 5, test: 5}")
    assert code == 2
    assert_told(err, "toy, stand-ins for rationales: row ", ["option letter 'C' is unknown", "«<eos>»"], "tokenizer")
    assert "FAULT  options" in said


def test_a_recipe_in_which_nothing_is_trained_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = teachwise("doctor", "toy", "arms={base: {policy: none}}", "data.limit={train: 4, dev: 5, test: 5}")
    assert code == 2
    assert_told(err, "toy: no arm trains the student", "", "policy")


@pytest.mark.slow
def test_the_doctor_looks_at_every_stage_of_a_run_and_at_its_saved_weights(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run("lora"), tmp_path / "run")
    places = [found.place for found in check_up(run)]
    stages = [
        f"{arm}, stage-{n}{tail}"
        for arm in ("random", "banded")
        for n, tail in ((0, ""), (1, ""), (1, " as it was saved"))
    ]
    assert places == stages
    swell_weights(run / "train" / "random" / "seed-0" / "round-0" / "stage-1")
    code, said, err = teachwise("doctor", run)
    assert code == 2
    assert_told(err, "random, stage-1 as it was saved: ", "the saved weights are not the trained ones")
    assert "ok     reload" in said
    code, _, err = teachwise("doctor", run, "train.epochs=1")
    assert code == 2
    assert_told(err, str(run), "KEY=VALUE cannot be used with a run")
