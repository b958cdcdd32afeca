"""calibration: against scikit-learn's isotonic regression, and what must hold of a good and of a useless score."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from teachwise.calibration import Calibration, _fitted, calibration


def test_the_fit_is_scikit_learns():
    lot = np.random.default_rng(0)
    seen, asked = lot.integers(0, 30, 200) / 3.0, lot.random(100) * 14 - 2
    outcomes = (lot.random(200) < seen / 10).astype(float)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(seen, outcomes).predict(asked)
    np.testing.assert_allclose(_fitted(seen, outcomes, asked), theirs, atol=1e-12)


def test_a_score_that_is_the_logarithm_of_the_odds_can_be_calibrated():
    lot = np.random.default_rng(1)
    odds = lot.normal(0, 2, 5000)
    chance = 1 / (1 + np.exp(-odds))
    found = calibration(odds, lot.random(5000) < chance)
    assert found.ece < 0.03
    assert found.brier == pytest.approx(float((chance * (1 - chance)).mean()), abs=0.01)
    assert found.n == 5000


def test_a_useless_score_is_calibrated_too_but_its_brier_is_that_of_the_base_rate():
    lot = np.random.default_rng(2)
    wrong = lot.random(3000) < 0.3
    found = calibration(lot.random(3000), wrong)
    assert found.ece < 0.04
    assert found.brier == pytest.approx(0.21, abs=0.015)


def test_no_example_is_predicted_from_its_own_outcome():
    """Were the fit not held out, pure noise on few examples would seem to be predicted."""
    lot = np.random.default_rng(3)
    wrong = lot.random(60) < 0.5
    assert calibration(lot.random(60), wrong).brier > 0.24


def test_by_hand():
    scores, wrong = np.array([0.0] * 10 + [1.0] * 10), np.array([False] * 10 + [True] * 10)
    assert calibration(scores, wrong) == Calibration(0.0, 0.0, 20)
    assert calibration(-scores, wrong, bins=1).ece == pytest.approx(0.0, abs=0.05)


def test_the_same_seed_gives_the_same_figures_and_too_few_are_refused():
    lot = np.random.default_rng(4)
    scores, wrong = lot.random(100), lot.random(100) < 0.5
    assert calibration(scores, wrong) == calibration(scores, wrong)
    with pytest.raises(ValueError, match="N >= 5"):
        calibration(scores[:4], wrong[:4])
