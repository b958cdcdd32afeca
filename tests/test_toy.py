"""The toy benchmark, teacher, tokenizer, pre-training and the shipped student."""

import http.client
import json
import threading
import urllib.error
import urllib.request
from importlib.resources import files
from pathlib import Path

import pytest

from teachwise.toy import benchmark, teacher

MESSAGE = "options A 8 B 6 C 2 D 7 E 9 question calc 6 - 1 - 9"
STUDENT = Path(str(files("teachwise.toy"))) / "student"
FIRST_TEST_ITEMS = 86753
DEV_DIRECT_BAND = (0.65, 0.85)
DEV_COT_BAND = (0.62, 0.82)


def chat(question, mode="cot"):
    text = benchmark.user_message(question.question, question.options, mode)
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def questions():
    return {split: benchmark.draw(split, 600, seed=0) for split in benchmark.SPLITS}


# ------------------------------------------------------------------------------------------- benchmark


def test_splits_are_disjoint_and_distinct_even_with_reshuffled_options(questions):
    keys = {split: {(q.question, frozenset(q.options)) for q in drawn} for split, drawn in questions.items()}
    assert not keys["train"] & keys["dev"]
    assert not keys["train"] & keys["test"]
    assert not keys["dev"] & keys["test"]
    for drawn in questions.values():
        assert len({(q.question, q.options) for q in drawn}) == len(drawn)


def test_long_questions_of_different_splits_never_share_their_text(questions):
    long = {split: {q.question for q in drawn if q.steps > 1} for split, drawn in questions.items()}
    assert not long["train"] & (long["dev"] | long["test"])
    assert not long["dev"] & long["test"]


def test_the_answer_is_an_option_and_ends_the_solution(questions):
    for q in (q for drawn in questions.values() for q in drawn):
        assert len(set(q.options)) == benchmark.N_OPTIONS
        assert q.answer in benchmark.LETTERS[: len(q.options)]
        assert q.solution.endswith(f"[[ {q.answer} ]]")
        value = q.options[benchmark.LETTERS.index(q.answer)]
        assert f"so {value} {q.answer} [[" in q.solution


def test_solve_agrees_with_draw_and_needs_the_texts_only(questions):
    for q in questions["test"]:
        assert benchmark.solve(q.question, q.options) == q.solution
        assert benchmark.count_steps(q.question) == q.steps


def test_drawing_is_repeatable_and_a_larger_draw_only_adds():
    assert benchmark.draw("dev", 20, seed=3) == benchmark.draw("dev", 50, seed=3)[:20]
    assert benchmark.draw("dev", 20, seed=3) != benchmark.draw("dev", 20, seed=4)


def test_the_drawn_items_do_not_change_between_versions():
    drawn = [benchmark.user_message(q.question, q.options, "direct") for q in benchmark.draw("test", 50, seed=0)]
    assert benchmark.digest(" ".join(drawn)) % 1_000_003 == FIRST_TEST_ITEMS


def test_answer_letters_are_balanced(questions):
    counts = [sum(q.answer == letter for q in questions["train"]) for letter in "ABCDE"]
    assert min(counts) > 0.15 * 600


def test_all_subjects_and_steps_occur_in_the_stated_shares(questions):
    train = questions["train"]
    assert {q.subject for q in train} == set(benchmark.SUBJECTS)
    assert {q.steps for q in train if q.subject in ("list", "fact")} == {1}
    single = sum(q.steps == 1 for q in train) / len(train)
    assert single == pytest.approx(0.4 + 0.6 * 0.6, abs=0.06)


def test_a_message_can_be_read_back(questions):
    for q in questions["dev"][:50]:
        for mode in benchmark.MODE_WORDS:
            text = benchmark.user_message(q.question, q.options, mode)
            assert benchmark.read_message(text) == (q.question, q.options, mode)
            assert set(text.split()) | set(q.solution.split()) <= set(benchmark.VOCABULARY)


@pytest.mark.parametrize("text", ["", "calc", "calc x + 1", "kin boss of zed", "chess e4", "fact color of atlantis"])
def test_a_text_that_is_no_question_is_refused(text):
    with pytest.raises(ValueError, match="not a question"):
        benchmark.work(text)


def test_an_answer_outside_the_options_is_refused():
    with pytest.raises(ValueError, match="not among the options"):
        benchmark.solve("calc 1 + 1", ("3", "4", "5", "6", "7"))


# --------------------------------------------------------------------------------------------- teacher


@pytest.mark.parametrize(
    ("rates", "low", "high"), [(teacher.DEFAULT_ERROR_RATES, 0.03, 0.07), (teacher.HARD_ERROR_RATES, 0.08, 0.14)]
)
def test_the_teacher_errs_at_about_its_rate(rates, low, high):
    drawn = benchmark.draw("train", 2000, seed=1)
    wrong = [q for q in drawn if teacher.reply(chat(q), error_rates=rates) != q.solution]
    assert low < len(wrong) / len(drawn) < high
    long = [q for q in drawn if q.steps >= 3]
    expected = sum(rates[q.steps] for q in long) / len(long)
    assert sum(q.steps >= 3 for q in wrong) / len(long) == pytest.approx(expected, abs=0.06)


def test_a_wrong_reply_carries_its_wrong_step_on_to_another_option(questions):
    always = dict.fromkeys(range(1, 6), 1.0)
    for q in questions["train"]:
        wrong, right = teacher.reply(chat(q), error_rates=always).split(), q.solution.split()
        assert wrong[-2] in benchmark.LETTERS[: len(q.options)]
        assert wrong[-2] != q.answer
        assert q.options[benchmark.LETTERS.index(wrong[-2])] == wrong[-5]
        assert len(wrong) == len(right)


def test_the_teacher_is_deterministic_and_errs_elsewhere_with_another_seed(questions):
    def wrong(seed):
        return {q.question for q in questions["train"] if teacher.reply(chat(q), seed=seed) != q.solution}

    assert wrong(0) == wrong(0)
    assert wrong(0) != wrong(1)


def test_the_teacher_answers_direct_messages_with_a_letter_that_agrees_with_its_chain(questions):
    for q in questions["train"][:100]:
        letter = teacher.reply(chat(q, "direct"), error_rates=teacher.HARD_ERROR_RATES)
        assert letter == teacher.reply(chat(q, "cot"), error_rates=teacher.HARD_ERROR_RATES).split()[-2]


def test_the_teacher_finds_the_question_among_other_words():
    content = f"Explain your answer step by step.\n\n{MESSAGE} think\n\nEnd with the letter in brackets."
    conversation = [{"role": "system", "content": "You are a teacher."}, {"role": "user", "content": content}]
    assert teacher.reply(conversation, error_rates={}).endswith("so 6 B [[ B ]]")


@pytest.fixture
def server():
    with teacher.serve(error_rates={}) as running:
        yield running


def post(server, body, path="/chat/completions"):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server.base_url + path, raw, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ask_for(content=f"{MESSAGE} think", **more):
    return {"model": "any", "messages": [{"role": "user", "content": content}], **more}


def test_the_server_answers_and_counts_words(server):
    status, body = post(server, ask_for())
    assert status == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "6 - 1 = 5 . 5 - 9 = 6 . so 6 B [[ B ]]"}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 19, "completion_tokens": 18, "total_tokens": 37}
    assert body["id"]
    assert server.n_completions == 1


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_reply_cut_at_its_limit_says_length(server, field):
    _, body = post(server, ask_for(**{field: 7}))
    assert body["choices"][0]["message"]["content"] == "6 - 1 = 5 . 5"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 7
    _, exact = post(server, ask_for(**{field: 18}))
    assert exact["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{not json", None),
        ([], None),
        ({"model": "any"}, "messages"),
        ({"model": "any", "messages": []}, "messages"),
        ({"model": "any", "messages": ["hello"]}, "messages"),
        ({"messages": [{"role": "user", "content": f"{MESSAGE} think"}]}, "model"),
        (ask_for("what is the capital of France ?"), "messages"),
        (ask_for("options A 1 B 2 question calc 3 + 3 think"), "messages"),
        (ask_for("options A 1 B 2 question chess e4 think"), "messages"),
        (ask_for([{"type": "text"}]), "messages"),
        (ask_for(7), "messages"),
        (ask_for(max_tokens=0), "max_tokens"),
        (ask_for(max_tokens="9"), "max_tokens"),
        (ask_for(n=2), "n"),
        (ask_for(stream=True), "stream"),
        (ask_for(seed="x"), "seed"),
    ],
)
def test_malformed_requests_get_an_openai_error(server, body, param):
    status, answer = post(server, body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"]
    assert answer["error"]["param"] == param
    assert server.n_completions == 0


def test_the_server_lists_its_model_and_refuses_other_paths(server):
    with urllib.request.urlopen(f"{server.base_url}/models", timeout=10) as response:
        assert json.load(response)["data"][0]["id"] == teacher.MODEL_NAME
    assert post(server, ask_for(), path="/embeddings")[0] == 404


def test_one_connection_carries_many_requests_and_survives_a_refusal(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    for body, wanted in ((ask_for(), 200), (ask_for("hello"), 400), (ask_for(), 200)):
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        response.read()
        assert response.status == wanted
    connection.close()


def test_many_threads_are_answered_alike(server):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(post(server, ask_for()))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200}
    assert len({body["id"] for _, body in answers}) == 1
    assert server.n_completions == 16


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


def test_the_chat_template_renders_the_pretraining_layout(tokenizer, questions):
    from teachwise.toy.sheets import Sheet

    for q in questions["dev"][:20]:
        for mode, answer in (("direct", q.answer), ("cot", q.solution)):
            user = chat(q, mode)
            sheet = Sheet("layout")
            sheet.read(f"<bos> {benchmark.list_options(q.options)}")
            sheet.read(f"question {q.question} {benchmark.MODE_WORDS[mode]} <assistant>")
            prompt = tokenizer.apply_chat_template(user, add_generation_prompt=True, return_dict=False)
            assert tokenizer.convert_ids_to_tokens(prompt) == sheet.words
            sheet.write(f"{answer} <eos>", [1.0] * (len(answer.split()) + 1))
            full = tokenizer.apply_chat_template(
                [{"role": "system", "content": "be brief"}, *user, {"role": "assistant", "content": answer}],
                return_dict=False,
            )
            assert tokenizer.convert_ids_to_tokens(full) == sheet.words


@pytest.mark.parametrize("kind", ["direct", "think"])
def test_a_sheet_of_one_question_is_a_conversation_from_the_train_split(tokenizer, kind):
    import random

    from teachwise.toy.sheets import exam_sheet

    mode = "direct" if kind == "direct" else "cot"
    for seed in range(50):
        sheet = exam_sheet(random.Random(seed), kind, (0.5, 0.5), (1, 1, 1, 1), n=1)
        cut = sheet.words.index("<assistant>")
        question, options, read_mode = benchmark.read_message(" ".join(sheet.words[1:cut]))
        made = benchmark.make_question(question, options)
        answer = made.answer if kind == "direct" else made.solution
        conversation = [*chat(made, mode), {"role": "assistant", "content": answer}]
        full = tokenizer.apply_chat_template(conversation, return_dict=False)
        assert tokenizer.convert_ids_to_tokens(full) == sheet.words
        assert read_mode == mode
        assert benchmark.split_of(question, options) == "train"
        assert all(weight > 0 for weight in sheet.weights[cut + 1 :])
        assert not any(sheet.weights[: cut + 1])


def test_no_sheet_asks_a_dev_or_test_question():
    import random

    from teachwise.toy.sheets import exam_sheet, value_sheet

    rng = random.Random(0)
    for _ in range(200):
        words = " ".join(exam_sheet(rng, "direct", (0.4, 0.3, 0.3), (1, 1, 1, 1), n=6).words).split(" question ")
        options = tuple(words[0].split()[3::2])
        for part in words[1:]:
            assert benchmark.split_of(part[: part.index(" answer")], options) == "train"
        for part in " ".join(value_sheet(rng, (0.4, 0.6), (1, 1, 1, 1), n=6).words).split(" question ")[1:]:
            question = part[: part.index(" value")].removeprefix("question ")
            if benchmark.split_by_text(question):
                assert benchmark.split_of(question, ()) == "train"


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
        pretrain.main(["--out", str(tmp_path / name), "--steps-scale", "0.002", "--n-dev", "8"])
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


def test_the_shipped_student_answers_dev_questions_as_well_as_stated(student, one_thread):
    from teachwise.toy.exam import evaluate

    figures = evaluate(student, benchmark.draw("dev", 200, seed=0))
    assert DEV_DIRECT_BAND[0] <= figures["direct"] <= DEV_DIRECT_BAND[1]
    assert DEV_COT_BAND[0] <= figures["cot"] <= DEV_COT_BAND[1]
    assert figures["auc"] >= 0.85
