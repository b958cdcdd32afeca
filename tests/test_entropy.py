"""entropy: hand-computed values, exactness at the sure end, and refusal of logits that are no logits."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from teachwise.entropy import answer_entropy, top_k_entropy

LOGITS = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.floats(-350, 350))


def exact_entropy(row) -> float:
    """Entropy by its definition, in decimals long enough to tell 1 from 1 - exp(-700)."""
    with localcontext() as context:
        context.prec = 340
        weights = [Decimal(float(logit)).exp() for logit in row if logit != -math.inf]
        total = sum(weights)
        return float(-sum(w / total * (w / total).ln() for w in weights))


def test_hand_computed_values():
    probabilities = np.array([[0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1]])
    by_hand = [1.75 * math.log(2), 2 * math.log(2), -0.7 * math.log(0.7) - 0.3 * math.log(0.1)]
    np.testing.assert_allclose(answer_entropy(np.log(probabilities)), by_hand, rtol=1e-14)


def test_it_is_in_nats_and_uniform_gives_ln_v():
    assert answer_entropy(np.zeros((1, 151_936)))[0] == pytest.approx(math.log(151_936), abs=1e-12)


@pytest.mark.parametrize("gap", [1, 10, 25, 36, 37, 40, 60, 100, 300, 700])
def test_a_sure_student_keeps_every_digit(gap):
    row = np.array([0.0, -gap, -gap - 1.5, -gap - 1.5])
    found = answer_entropy(row[None])[0]
    assert found > 0
    assert found == pytest.approx(exact_entropy(row), rel=1e-13, abs=0)


def test_sure_students_are_still_ranked():
    gaps = np.arange(5.0, 700.0, 5.0)
    found = answer_entropy(np.stack([np.zeros_like(gaps), -gaps], axis=1))
    assert (np.diff(found) < 0).all()


def test_many_unlikely_tokens_stay_exact_at_vocabulary_size():
    vocabulary = 100_000
    row = np.full(vocabulary, -45.0)
    row[77] = 0.0
    rest = (vocabulary - 1) * math.exp(-45.0)
    assert answer_entropy(row[None])[0] == pytest.approx(math.log1p(rest) + 45 * rest / (1 + rest), rel=1e-12)


@settings(max_examples=50)
@given(LOGITS)
def test_matches_the_definition_and_never_leaves_its_range(logits):
    found = answer_entropy(logits)
    assert found.dtype == np.float64
    assert found.shape == (len(logits),)
    assert (found >= 0).all()
    assert (found <= math.log(logits.shape[1]) + 1e-12).all()
    np.testing.assert_allclose(found, [exact_entropy(row) for row in logits], rtol=1e-12, atol=0)


@given(LOGITS, st.floats(-1e3, 1e3), st.randoms(use_true_random=False))
def test_a_shift_of_all_logits_or_another_token_order_changes_nothing(logits, shift, random):
    columns = list(range(logits.shape[1]))
    random.shuffle(columns)
    np.testing.assert_allclose(answer_entropy(logits + shift), answer_entropy(logits), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(answer_entropy(logits[:, columns]), answer_entropy(logits), rtol=1e-12, atol=0)


def test_rows_do_not_touch_one_another():
    logits = np.random.default_rng(0).normal(0, 4, (16, 500))
    np.testing.assert_array_equal(answer_entropy(logits), [answer_entropy(row[None])[0] for row in logits])


def test_impossible_tokens_add_nothing():
    some = np.array([[1.0, 2.0, 3.0]])
    masked = np.array([[-np.inf, 1.0, -np.inf, 2.0, 3.0]])
    assert answer_entropy(masked)[0] == pytest.approx(answer_entropy(some)[0], rel=1e-15)
    assert answer_entropy(np.array([[-np.inf, 4.0]])).tolist() == [0.0]
    assert answer_entropy(np.array([[1.7e308, -1.7e308]])).tolist() == [0.0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_other_dtypes_are_computed_in_float64(dtype):
    logits = np.array([[0, -15, -16]], dtype=dtype)
    np.testing.assert_array_equal(answer_entropy(logits), answer_entropy(logits.astype(np.float64)))


def test_the_input_is_left_as_it_was():
    logits = np.array([[0.0, -1.0, -np.inf]])
    before = logits.copy()
    answer_entropy(logits)
    np.testing.assert_array_equal(logits, before)


def test_no_rows_give_no_entropies():
    assert answer_entropy(np.zeros((0, 5))).shape == (0,)


@pytest.mark.parametrize("bad", [[np.nan, 0.0], [0.0, np.nan], [np.inf, 0.0], [-np.inf, -np.inf], [-np.inf, np.nan]])
def test_logits_that_are_none_are_refused_and_named(bad):
    with pytest.raises(ValueError, match=r"row 1 of the logits .*1 of 3 rows"):
        answer_entropy(np.array([[0.0, 1.0], bad, [2.0, 3.0]]))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="wanted \\(B, V\\)"):
        answer_entropy(np.zeros(shape))


# what the likeliest tokens alone can say


@given(arrays(np.float64, st.integers(3, 40), elements=st.floats(-30, 30)), st.integers(1, 20))
def test_the_bounds_of_the_likeliest_tokens_hold_the_entropy(logits, k):
    k = min(k, len(logits))
    logprobs = np.sort(logits - np.logaddexp.reduce(logits))[::-1]
    exact = answer_entropy(logits[None])[0]
    found = top_k_entropy(logprobs[:k].tolist(), len(logits))
    assert found.low - 1e-9 <= exact <= found.high + 1e-9
    assert found.value <= found.low
    assert found.unseen_mass == pytest.approx(np.exp(logprobs[k:]).sum(), abs=1e-12)
    assert found.k == k


def test_the_bounds_are_reached():
    even = top_k_entropy([math.log(0.5), math.log(0.1)], 6)  # 0.4 left for four tokens, 0.1 each at most
    assert even.low == pytest.approx(even.high)
    assert even.high == pytest.approx(-0.5 * math.log(0.5) - 5 * 0.1 * math.log(0.1))
    wide = top_k_entropy([math.log(0.5), math.log(0.2)], 102)  # the rest is 0.2 and 0.1, or a hundred times 0.003
    assert wide.low == pytest.approx(-0.5 * math.log(0.5) - 2 * 0.2 * math.log(0.2) - 0.1 * math.log(0.1))
    assert wide.high == pytest.approx(-0.5 * math.log(0.5) - 0.2 * math.log(0.2) - 0.3 * math.log(0.003))
    assert wide.is_truncated


def test_the_whole_vocabulary_leaves_nothing_unseen_and_rounding_is_no_mass():
    found = top_k_entropy([math.log(0.75), math.log(0.25)], 2)
    assert (found.low, found.is_truncated, found.unseen_mass) == (found.high, False, 0.0)
    assert top_k_entropy([1e-7, -30.0], 50_000).high < 1e-6
    lost = top_k_entropy([math.log(0.9), -math.inf], 100)
    assert lost.low == lost.high == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1 / 98))


@pytest.mark.parametrize("bad", [[], [math.nan], [0.5, -1.0], [-1.0, -2.0, -3.0]])
def test_what_are_no_logprobs_are_refused(bad):
    with pytest.raises(ValueError, match="wanted 1 to 2"):
        top_k_entropy(bad, 2)
