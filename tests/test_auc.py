"""auc: the paired difference and the AUC within strata against brute force, resampling and what must hold."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from teachwise.auc import auc_difference, auc_within, gini
from teachwise.stats import Interval, roc_auc


def drawn(n=400, seed=0, noise=1.0):
    lot = np.random.default_rng(seed)
    wrong = lot.random(n) < 0.4
    shared = wrong + lot.normal(0, 1, n)
    return shared + lot.normal(0, noise, n), shared + lot.normal(0, noise, n), wrong


def test_the_difference_is_that_of_the_two_aucs():
    a, b, wrong = drawn()
    found = auc_difference(a, b, wrong)
    assert found.value == pytest.approx(roc_auc_score(wrong, a) - roc_auc_score(wrong, b), abs=1e-12)
    assert found.n == 400


def test_its_interval_is_the_one_that_resampling_gives():
    a, b, wrong = drawn()
    lot, found = np.random.default_rng(1), auc_difference(a, b, wrong)
    draws = []
    for _ in range(1000):
        rows = lot.integers(0, len(a), len(a))
        draws.append(roc_auc_score(wrong[rows], a[rows]) - roc_auc_score(wrong[rows], b[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


def test_scores_that_share_their_errors_are_told_apart_more_sharply_than_two_intervals_would():
    a, b, wrong = drawn(noise=0.3)
    paired, alone = auc_difference(a, b, wrong), roc_auc(a, wrong)
    assert paired.high - paired.low < 0.6 * (alone.high - alone.low)


def test_its_interval_covers_no_difference_about_as_often_as_it_says():
    held = [(found := auc_difference(*drawn(150, seed))).low <= 0 <= found.high for seed in range(300)]
    assert 0.91 < np.mean(held) < 0.98


def test_a_score_against_itself_differs_by_nothing_and_against_its_mirror_by_all():
    a, _, wrong = drawn()
    assert auc_difference(a, a * 3 + 1, wrong) == Interval(0.0, 0.0, 0.0, 400)
    value = roc_auc(a, wrong).value
    assert auc_difference(a, -a, wrong).value == pytest.approx(2 * value - 1)


def test_two_perfect_opposites_and_a_class_of_one_do_not_claim_certainty():
    wrong = np.array([False, False, True, True])
    found = auc_difference(np.array([1.0, 2, 3, 4]), np.array([4.0, 3, 2, 1]), wrong)
    assert found.value == 1.0
    assert found.low < 0.5
    found = auc_difference(np.array([1.0, 2, 3]), np.array([1.0, 3, 2]), np.array([False, False, True]))
    assert found.value == 0.5
    assert found.low < 0 < found.high


def test_the_auc_within_strata_is_the_share_of_pairs_inside_them():
    lot = np.random.default_rng(2)
    scores, wrong = lot.integers(0, 6, 120).astype(float), lot.random(120) < 0.4
    strata = lot.integers(0, 5, 120).tolist()
    won = pairs = 0.0
    for i in np.flatnonzero(wrong):
        for j in np.flatnonzero(~wrong):
            if strata[i] == strata[j]:
                pairs += 1
                won += (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
    assert auc_within(scores, wrong, strata).value == pytest.approx(won / pairs, abs=1e-12)


def test_one_stratum_is_the_plain_auc_with_its_interval():
    a, _, wrong = drawn()
    plain, within = roc_auc(a, wrong), auc_within(a, wrong, ["all"] * len(a))
    assert (within.value, within.low, within.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-12)


def test_a_score_that_only_tells_subjects_apart_is_worth_nothing_within_them():
    lot = np.random.default_rng(3)
    subject = lot.integers(0, 2, 600)
    wrong = lot.random(600) < np.where(subject == 1, 0.8, 0.2)
    scores = subject + lot.normal(0, 0.1, 600)
    assert roc_auc(scores, wrong).value > 0.75
    within = auc_within(scores, wrong, subject.tolist())
    assert within.low < 0.5 < within.high


def test_strata_without_both_kinds_count_for_nothing_and_none_is_told():
    scores, wrong = np.arange(6.0), np.array([True, True, False, True, False, False])
    assert auc_within(scores, wrong, ["a", "a", "b", "c", "c", "b"]).n == 2
    assert auc_within(scores, wrong, list("abcdef")) is None


def test_gini_is_twice_the_auc_less_one():
    assert gini(Interval(0.5, 0.25, 0.75, 9)) == Interval(0.0, -0.5, 0.5, 9)


def test_strata_of_a_few_rows_do_not_claim_certainty():
    """Each has one wrong answer that outscores one right one, or not: no variance of its own to speak of."""
    scores = np.array([1.0, 2.0] * 8)
    wrong = np.array([False, True] * 6 + [True, False] * 2)
    found = auc_within(scores, wrong, [n // 2 for n in range(16)])
    assert found.value == 0.75
    assert found.high - found.value == pytest.approx(min(0.25, 1.96 * (0.75 * 0.25 / 8) ** 0.5))
    assert found.value - found.low == pytest.approx(1.96 * (0.75 * 0.25 / 8) ** 0.5, rel=1e-3)
