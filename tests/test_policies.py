"""policies: who gets what depends on ids, scores, options and seed, and on nothing else."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachwise.policies import POLICIES, Options, bands, everything, nothing, randomised
from teachwise.records import Assignment

PAPER = Options((0.25, 0.75), ({"easy": "answer", "medium": "answer"}, {"hard": "rationale"}))
MIXED = Options((0.25, 0.75), ({"easy": "answer", "hard": "rationale"}, {"medium": "rationale", "hard": "rationale"}))
DROPS = Options((0.25, 0.75), ({"hard": "rationale"},))
IDS = [f"e{number}" for number in range(8)]
VALUES = np.array([0.8, 0.1, 0.7, 0.2, 0.6, 0.3, 0.5, 0.4])
ROWS = st.lists(st.sampled_from([0.0, 0.1, 0.5, 2.0]), min_size=1, max_size=30).map(
    lambda values: ([f"e{number}" for number in range(len(values))], np.array(values))
)


def treatments(assignments):
    """How many rows each (stage, give) has."""
    return Counter((one.stage, one.give) for one in assignments)


def test_bands_by_hand():
    found = {(one.id, one.band, one.give, one.stage) for one in bands(IDS, VALUES, PAPER)}
    assert found == {
        ("e1", "easy", "answer", 0),
        ("e3", "easy", "answer", 0),
        ("e5", "medium", "answer", 0),
        ("e7", "medium", "answer", 0),
        ("e6", "medium", "answer", 0),
        ("e4", "medium", "answer", 0),
        ("e2", "hard", "rationale", 1),
        ("e0", "hard", "rationale", 1),
    }


@given(ROWS, st.sampled_from([PAPER, MIXED, DROPS]))
def test_bands_are_disjoint_and_exhaustive_even_where_scores_tie(rows, options):
    ids, values = rows
    found = bands(ids, values, options)
    assert {one.id for one in found} == set(ids)
    band_of = {}
    for one in found:
        assert band_of.setdefault(one.id, one.band) == one.band
    easiest = max((values[ids.index(i)] for i, band in band_of.items() if band == "easy"), default=-1.0)
    assert all(values[ids.index(i)] >= easiest for i, band in band_of.items() if band != "easy")
    for number, stage in enumerate(options.stages):
        given_here = {one.id: one.give for one in found if one.stage == number}
        assert given_here == {i: stage[band] for i, band in band_of.items() if band in stage}


def test_a_band_that_no_stage_names_is_dropped_and_kept_in_sight():
    found = bands(IDS, VALUES, DROPS)
    assert treatments(found) == {(0, "rationale"): 2, (-1, "drop"): 6}
    assert {(one.id, one.band) for one in found if one.give == "drop" and one.band == "easy"} == {
        ("e1", "easy"),
        ("e3", "easy"),
    }


def test_a_band_may_be_used_in_several_stages_and_is_then_not_dropped():
    found = bands(IDS, VALUES, MIXED)
    assert [(one.stage, one.give) for one in found if one.id == "e0"] == [(0, "rationale"), (1, "rationale")]
    assert treatments(found) == {(0, "answer"): 2, (0, "rationale"): 2, (1, "rationale"): 6}


def test_everything_gives_all_the_same_and_nothing_drops_all():
    assert everything(IDS, VALUES, Options((0.25, 0.75), ({"all": "answer"},))) == [
        Assignment(one, "all", "answer", 0) for one in IDS
    ]
    assert nothing(IDS, VALUES, Options((0.25, 0.75), ())) == [Assignment(one, "all", "drop", -1) for one in IDS]


@pytest.mark.parametrize("name", list(POLICIES))
def test_the_order_of_the_rows_changes_nothing(name):
    options = Options((0.25, 0.75), ({"all": "answer"},)) if name == "all" else PAPER
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    found = POLICIES[name](IDS, VALUES, options)
    shuffled = POLICIES[name]([IDS[i] for i in order], VALUES[order], options)
    assert set(found) == set(shuffled)
    assert len(found) == len(shuffled)


# the random control


@given(ROWS, st.sampled_from([PAPER, MIXED, DROPS]), st.integers(0, 5))
def test_the_control_has_exactly_as_many_rows_of_every_kind_and_looks_at_no_score(rows, options, seed):
    reference = bands(*rows, options)
    control = randomised(reference, seed)
    assert treatments(control) == treatments(reference)
    assert {one.id for one in control} == {one.id for one in reference}
    assert {one.band for one in control} == {"all"}


def test_in_the_control_an_example_takes_over_the_whole_treatment_of_another():
    def by_example(rows):
        return Counter(tuple(sorted((r.stage, r.give) for r in rows if r.id == one)) for one in IDS)

    reference = bands(IDS, VALUES, MIXED)
    assert by_example(randomised(reference, 3)) == by_example(reference)


def test_the_control_is_seeded_and_blind_to_the_order_of_the_rows():
    ids = [f"e{number}" for number in range(40)]
    reference = bands(ids, np.arange(40.0), PAPER)
    control = randomised(reference, 0)
    assert set(randomised(list(reversed(reference)), 0)) == set(control)
    assert set(randomised(reference, 1)) != set(control)


def test_in_the_control_hard_examples_get_rationales_no_more_often_than_others():
    ids = [f"e{number}" for number in range(400)]
    reference = bands(ids, np.arange(400.0), PAPER)
    hard = {one.id for one in reference if one.band == "hard"}
    bought = [
        sum(one.id in hard for one in randomised(reference, seed) if one.give == "rationale") for seed in range(20)
    ]
    assert 22 < np.mean(bought) < 28  # by chance a quarter of the 100 rationales go to the hard quarter
