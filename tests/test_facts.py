"""facts: what is kept of the logits is exact where the student is sure, and the same whatever batch a row stood in."""

import math

import mpmath
import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from teachwise import entropy
from teachwise.engines.facts import IMPOSSIBLE, answer_entropy, answer_facts
from teachwise.engines.hf import HfEngine
from test_chat import word_tokenizer
from test_engine_hf import EXTREME, SHAPE, saved

mpmath.mp.dps = 200


def exact(row):
    """Probabilities and entropy of a row in two hundred digits."""
    weights = [mpmath.exp(mpmath.mpf(float(one))) if one != -math.inf else mpmath.mpf(0) for one in row]
    total = mpmath.fsum(weights)
    shares = [one / total for one in weights]
    return shares, -mpmath.fsum(p * mpmath.log(p) for p in shares if p)


@pytest.mark.parametrize("row", EXTREME, ids=str)
def test_both_entropies_are_exact_at_extreme_logits(row):
    expected = float(exact(row)[1])
    assert entropy.answer_entropy(np.array([row]))[0] == pytest.approx(expected, rel=1e-13, abs=0)
    assert answer_entropy(torch.tensor([row], dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("gap", [5, 15, 20.7, 21, 25, 30, 60])
def test_entropies_down_to_a_billionth_of_a_nat_and_below_keep_their_digits_in_float32(gap):
    row = np.array([0.0, *([-gap] * 3), *np.linspace(-gap - 1, -gap - 9, 200)], dtype=np.float32)
    shares, expected = exact(row)
    (facts,) = answer_facts(torch.tensor(row)[None], [[[0], [1], [2]]], [1])
    assert facts.entropy_nats == pytest.approx(float(expected), rel=1e-5, abs=0)
    assert -math.expm1(facts.top_logprob) == pytest.approx(float(1 - shares[0]), rel=1e-5, abs=0)
    assert facts.outside_mass == pytest.approx(float(mpmath.fsum(shares[3:])), rel=1e-5, abs=0)
    assert facts.gold_nats == pytest.approx(float(-mpmath.log(shares[1])), rel=1e-6)


def test_facts_of_a_row_are_those_computed_by_hand():
    probabilities = [0.5, 0.2, 0.1, 0.1, 0.06, 0.04]
    logits = torch.tensor([probabilities]).log() + 7
    (facts,) = answer_facts(logits, [[[0, 3], [1], [2]]], [1])
    assert facts.token_id == 0
    assert facts.logsumexp == pytest.approx(7, abs=1e-5)
    assert math.exp(facts.top_logprob) == pytest.approx(0.5)
    assert math.exp(facts.second_logprob) == pytest.approx(0.2)
    assert [math.exp(one) for one in facts.letter_logprobs] == pytest.approx([0.5, 0.2, 0.1])
    assert [math.exp(one) for one in facts.option_logprobs] == pytest.approx([0.6, 0.2, 0.1])
    assert facts.outside_mass == pytest.approx(0.1)
    assert facts.gold_nats == pytest.approx(-math.log(0.2))
    assert facts.entropy_nats == pytest.approx(-sum(p * math.log(p) for p in probabilities))


def test_all_mass_is_outside_where_the_likeliest_token_is_no_option():
    (facts,) = answer_facts(torch.tensor([[20.0, 0.0, 0.0]]), [[[1], [2]]], [2])
    assert facts.outside_mass == pytest.approx(1 - 2 / (math.exp(20) + 2))


def test_an_open_question_has_no_options_and_all_mass_outside():
    (facts,) = answer_facts(torch.tensor([[1.0, 2.0]]), [[]], [0])
    assert (facts.letter_logprobs, facts.option_logprobs) == ((), ())
    assert facts.outside_mass == 1.0
    assert facts.gold_nats == pytest.approx(math.log1p(math.e))


def test_a_token_that_cannot_come_is_no_infinity():
    (facts,) = answer_facts(torch.tensor([[0.0, -math.inf, -1e30]]), [[[0], [1]]], [2])
    assert facts.letter_logprobs[1] == facts.option_logprobs[1] == IMPOSSIBLE
    assert facts.second_logprob == IMPOSSIBLE
    assert facts.gold_nats == -IMPOSSIBLE
    assert (facts.entropy_nats, facts.outside_mass) == (0.0, 0.0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("facts")
    saved(Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)), folder)
    return HfEngine(str(folder))


PROMPTS = [[5 + (3 * i + j) % 30 for j in range(4 + 9 * i % 31)] for i in range(12)]


def flat(facts):
    ends = (facts.top_logprob, facts.second_logprob, facts.outside_mass, facts.gold_nats)
    return [facts.entropy_nats, facts.logsumexp, *ends, *facts.letter_logprobs, *facts.option_logprobs]


def test_batch_size_and_padding_change_no_fact_beyond_a_ten_thousandth(engine):
    options = engine.chat.option_ids("ABC")
    alone = [engine.answer_facts([prompt], [options], [options[1][0]])[0] for prompt in PROMPTS]
    for size in (2, 5, 12):
        together = []
        for start in range(0, 12, size):
            some = PROMPTS[start : start + size]
            together += engine.answer_facts(some, [options] * len(some), [options[1][0]] * len(some))
        for one, other in zip(alone, together, strict=True):
            assert flat(one) == pytest.approx(flat(other), abs=1e-4)
            assert one.token_id == other.token_id


def test_padding_on_the_right_gives_the_same_facts_as_padding_on_the_left(engine):
    options, pad = engine.chat.option_ids("ABC"), engine.chat.pad_id
    longest = max(map(len, PROMPTS))
    ids = torch.tensor([[*prompt, *[pad] * (longest - len(prompt))] for prompt in PROMPTS])
    mask = torch.tensor([[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in PROMPTS])
    with torch.no_grad():
        logits = engine.model(input_ids=ids, attention_mask=mask).logits.float()
    last = torch.stack([logits[row, len(prompt) - 1] for row, prompt in enumerate(PROMPTS)])
    right = answer_facts(last, [options] * 12, [options[1][0]] * 12)
    left = engine.answer_facts(PROMPTS, [options] * 12, [options[1][0]] * 12)
    for one, other in zip(left, right, strict=True):
        assert flat(one) == pytest.approx(flat(other), abs=1e-4)


def test_the_spellings_of_an_option_are_its_own_single_tokens_its_letter_first():
    from teachwise.chat import Chat

    tokenizer = word_tokenizer(["w1", *"ABab"])
    chat = Chat(tokenizer)
    ids = tokenizer.convert_tokens_to_ids(["A", "a", "B", "b"])
    assert chat.option_ids("AB") == [ids[:2], ids[2:]]
    assert chat.gold_id("B") == ids[2]
