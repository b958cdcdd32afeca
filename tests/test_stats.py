"""stats: every number against hand computation, brute force, another library or simulation."""

import math
import tracemalloc
from itertools import product

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from teachwise import stats
from teachwise.stats import (
    bootstrap_difference,
    bootstrap_mean,
    mcnemar_exact,
    roc_auc,
    roc_band,
    roc_curve_points,
    wilson,
)

ROWS = st.lists(st.tuples(st.sampled_from([-3.0, 0.0, 0.1, 0.2, 7.0]), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({wrong for _, wrong in rows}) == 2
)


def columns(rows):
    scores, wrong = zip(*rows, strict=True)
    return np.array(scores), np.array(wrong)


def binormal(n_wrong, n_right, shift, rng):
    """Scores of two normal classes whose true AUC is Phi(shift / sqrt 2)."""
    scores = np.concatenate([rng.normal(shift, 1, n_wrong), rng.normal(0, 1, n_right)])
    return scores, np.arange(n_wrong + n_right) < n_wrong


def pair_matrix(scores, wrong):
    """(W, C): 1 where the wrong example outscores the right one, 1/2 where they tie."""
    gaps = scores[wrong][:, None] - scores[~wrong][None, :]
    return (gaps > 0) + 0.5 * (gaps == 0)


# ROC AUC


def test_auc_by_hand():
    scores, wrong = np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, True, False, True])
    found = roc_auc(scores, wrong)  # pairs (2,1) (2,2) (3,1) (3,2): 1 + 1/2 + 1 + 1 of 4
    assert found.value == 0.875
    assert found.n == 4
    # outscored 0.75 and 1, outscoring 1 and 0.75: both variances are 1/32, each over 2 examples, so 1/32 in all
    assert found.low == pytest.approx(0.875 - norm.ppf(0.975) * math.sqrt(1 / 32), rel=1e-12)
    assert found.high == 1.0


@given(ROWS)
def test_auc_is_the_share_of_pairs_and_agrees_with_scikit_learn(rows):
    scores, wrong = columns(rows)
    found = roc_auc(scores, wrong)
    assert found.value == pytest.approx(pair_matrix(scores, wrong).mean(), abs=1e-9)
    assert found.value == pytest.approx(roc_auc_score(wrong, scores), abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_delong_variance_equals_its_definition_over_all_pairs_ties_included():
    rng = np.random.default_rng(0)
    scores, wrong = binormal(37, 61, 0.5, rng)
    for some in (scores, scores.round(1), scores.round(0)):
        pairs = pair_matrix(some, wrong)
        variance = pairs.mean(axis=1).var(ddof=1) / 37 + pairs.mean(axis=0).var(ddof=1) / 61
        found = roc_auc(some, wrong)
        assert found.low == pytest.approx(pairs.mean() - norm.ppf(0.975) * math.sqrt(variance), abs=1e-12)
        assert found.high == pytest.approx(pairs.mean() + norm.ppf(0.975) * math.sqrt(variance), abs=1e-12)


def test_delong_interval_agrees_with_a_bootstrap():
    rng = np.random.default_rng(1)
    scores, wrong = binormal(300, 500, 0.8, rng)
    pairs = pair_matrix(scores, wrong)
    draws = [pairs[np.ix_(rng.integers(0, 300, 300), rng.integers(0, 500, 500))].mean() for _ in range(1_000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    found = roc_auc(scores, wrong)
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.high == pytest.approx(high, abs=0.006)


def test_delong_interval_covers_the_true_auc_19_times_in_20():
    rng = np.random.default_rng(2)
    truth = norm.cdf(0.8 / math.sqrt(2))
    found = [roc_auc(*binormal(60, 90, 0.8, rng)) for _ in range(1_500)]
    assert np.mean([interval.low <= truth <= interval.high for interval in found]) == pytest.approx(0.95, abs=0.02)


@given(ROWS)
def test_auc_turns_round_with_the_scores_and_looks_at_ranks_only(rows):
    scores, wrong = columns(rows)
    found, turned, bent = roc_auc(scores, wrong), roc_auc(-scores, wrong), roc_auc(np.exp(scores), wrong)
    assert turned.value == pytest.approx(1 - found.value, abs=1e-12)
    assert (turned.low, turned.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)
    assert bent == found


def test_auc_does_not_depend_on_row_order():
    rng = np.random.default_rng(3)
    scores, wrong = binormal(40, 70, 1.0, rng)
    order = rng.permutation(110)
    first, second = roc_auc(scores, wrong), roc_auc(scores[order], wrong[order])
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), abs=1e-12)


@pytest.mark.parametrize(
    ("n_wrong", "n_right", "low"), [(5, 5, 0.5655), (5, 900, 0.5655), (1, 50, 0.2065), (2, 2, 0.3424)]
)
def test_perfect_separation_of_a_few_rows_is_not_certainty(n_wrong, n_right, low):
    wrong = np.arange(n_wrong + n_right) < n_wrong
    found = roc_auc(wrong * 1.0, wrong)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(low, abs=1e-4)  # Wilson's low for min(W, C) of min(W, C)


@pytest.mark.parametrize("is_wrong", [True, False])
@pytest.mark.parametrize("outscored", [0, 13, 25, 45, 50])
def test_one_member_of_a_class_gives_the_interval_of_one_trial(is_wrong, outscored):
    """One wrong among fifty right, or one right among fifty wrong: its own luck is all there is to see."""
    scores = np.append(np.arange(50.0), outscored - 0.5)
    wrong = np.append(np.full(50, not is_wrong), is_wrong)
    auc = outscored / 50 if is_wrong else 1 - outscored / 50
    found = roc_auc(scores, wrong)
    assert found.value == pytest.approx(auc, abs=1e-12)
    z2 = norm.ppf(0.975) ** 2
    half = math.sqrt(z2 * (auc * (1 - auc) + z2 / 4))
    assert found.low == pytest.approx(min(auc, (auc + z2 / 2 - half) / (1 + z2)), abs=1e-9)
    assert found.high == pytest.approx(max(auc, (auc + z2 / 2 + half) / (1 + z2)), abs=1e-9)
    assert found.high - found.low > 0.7


def test_a_score_that_is_always_the_same_has_auc_one_half_and_a_width():
    found = roc_auc(np.full(30, 0.1), np.arange(30) < 10)
    assert found.value == 0.5
    assert found.low < 0.3
    assert found.high > 0.7


def test_real_entropy_predicts_wrong_answers_as_published(shared_data):
    table = pq.read_table(shared_data / "mmlu_pro_qwen25_3b_entropy.parquet")
    wrong = ~np.array(table["student_correct"].to_pylist())
    found = roc_auc(table["entropy"].to_numpy(), wrong)
    assert [round(number, 4) for number in (found.value, found.low, found.high)] == [0.7093, 0.6995, 0.7191]
    assert found.n == 12_030
    assert wilson(int((~wrong).sum()), len(wrong)).value == pytest.approx(0.3620, abs=5e-5)


@pytest.mark.parametrize(
    ("scores", "wrong", "message"),
    [
        ([1.0, 2.0], [True, True], "2 of 2 answers are wrong"),
        ([1.0, 2.0], [False, False], "0 of 2 answers are wrong"),
        ([], [], "0 of 0 answers are wrong"),
        ([1.0, float("nan")], [True, False], "1 of 2 scores are NaN"),
        ([1.0, float("inf")], [True, False], "1 of 2 scores are NaN or infinite"),
        ([1.0], [True, False], "wanted \\(N,\\) for both"),
        ([1.0, 2.0], [0, 2], "true and false"),
        ([1.0, 2.0], [0.0, float("nan")], "true and false"),
        ([1.0, 2.0], [None, True], "true and false"),
        ([1.0, 2.0], ["0", "1"], "true and false"),
    ],
)
@pytest.mark.parametrize("function", [roc_auc, roc_curve_points])
def test_rows_without_an_auc_are_refused(function, scores, wrong, message):
    with pytest.raises(ValueError, match=message):
        function(np.array(scores), np.array(wrong) if wrong else np.zeros(0, dtype=bool))


# ROC curve


@given(ROWS)
def test_the_curve_runs_from_corner_to_corner_and_its_area_is_the_auc(rows):
    scores, wrong = columns(rows)
    points = roc_curve_points(scores, wrong)
    x, y = np.array(points).T
    assert points[0] == (0.0, 0.0)
    assert points[-1] == (1.0, 1.0)
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()
    assert len(points) == len(set(scores)) + 1
    assert np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) == pytest.approx(roc_auc(scores, wrong).value, abs=1e-9)


@pytest.mark.parametrize("most", [2, 3, 50, 200])
def test_a_thinned_curve_keeps_its_ends_and_its_shape(most):
    scores, wrong = binormal(3_000, 4_000, 1.0, np.random.default_rng(4))
    every, thinned = roc_curve_points(scores, wrong, 10**6), roc_curve_points(scores, wrong, most)
    assert len(thinned) <= most
    assert (thinned[0], thinned[-1]) == ((0.0, 0.0), (1.0, 1.0))
    assert set(thinned) <= set(every)
    x, y = np.array(thinned).T
    if most >= 50:
        area = np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)
        assert area == pytest.approx(roc_auc(scores, wrong).value, abs=0.001)
        assert np.diff(x + y).max() < 2.2 / most


def test_a_curve_of_one_point_is_refused():
    with pytest.raises(ValueError, match="most is 1"):
        roc_curve_points(np.array([1.0, 2.0]), np.array([True, False]), most=1)


# The band around the ROC curve


def test_the_band_holds_the_curve_and_narrows_with_more_examples():
    rng = np.random.default_rng(3)
    widths = []
    for n in (40, 4000):
        scores, wrong = binormal(n, n, 1.0, rng)
        band = np.array(roc_band(scores, wrong))
        x, y = np.array(roc_curve_points(scores, wrong, most=10**6)).T
        curve = np.interp(band[:, 0], x, y)
        assert (band[:, 1] <= curve + 1e-12).all()
        assert (band[:, 2] >= curve - 1e-12).all()
        widths.append((band[:, 2] - band[:, 1])[1:-1].mean())
    assert widths[1] < widths[0] / 5


@pytest.mark.parametrize("at", [20, 60])
def test_the_band_covers_the_true_curve_at_a_point_about_as_often_as_it_says(at):
    rng, hits, runs = np.random.default_rng(4), 0, 150
    true = norm.cdf(1.0 + norm.ppf(at / 100))
    for _ in range(runs):
        _, low, high = roc_band(*binormal(60, 90, 1.0, rng), draws=200)[at]
        hits += low <= true <= high
    assert 0.92 <= hits / runs <= 0.995


def test_the_band_claims_no_certainty_from_a_handful_that_are_all_caught():
    band = roc_band(np.arange(40.0), np.arange(40) > 35)
    assert band[0][1] < 0.6
    assert band[50][1:] == (pytest.approx(wilson(4, 4).low), 1.0)
    assert band[-1] == (1.0, 1.0, 1.0)


def test_the_band_repeats_exactly_and_wants_both_classes():
    scores, wrong = binormal(30, 50, 0.5, np.random.default_rng(5))
    assert roc_band(scores, wrong) == roc_band(scores, wrong)
    assert roc_band(scores, wrong) != roc_band(scores, wrong, seed=1)
    with pytest.raises(ValueError, match="some wrong and some right"):
        roc_band(scores, np.zeros(80, dtype=bool))


# Shares


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 10), (10, 10), (8, 10), (3, 7), (4_355, 12_030), (1, 10**6)])
def test_wilson_agrees_with_scipy(k, n):
    wanted = binomtest(k, n).proportion_ci(method="wilson")
    found = wilson(k, n)
    assert (found.value, found.n) == (k / n, n)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_wilson_is_exactly_0_or_1_at_the_ends():
    assert all(wilson(0, n).low == 0.0 and wilson(n, n).high == 1.0 for n in range(1, 500))


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_no_share_is_refused(k, n):
    with pytest.raises(ValueError, match="is no share"):
        wilson(k, n)


# McNemar


def arms(only_a, only_b, both, neither):
    a = [1] * only_a + [0] * only_b + [1] * both + [0] * neither
    b = [0] * only_a + [1] * only_b + [1] * both + [0] * neither
    return np.array(a, dtype=bool), np.array(b, dtype=bool)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (3, 0), (6, 1), (9, 3), (5, 5), (40, 20)])
def test_mcnemar_is_the_two_sided_binomial_tail_of_the_questions_that_differ(only_a, only_b):
    found = mcnemar_exact(*arms(only_a, only_b, both=11, neither=7))
    m, most = only_a + only_b, max(only_a, only_b)
    tail = sum(math.comb(m, i) for i in range(most, m + 1)) / 2**m
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p == pytest.approx(min(1.0, 2 * tail), abs=1e-12)


def test_mcnemar_counts_all_small_cases():
    for a, b in product(product([False, True], repeat=4), repeat=2):
        found = mcnemar_exact(np.array(a), np.array(b))
        assert found.only_a == sum(x and not y for x, y in zip(a, b, strict=True))
        assert found.only_b == sum(y and not x for x, y in zip(a, b, strict=True))


def test_arms_that_never_differ_have_p_1():
    assert mcnemar_exact(*arms(0, 0, both=5, neither=2)).p == 1.0


def test_mcnemar_is_level_a_chance_p_below_5_percent_comes_at_most_5_percent_of_the_time():
    rng = np.random.default_rng(5)
    ps = [mcnemar_exact(rng.random(60) < 0.5, rng.random(60) < 0.5).p for _ in range(600)]
    assert 0.01 < np.mean(np.array(ps) < 0.05) <= 0.06


@pytest.mark.parametrize(("a", "b"), [([True], [True, False]), ([], []), ([0, 2], [0, 1]), ([[True]], [[True]])])
def test_answers_that_cannot_be_paired_are_refused(a, b):
    with pytest.raises(ValueError, match="wanted"):
        mcnemar_exact(np.array(a), np.array(b))


# Bootstrap


def test_bootstrap_of_one_seed_is_the_interval_of_a_share():
    correct = np.arange(2_000) < 700
    found, wanted = bootstrap_mean(correct[None]), wilson(700, 2_000)
    assert (found.value, found.n) == (0.35, 2_000)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.003)


def test_bootstrap_is_deterministic_and_its_seed_matters():
    values = np.random.default_rng(6).random((3, 50))
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


@pytest.mark.parametrize("cells", [1, 1_000, 77_777])
def test_bootstrap_does_not_depend_on_the_chunks_it_is_drawn_in(cells, monkeypatch):
    values = np.random.default_rng(7).random((3, 501)) < 0.4
    whole = bootstrap_mean(values)
    monkeypatch.setattr(stats, "_CELLS", cells)
    assert bootstrap_mean(values) == whole


def test_bootstrap_means_equal_a_draw_by_draw_resampling_of_rows_and_columns():
    values = np.random.default_rng(8).normal(size=(4, 30)) + np.arange(4)[:, None]
    rng = np.random.default_rng(9)
    slow = [values[np.ix_(rng.integers(0, 4, 4), rng.integers(0, 30, 30))].mean() for _ in range(20_000)]
    fast = stats._resampled_means(values, seed=0, draws=20_000)
    assert fast.mean() == pytest.approx(np.mean(slow), abs=0.02)
    assert fast.std() == pytest.approx(np.std(slow), rel=0.03)
    np.testing.assert_allclose(np.quantile(fast, [0.025, 0.975]), np.quantile(slow, [0.025, 0.975]), atol=0.05)


def test_fault_single_seed_intervals_seeds_that_differ_widen_the_interval():
    luck = np.array([-0.1, 0.0, 0.1])[:, None]
    values = np.random.default_rng(10).random((1, 4_000)) + luck
    crossed, cells_alone = bootstrap_mean(values), bootstrap_mean(values.reshape(1, -1))
    assert crossed.high - crossed.low > 5 * (cells_alone.high - cells_alone.low)
    assert crossed.n == 4_000


def test_seeds_that_agree_do_not_multiply_the_questions():
    values = np.random.default_rng(11).random((1, 500)) < 0.5
    one, five = bootstrap_mean(values), bootstrap_mean(np.repeat(values, 5, axis=0))
    assert five.value == one.value
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.1)


def test_bootstrap_covers_the_true_mean_over_questions_and_seeds():
    rng = np.random.default_rng(12)
    hits = []
    for _ in range(300):
        cells = rng.normal(size=(1, 80)) + 0.1 * rng.normal(size=(6, 1)) + 0.5 * rng.normal(size=(6, 80))
        found = bootstrap_mean(cells, draws=400)
        hits.append(found.low <= 0 <= found.high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.035)


def test_twelve_thousand_questions_and_five_seeds_need_little_memory():
    values = np.random.default_rng(13).random((5, 12_000)) < 0.4
    tracemalloc.start()
    bootstrap_mean(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * 2**20


def test_difference_is_paired_over_questions():
    rng = np.random.default_rng(14)
    hard = rng.random(2_000)
    a, b = (hard < 0.53)[None], (hard < 0.5)[None]
    paired = bootstrap_difference(a, b)
    moved = bootstrap_difference(a, rng.permutation(b, axis=1))
    assert paired.value == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    assert paired.value == pytest.approx(moved.value, abs=1e-12)
    assert paired.low > 0 > moved.low
    assert paired.n == 2_000


def test_difference_is_paired_over_seeds():
    rng = np.random.default_rng(15)
    luck = np.array([[-0.3], [0.0], [0.3]])
    a, b = rng.random((3, 400)) + luck + 0.1, rng.random((3, 400)) + luck
    paired, crossed = bootstrap_difference(a, b), bootstrap_difference(a, b[[2, 0, 1]])
    assert paired.low > 0 > crossed.low


def test_an_arm_without_seeds_meets_every_seed_of_the_other():
    rng = np.random.default_rng(16)
    arm, base = rng.random((3, 200)) < 0.6, rng.random((1, 200)) < 0.5
    found = bootstrap_difference(arm, base)
    assert found == bootstrap_difference(arm, np.repeat(base, 3, axis=0))
    assert found.value == pytest.approx(arm.mean() - base.mean(), abs=1e-12)
    turned = bootstrap_difference(base, arm)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-12)


def test_one_question_has_no_width():
    found = bootstrap_mean(np.array([[True]]))
    assert (found.value, found.low, found.high, found.n) == (1.0, 1.0, 1.0, 1)


@pytest.mark.parametrize(
    "bad", [np.zeros(5), np.zeros((0, 5)), np.zeros((2, 0)), np.zeros((1, 2, 3)), np.array([[np.nan]])]
)
def test_tables_without_a_mean_are_refused(bad):
    with pytest.raises(ValueError, match="values h"):
        bootstrap_mean(bad)


def test_no_draws_are_refused():
    with pytest.raises(ValueError, match="draws is 0"):
        bootstrap_mean(np.ones((1, 3)), draws=0)


@pytest.mark.parametrize(("a", "b"), [((1, 5), (1, 6)), ((2, 5), (3, 5)), ((3, 1), (3, 5))])
def test_tables_that_cannot_be_paired_are_refused(a, b):
    with pytest.raises(ValueError, match="wanted pairs"):
        bootstrap_difference(np.zeros(a), np.zeros(b))


def test_two_arms_that_never_differ_are_not_known_to_be_equal():
    same = np.ones((1, 100), dtype=bool)
    gap = bootstrap_difference(same, same)
    assert gap.value == 0
    assert gap.high == pytest.approx(1 - 0.05 ** (1 / 100))
    assert gap.low == -gap.high
