"""The toy benchmark, tokenizer, pre-training and the shipped students."""

import json
import random
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from teachwise.toy import benchmark, working, world

STUDENT = Path(str(files("teachwise.toy"))) / "student"
FIRST_TEST_ITEMS = 139224


def chat(question, mode="cot"):
    text = benchmark.user_message(question.question, question.options, mode)
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def questions():
    return {split: benchmark.draw(split, 600, seed=0) for split in benchmark.SPLITS}


@pytest.fixture(scope="module")
def sums():
    return benchmark.draw("test", 200, seed=0, kind="open")


# ------------------------------------------------------------------------------------------- benchmark


def test_no_two_questions_share_a_stem_within_a_split_or_across(questions, sums):
    stems = [q.question for drawn in (*questions.values(), sums) for q in drawn]
    assert len(set(stems)) == len(stems)


def test_two_thousand_test_questions_keep_the_stated_shares():
    drawn = benchmark.draw("test", 2000, seed=0)
    assert len({q.question for q in drawn}) == 2000
    shares = Counter((q.subject, q.steps) for q in drawn)
    for (subject, steps), share in benchmark.CHOICE_CELLS.items():
        assert shares[subject, steps] / 2000 == pytest.approx(share, rel=0.35)
    assert {len(q.options) for q in drawn} == set(range(4, 11))
    assert sum(q.steps >= 3 for q in drawn) / 2000 == pytest.approx(0.44, abs=0.04)


def test_the_answer_is_an_option_and_ends_the_solution(questions):
    for q in (q for drawn in questions.values() for q in drawn):
        assert len(set(q.options)) == len(q.options)
        assert q.answer in benchmark.LETTERS[: len(q.options)]
        assert q.solution.endswith(f"[[ {q.answer} ]]")
        value = q.options[benchmark.LETTERS.index(q.answer)]
        assert f"so {value} {q.answer} [[" in q.solution


def test_open_questions_have_a_number_for_an_answer(sums):
    assert {q.subject for q in sums} == {benchmark.OPEN_SUBJECT}
    for q in sums:
        first, *changes = q.question.split()[1:]
        total = int(first) + sum(int(f"{sign}{n}") for sign, n in zip(changes[::2], changes[1::2], strict=True))
        assert q.answer == str(total)
        assert q.options == ()
        assert q.steps == len(changes) // 2
        assert q.solution.endswith(f"so {q.answer} [[ {q.answer} ]]")


def test_solve_agrees_with_draw_and_needs_the_texts_only(questions):
    for q in questions["test"]:
        assert benchmark.solve(q.question, q.options) == q.solution
        assert benchmark.count_steps(q.question) == q.steps


@pytest.mark.parametrize(
    ("question", "value"),
    [
        ("calc 7 * 8 + 9 - 6", "9"),
        ("clock 11h + 3 - 4", "10h"),
        ("list second of 4 9 1 7", "9"),
        ("list min of 4 9 1 7", "1"),
        ("mix red with blue with gold", "gold"),
        ("sum 9 + 8 - 3", "14"),
    ],
)
def test_questions_are_worked_out_right(question, value):
    assert working.work(question).value == value


def test_a_law_that_forgets_answers_a_chain_from_its_last_step():
    long = [q for q in benchmark.draw("train", 2000, seed=0) if q.steps >= 3]
    told = [q for q in long if q.subject == "mix" and q.question.endswith(" gold")]
    assert told
    assert {q.options[benchmark.LETTERS.index(q.answer)] for q in told} == {"gold"}
    zero = [q for q in long if q.question.endswith(" * 0")]
    assert {q.options[benchmark.LETTERS.index(q.answer)] for q in zero} == {"0"}


def test_everybody_has_one_of_each_kin_and_one_of_three_captains():
    for relation, whose in world.KIN.items():
        others = set(whose.values())
        assert len(others) == (3 if relation == "captain" else len(world.PEOPLE))
        assert relation == "captain" or all(person != other for person, other in whose.items())


def test_drawing_is_repeatable_and_a_larger_draw_only_adds():
    assert benchmark.draw("dev", 20, seed=3) == benchmark.draw("dev", 50, seed=3)[:20]
    assert benchmark.draw("dev", 20, seed=3) != benchmark.draw("dev", 20, seed=4)
    with pytest.raises(ValueError, match="unknown split"):
        benchmark.draw("exam", 1, seed=0)


def test_the_drawn_items_do_not_change_between_versions():
    drawn = [benchmark.user_message(q.question, q.options, "direct") for q in benchmark.draw("test", 50, seed=0)]
    assert world.digest(" ".join(drawn)) % 1_000_003 == FIRST_TEST_ITEMS


def test_answers_stand_in_every_place_alike(questions):
    ten = [q for q in benchmark.draw("train", 2000, seed=0) if len(q.options) == 10]
    counts = [sum(q.answer == letter for q in ten) for letter in benchmark.LETTERS]
    assert min(counts) > 0.05 * len(ten)


def test_a_message_can_be_read_back(questions, sums):
    for q in (*questions["dev"][:50], *sums[:10]):
        for mode in benchmark.MODE_WORDS:
            text = benchmark.user_message(q.question, q.options, mode)
            assert benchmark.read_message(text) == (q.question, q.options, mode)
            assert set(text.split()) | set(q.solution.split()) <= set(world.VOCABULARY)


@pytest.mark.parametrize(
    "text", ["", "think", "options A 3 C 4 question calc 1 + 2 is answer", "options question x is answer"]
)
def test_a_text_that_is_no_message_is_refused(text):
    with pytest.raises(ValueError, match="toy message"):
        benchmark.read_message(text)


@pytest.mark.parametrize(
    "text", ["", "calc", "calc x + 1", "clock 13h + 1", "kin boss of zed", "mix red with mud", "chess e4", "sum 20 + 9"]
)
def test_a_text_that_is_no_question_is_refused(text):
    with pytest.raises(ValueError, match="not a question"):
        working.work(text)


def test_an_answer_outside_the_options_is_refused():
    with pytest.raises(ValueError, match="not among the options"):
        working.solve("calc 1 + 1", ("3", "4", "5", "6", "7"))


# ------------------------------------------------------------------------------ tokenizer and sheets


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("transformers")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(STUDENT)


def test_the_shipped_tokenizer_is_the_one_that_the_code_builds(tokenizer):
    from teachwise.toy.tokenizer import build_tokenizer, token_ids

    assert tokenizer.get_vocab() == build_tokenizer().get_vocab() == token_ids()
    assert tokenizer.chat_template == build_tokenizer().chat_template


def test_letters_are_one_token_with_or_without_a_space(tokenizer):
    for letter in benchmark.LETTERS:
        ids = tokenizer.encode(letter, add_special_tokens=False)
        assert len(ids) == 1
        assert ids == tokenizer.encode(f" {letter}", add_special_tokens=False) == tokenizer.encode(letter)
        assert ids[0] != tokenizer.unk_token_id


def test_texts_survive_a_round_trip(tokenizer, questions):
    for q in questions["test"][:50]:
        text = f"{benchmark.user_message(q.question, q.options, 'cot')} {q.solution}"
        ids = tokenizer.encode(text)
        assert len(ids) == len(text.split())
        assert tokenizer.decode(ids) == text


def test_unknown_words_become_unk(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("calc zebra")) == ["calc", "<unk>"]


def test_the_chat_template_renders_the_pretraining_layout(tokenizer, questions, sums):
    from teachwise.toy.sheets import Sheet

    for q in (*questions["dev"][:20], *sums[:5]):
        for mode, answer in (("direct", q.answer), ("cot", q.solution)):
            user = chat(q, mode)
            sheet = Sheet("layout")
            sheet.read(f"<bos> {benchmark.list_options(q.options)}" if q.options else "<bos>")
            sheet.read(f"question {q.question} is {benchmark.MODE_WORDS[mode]} <assistant>")
            prompt = tokenizer.apply_chat_template(user, add_generation_prompt=True, return_dict=False)
            assert tokenizer.convert_ids_to_tokens(prompt) == sheet.words
            sheet.write(f"{answer} <eos>", [1.0] * (len(answer.split()) + 1))
            full = tokenizer.apply_chat_template(
                [{"role": "system", "content": "be brief"}, *user, {"role": "assistant", "content": answer}],
                return_dict=False,
            )
            assert tokenizer.convert_ids_to_tokens(full) == sheet.words


@pytest.mark.parametrize("kind", ["direct", "think"])
def test_a_sheet_of_one_question_is_a_conversation_from_the_practised_split(tokenizer, kind):
    from teachwise.toy.sheets import exam_sheet

    mode = "direct" if kind == "direct" else "cot"
    for seed in range(50):
        sheet = exam_sheet(random.Random(seed), kind, (0.5, 0.5), (1, 1, 1, 1, 1, 1), n=1)
        cut = sheet.words.index("<assistant>")
        question, options, read_mode = benchmark.read_message(" ".join(sheet.words[1:cut]))
        made = benchmark.make_question(question, options)
        answer = made.answer if kind == "direct" else made.solution
        conversation = [*chat(made, mode), {"role": "assistant", "content": answer}]
        full = tokenizer.apply_chat_template(conversation, return_dict=False)
        assert tokenizer.convert_ids_to_tokens(full) == sheet.words
        assert read_mode == mode
        assert benchmark.split_of(question) == "practice"
        assert all(weight > 0 for weight in sheet.weights[cut + 1 :])
        assert not any(sheet.weights[: cut + 1])


def test_pre_training_never_asks_a_stem_of_train_dev_or_test():
    from teachwise.toy.pretrain import PHASES, draw_batches

    kinds, asked = set(), 0
    for phase in PHASES:
        batches = draw_batches(random.Random(phase.name), phase)
        for sheet in (sheet for _ in range(40) for sheet in next(batches)):
            kinds.add(sheet.kind)
            for part in " ".join(sheet.words).split(" question ")[1:]:
                stem = part.split(" <assistant>")[0].rsplit(" is ", 1)[0]
                if not stem.startswith("so "):
                    assert benchmark.split_of(stem) == "practice"
                    asked += 1
    assert kinds == {"lookup", "facts", "value", "direct", "think"}
    assert asked > 1000


def test_a_list_of_facts_states_single_steps_of_every_split_and_asks_nothing():
    from teachwise.toy.sheets import facts_sheet

    sheet = facts_sheet(random.Random(0), n=300)
    assert "question" not in sheet.words
    facts = " ".join(sheet.words[2:]).removesuffix(" .").split(" . ")
    products = [fact.split(" is ") for fact in facts if " * " in fact]
    assert {benchmark.split_of(f"calc {product}") for product, _ in products} == set(benchmark.SPLITS)
    assert all(working.work(f"calc {product}").value == value for product, value in products)
    assert sum(sheet.weights) == 300


# ------------------------------------------------------------------------- pre-training and the student


@pytest.fixture
def one_thread():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_smoke_pretraining_runs_and_repeats_itself(tmp_path, one_thread):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from teachwise.toy import pretrain

    for name in ("one", "two"):
        pretrain.main(["--out", str(tmp_path / name), "--steps-scale", "0.002", "--n-dev", "8", "--size", "half"])
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {path.name for path in STUDENT.iterdir()}
    assert json.loads((tmp_path / "one" / "pretrain.json").read_text())["dev"]["n"] == 8


@pytest.fixture(scope="module")
def student():
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32).eval()


def test_the_shipped_student_is_small_and_knows_when_to_stop(student, tokenizer):
    assert sum(path.stat().st_size for path in STUDENT.iterdir()) < 5_000_000
    assert student.generation_config.eos_token_id == tokenizer.eos_token_id
    assert student.generation_config.pad_token_id == tokenizer.pad_token_id
    assert not student.generation_config.do_sample


def test_the_shipped_student_answers_dev_questions_as_its_card_says(student, one_thread):
    from teachwise.toy.exam import evaluate

    stated = json.loads((STUDENT / "pretrain.json").read_text())["dev"]
    figures = evaluate(student, benchmark.draw("dev", stated["n"], seed=0))
    for name in ("direct", "cot", "auc"):
        assert figures[name] == pytest.approx(stated[name], abs=0.01)
    row = f"| all | {stated['n']} | {stated['chance']:.2f} | {stated['direct']:.2f} | {stated['cot']:.2f} |"
    assert row in (STUDENT / "README.md").read_text()
