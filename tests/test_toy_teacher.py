"""The toy teacher and its server."""

import http.client
import json
import threading
import urllib.error
import urllib.request

import pytest

from teachwise.toy import benchmark
from teachwise.toy.server import MODEL_NAME, serve
from teachwise.toy.teacher import FLAWLESS, USUAL, WEAK, Habits, reply

MESSAGE = "options A 8 B 6 C 2 D 7 E 9 question calc 6 - 1 - 9 is"
ALWAYS_WRONG = Habits(dict.fromkeys(range(1, 6), 1.0))


def chat(question, mode="cot"):
    text = benchmark.user_message(question.question, question.options, mode)
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def questions():
    return benchmark.draw("train", 600, seed=0)


# --------------------------------------------------------------------------------------------- replying


@pytest.mark.parametrize(("habits", "low", "high"), [(USUAL, 0.035, 0.065), (WEAK, 0.20, 0.29)])
def test_the_teacher_errs_at_about_its_rate_and_more_on_longer_chains(habits, low, high):
    drawn = benchmark.draw("train", 2000, seed=1)
    replies = [reply(chat(q), habits=Habits(habits.wrong)).text for q in drawn]
    wrong = {
        steps: [said != q.solution for q, said in zip(drawn, replies, strict=True) if q.steps == steps]
        for steps in range(1, 6)
    }
    assert low < sum(map(sum, wrong.values())) / len(drawn) < high
    for steps, found in wrong.items():
        assert sum(found) / len(found) == pytest.approx(habits.wrong[steps], abs=0.06)
    assert sorted(habits.wrong.values()) == list(habits.wrong.values())


@pytest.mark.parametrize("kind", ["choice", "open"])
def test_a_wrong_reply_carries_its_wrong_step_on_to_another_answer(kind):
    for q in benchmark.draw("train", 400, seed=0, kind=kind):
        wrong, right = reply(chat(q), habits=ALWAYS_WRONG).text.split(), q.solution.split()
        assert wrong[-2] != q.answer
        assert len(wrong) == len(right)
        if q.options:
            assert q.options[benchmark.LETTERS.index(wrong[-2])] == wrong[-5]


def test_the_teacher_is_deterministic_and_errs_elsewhere_with_another_seed(questions):
    def wrong(seed):
        return {q.question for q in questions if reply(chat(q), seed=seed).text != q.solution}

    assert wrong(0) == wrong(0)
    assert wrong(0) != wrong(1)


def test_the_teacher_answers_direct_messages_as_its_chain_ends(questions):
    habits = Habits(WEAK.wrong)
    for q in questions[:100]:
        assert reply(chat(q, "direct"), habits=habits).text == reply(chat(q), habits=habits).text.split()[-2]


def test_some_replies_loop_and_some_break_off_and_none_of_them_concludes(questions):
    habits = Habits(loops=0.1, breaks=0.1)
    replies = [reply(chat(q), habits=habits) for q in questions]
    broken = [one for one in replies if not one.is_whole]
    looping = [one for one in replies if len(one.text.split()) > 200]
    assert len(broken) / len(replies) == pytest.approx(0.1, abs=0.04)
    assert len(looping) / len(replies) == pytest.approx(0.1, abs=0.04)
    assert not any("]]" in one.text for one in broken + looping)
    assert all(one.text == q.solution for one, q in zip(replies, questions, strict=True) if one not in broken + looping)


def test_the_teacher_finds_the_question_among_other_words():
    content = f"Answer this question step by step.\n\n{MESSAGE} think\n\nEnd with the letter in brackets."
    conversation = [{"role": "system", "content": "You are a teacher."}, {"role": "user", "content": content}]
    assert reply(conversation, habits=FLAWLESS).text.endswith("so 6 B [[ B ]]")
    content = "Please solve: question sum 9 + 4 - 2 is think"
    assert reply([{"role": "user", "content": content}], habits=FLAWLESS).text.endswith("so 11 [[ 11 ]]")


# ---------------------------------------------------------------------------------------------- serving


@pytest.fixture
def server():
    with serve(habits=FLAWLESS) as running:
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
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "6 - 1 is 5 . 5 - 9 is 6 . so 6 B [[ B ]]"}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 20, "completion_tokens": 18, "total_tokens": 38}
    assert body["id"]
    assert server.n_completions == 1


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_reply_cut_at_its_limit_says_length(server, field):
    _, body = post(server, ask_for(**{field: 7}))
    assert body["choices"][0]["message"]["content"] == "6 - 1 is 5 . 5"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 7
    _, exact = post(server, ask_for(**{field: 18}))
    assert exact["choices"][0]["finish_reason"] == "stop"


def test_a_reply_that_breaks_off_says_length_and_a_loop_runs_into_the_limit():
    for habits in (Habits(breaks=1.0), Habits(loops=1.0)):
        with serve(habits=habits) as running:
            _, body = post(running, ask_for(max_tokens=40))
        assert body["choices"][0]["finish_reason"] == "length"
        assert "]]" not in body["choices"][0]["message"]["content"]


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
        (ask_for("options A 1 B 2 question calc 3 + 3 is think"), "messages"),
        (ask_for("options A 1 B 2 question chess e4 is think"), "messages"),
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
        assert json.load(response)["data"][0]["id"] == MODEL_NAME
    assert post(server, ask_for(), path="/embeddings")[0] == 404


def test_one_connection_carries_many_requests_and_survives_a_refusal(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    for body, wanted in ((ask_for(), 200), (ask_for("hello"), 400), (ask_for(), 200)):
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        response.read()
        assert response.status == wanted
    connection.close()


def test_each_sample_of_a_question_is_another_one_and_none_at_temperature_0():
    def texts(server, **more):
        replies = [post(server, ask_for(**more)) for _ in range(12)]
        return [body["choices"][0]["message"]["content"] for _, body in replies]

    half = Habits(dict.fromkeys(range(1, 6), 0.5))
    with serve(habits=half) as server, serve(habits=half) as again:
        warm = texts(server, temperature=0.7)
        assert len(set(warm)) > 1
        assert warm == texts(again, temperature=0.7), "the same in every process"
        assert set(texts(server, temperature=0.0)) == set(texts(server)) == {warm[0]}


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
