"""The local teacher: replies as `generate` writes them, each with its own settings, joining and leaving as they end."""

import signal
import subprocess
import sys
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch
from transformers import BloomConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from teachwise.engines.hf import HfEngine
from teachwise.engines.local import LocalTeacher
from teachwise.engines.rolling import RollingBatch, Row, StaticBatch, _write, cannot_roll
from teachwise.errors import TeacherError
from teachwise.request import Request
from teachwise.teacher.engine import load_teacher
from teachwise.toy.benchmark import draw, user_message
from test_engine_hf import CONFIGS, N_VOCABULARY, SHAPE, counting_model, saved, texts

SECONDS = 20
"""No reply takes so long; a test that waits for one in vain fails instead of hanging."""
PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def request(words, max_tokens=4, temperature=0.0, sample=0):
    return Request("big", ({"role": "user", "content": words},), max_tokens, temperature, "1", sample)


@pytest.fixture
def teacher_of():
    """Loads local teachers, closed at the end: `teacher_of(folder, concurrency=2)`."""
    opened = []

    def load(model, **options):
        opened.append(LocalTeacher(model, **options))
        return opened[-1]

    yield load
    for one in opened:
        one.close()


def endless(folder):
    """A model that writes w1 w2 w1 w2 ... and whose context has no end in sight; after w9 it ends its turn."""
    shape = {**SHAPE, "hidden_size": N_VOCABULARY, "num_hidden_layers": 1, "max_position_embeddings": 10**9}
    model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
    model.load_state_dict(counting_model({4: 5, 5: 4, 12: 0}).state_dict())
    return saved(model, folder, PLAIN)


ENDLESS = 10**8


def replies_to(teacher, requests):
    futures = [teacher.ask(one) for one in requests]
    return [future.result(SECONDS) for future in futures]


def widths(teacher):
    """The number of rows of every pass of the model, as they come."""
    found = []
    teacher.engine.model.register_forward_pre_hook(
        lambda _, __, given: found.append(len(given["input_ids"])), with_kwargs=True
    )
    return found


# ------------------------------------------------------------------------------------- as `generate` writes


def test_greedy_replies_are_those_of_generate_token_for_token(teacher_of):
    drawn = draw("train", 64, 0, "choice")
    asked = [({"role": "user", "content": user_message(one.question, one.options, "cot")},) for one in drawn]
    limits = [60 if n % 3 else 5 + n % 9 for n in range(64)]
    teacher = teacher_of("toy", concurrency=6)
    seen = widths(teacher)
    found = replies_to(teacher, [Request("toy", m, most, 0.0, "1") for m, most in zip(asked, limits, strict=True)])
    engine = HfEngine("toy")
    prompts = engine.chat.prompt_ids(asked)
    assert len({len(prompt) for prompt in prompts}) > 8, "wanted prompts of unlike length"
    for prompt, most, reply in zip(prompts, limits, found, strict=True):
        (wanted,) = engine.generate([prompt], most)
        assert (reply.text, reply.completion_tokens) == (wanted.text, wanted.tokens)
        assert reply.finish_reason == ("length" if wanted.is_truncated else "stop")
        assert (reply.prompt_tokens, reply.error) == (len(prompt), None)
    assert max(seen) == 6
    assert len(seen) < sum(reply.completion_tokens for reply in found) / 3


@pytest.fixture(scope="module", params=CONFIGS)
def engine(request, tmp_path_factory):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    return HfEngine(saved(model, tmp_path_factory.mktemp(request.param)))


def test_rows_that_join_and_leave_write_what_they_write_alone(engine):
    random = np.random.default_rng(0)
    prompts = [random.integers(3, N_VOCABULARY, size).tolist() for size in (1, 40, 3, 22, 7, 30, 2)]
    limits = [30, 6, 40, 12, 3, 20, 50]
    waiting = [Row(prompt, most) for prompt, most in zip(prompts, limits, strict=True)]
    batch, found, n_joined = RollingBatch(engine), {}, 0
    while waiting or batch.rows:
        if waiting and len(batch.rows) < 3:
            n_joined += bool(batch.rows)
            batch.join([waiting.pop(0)])
        found |= {tuple(row.prompt): generation for row, generation in batch.step()}
    assert n_joined >= 4
    for prompt, most in zip(prompts, limits, strict=True):
        assert [found[tuple(prompt)]] == engine.generate([prompt], most)


def test_families_with_plain_caches_can_roll_and_others_say_why_not(engine):
    assert cannot_roll(engine.model) == ""
    with torch.device("meta"):
        chunked = AutoModelForCausalLM.from_config(_config("llama4_text", attention_chunk_size=16))
        mixed = AutoModelForCausalLM.from_config(_config("lfm2", layer_types=["conv", "full_attention"]))
        drifting = LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=_rope("dynamic")))
        bloom = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=N_VOCABULARY, hidden_size=32, n_layer=1))
    assert "chunks" in cannot_roll(chunked)
    assert "more than keys and values" in cannot_roll(mixed)
    assert "length of the batch" in cannot_roll(drifting)
    assert "position_ids" in cannot_roll(bloom)


def _config(name, **more):
    from transformers import AutoConfig

    return AutoConfig.for_model(name, **{**SHAPE, **more})


def _rope(kind):
    return {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}


def test_a_model_that_cannot_roll_answers_in_batches_and_says_so(teacher_of, tmp_path, capsys):
    torch.manual_seed(1)
    config = BloomConfig(vocab_size=N_VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.35)
    folder = saved(AutoModelForCausalLM.from_config(config), tmp_path, PLAIN)
    teacher = teacher_of(folder, concurrency=4)
    assert isinstance(teacher._batch, StaticBatch)
    assert "a batch is written to the end before the next one (its forward takes no position_ids)" in " ".join(
        capsys.readouterr().err.split()
    )
    asked = [request(" ".join(["w3", "w7", "w1"][: 1 + n % 3]), max_tokens=3 + n % 2) for n in range(10)]
    for one, reply in zip(asked, replies_to(teacher, asked), strict=True):
        (wanted,) = teacher.engine.generate(teacher.engine.chat.prompt_ids([one.messages]), one.max_tokens)
        assert (reply.text, reply.completion_tokens) == (wanted.text, wanted.tokens)


# ----------------------------------------------------------------------------------- each with its own settings


def test_requests_side_by_side_keep_their_own_limits_and_ends(teacher_of, tmp_path):
    teacher = teacher_of(saved(counting_model({9: 0}), tmp_path, PLAIN), concurrency=3)
    asked = [request("w5", 4), request("w30", 7), request("w4", 40), request("w31", 1), request("w3 w5", 2)]
    first, second, third, fourth, fifth = replies_to(teacher, asked)
    assert (first.text, first.finish_reason, first.prompt_tokens, first.completion_tokens) == ("w6", "stop", 1, 2)
    assert (second.text, second.finish_reason, second.completion_tokens) == (texts(*range(34, 41)), "length", 7)
    assert (third.text, third.finish_reason, third.completion_tokens) == ("w5 w6", "stop", 3)
    assert (fourth.text, fourth.finish_reason, fourth.completion_tokens) == ("w32", "length", 1)
    assert (fifth.finish_reason, fifth.prompt_tokens, fifth.completion_tokens) == ("stop", 2, 2)


def test_a_short_request_joins_a_long_one_and_does_not_wait_for_its_end(teacher_of, tmp_path):
    teacher = teacher_of(endless(tmp_path), concurrency=2)
    long = teacher.ask(request("w1", ENDLESS))
    for _ in range(3):
        assert teacher.ask(request("w7", 50)).result(SECONDS).text == "w8 w9"
    assert not long.done()


def test_a_sampled_reply_depends_on_its_request_alone(teacher_of, tmp_path):
    folder = saved(counting_model({}), tmp_path, PLAIN)
    hot = [request("w3 w4", 12, 20.0, sample) for sample in range(6)]
    cold = [request(f"w{n}", 3 + n, 0.0) for n in range(12)]
    (alone,) = replies_to(teacher_of(folder, concurrency=1), [request("w3 w4", 12, 20.0)])
    together = replies_to(teacher_of(folder, concurrency=5), [*cold[:6], *hot[::-1], *cold[6:]])
    again = together[6:12][::-1]
    assert again[0] == alone
    assert len({reply.text for reply in again}) == 6, "samples of one prompt differ"
    assert [together[0], together[17]] == replies_to(teacher_of(folder, concurrency=2), [cold[0], cold[11]])


def test_draws_follow_the_probabilities_at_their_temperature():
    logits = torch.tensor([[0.0, -1e9, 1.0, 2.0, -3.0]])
    for temperature in (0.5, 1.0, 3.0):
        rows = [Row((), 1, temperature, f"seed {n}") for n in range(4000)]
        _write(logits.expand(4000, -1), rows)
        shares = np.bincount([row.written[0] for row in rows], minlength=5) / 4000
        np.testing.assert_allclose(shares, torch.softmax(logits[0] / temperature, -1).numpy(), atol=0.03)
        assert shares[1] == 0


def test_a_greedy_row_takes_the_likeliest_beside_sampled_ones():
    rows = [Row((), 1, temperature, f"seed {n}") for n in range(50) for temperature in (0.0, 5.0)]
    _write(torch.tensor([[0.0, 0.1, 0.2, 0.1]]).expand(100, -1), rows)
    assert {row.written[0] for row in rows[::2]} == {2}
    assert {row.written[0] for row in rows[1::2]} == {0, 1, 2, 3}


# ------------------------------------------------------------------------------------------ what goes wrong


def test_a_prompt_beyond_the_context_is_a_reply_that_says_so(teacher_of, tmp_path):
    teacher = teacher_of(saved(counting_model({}), tmp_path, PLAIN), concurrency=2)
    long, empty, full, fits = replies_to(
        teacher, [request("w5 " * 128), request(""), request("w5 " * 120, 50), request("w5", 1)]
    )
    assert long.error == "the prompt has 128 tokens, the model's context 128"
    assert (long.text, long.prompt_tokens, long.completion_tokens) == ("", 0, 0)
    assert "the prompt has 0 tokens" in empty.error
    assert (full.finish_reason, full.completion_tokens, full.error) == ("length", 8, None)
    assert fits.text == "w6"


def failing(teacher, monkeypatch, is_too_much):
    forward = teacher.engine.model.forward

    def refuse(*args, **given):
        if is_too_much(len(given["input_ids"])):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(*args, **given)

    monkeypatch.setattr(teacher.engine.model, "forward", refuse)


def test_what_is_too_much_side_by_side_is_written_one_by_one(teacher_of, tmp_path, monkeypatch, capsys):
    teacher = teacher_of(saved(counting_model({}), tmp_path, PLAIN), concurrency=4)
    failing(teacher, monkeypatch, lambda n: n > 1)
    found = replies_to(teacher, [request(f"w{n}") for n in range(9)])
    assert [reply.text for reply in found] == [texts(*range(n + 4, n + 8)) for n in range(9)]
    assert "written again, one by one" in " ".join(capsys.readouterr().err.split())


def test_a_failing_model_ends_every_request_in_a_reply_that_names_the_error(teacher_of, tmp_path, monkeypatch):
    teacher = teacher_of(saved(counting_model({}), tmp_path, PLAIN), concurrency=4)
    failing(teacher, monkeypatch, lambda n: True)
    for reply in replies_to(teacher, [request(f"w{n}") for n in range(9)]):
        assert "OutOfMemoryError: CUDA out of memory" in reply.error
        assert "lower teacher.concurrency" in reply.error
        assert reply.finish_reason == "error"


def test_closing_ends_the_thread_and_cancels_what_is_under_way_and_what_waits(teacher_of, tmp_path):
    teacher = teacher_of(endless(tmp_path), concurrency=2)
    is_writing = threading.Event()
    teacher.engine.model.register_forward_hook(lambda *_: is_writing.set())
    futures = [teacher.ask(request("w1", ENDLESS)) for _ in range(5)]
    assert is_writing.wait(SECONDS)
    assert teacher._thread.daemon, "a thread that is not keeps the process alive after Ctrl-C"
    teacher.close()
    assert not teacher._thread.is_alive()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(SECONDS)
    with pytest.raises(RuntimeError, match="closed"):
        teacher.ask(request("w1"))


def test_an_idle_teacher_can_be_closed_twice(teacher_of, tmp_path):
    teacher = teacher_of(saved(counting_model({}), tmp_path, PLAIN))
    teacher.close()
    teacher.close()
    assert not teacher._thread.is_alive()


INTERRUPTED = """
import threading
from teachwise.engines.local import LocalTeacher
from teachwise.request import Request

teacher, is_writing = LocalTeacher({folder!r}), threading.Event()
teacher.engine.model.register_forward_hook(lambda *_: is_writing.set())
teacher.ask(Request("big", ({{"role": "user", "content": "w1"}},), 10**8, 0.0, "1"))
is_writing.wait({seconds})
raise KeyboardInterrupt
"""


@pytest.mark.slow
def test_a_process_that_is_interrupted_ends_although_a_text_is_being_written(tmp_path):
    code = INTERRUPTED.format(folder=endless(tmp_path), seconds=SECONDS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=6 * SECONDS)
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt", "nothing after it, such as the abort of a thread"
    assert done.returncode in (130, -signal.SIGINT)


def test_a_cancelled_request_makes_room(teacher_of, tmp_path):
    teacher = teacher_of(endless(tmp_path), concurrency=1)
    is_writing = threading.Event()
    teacher.engine.model.register_forward_hook(lambda *_: is_writing.set())
    long, waiting = teacher.ask(request("w1", ENDLESS)), teacher.ask(request("w7", 50))
    assert is_writing.wait(SECONDS)
    assert long.cancel()
    assert waiting.result(SECONDS).text == "w8 w9"


# ------------------------------------------------------------------------------------------------- loading


def test_a_recipes_fields_reach_the_model(tmp_path):
    folder = saved(counting_model({}), tmp_path, PLAIN)
    section = {"model": folder, "base_url": None, "key_env": None, "max_tokens": 9, "temperature": 0.0}
    local = {"revision": None, "dtype": "bfloat16", "device": "cpu", "trust_remote_code": False, "concurrency": 3}
    teacher = load_teacher("hf", **section, **local)
    assert (teacher.concurrency, teacher.engine.device) == (3, "cpu")
    assert teacher.engine.model.dtype == torch.bfloat16
    assert teacher.ask(request("w5")).result(SECONDS).text == "w6 w7 w8 w9"
    teacher.close()


@pytest.mark.parametrize(("options", "said"), [({"device": "cuda:99"}, "teacher.device 'cuda:99'"), ({}, "no-such")])
def test_a_teacher_that_cannot_be_loaded_is_named_as_the_teacher(options, said):
    with pytest.raises(TeacherError, match=said) as error:
        LocalTeacher("nobody/no-such-model", **options)
    assert "student" not in str(error.value)
    assert error.value.hint
