"""sampling: splits, bands and subsets that no other row can move."""

import random
from collections import Counter
from itertools import permutations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachwise.sampling import (
    band_of,
    band_sizes,
    band_values,
    bands_of,
    cut_bands,
    first_by_hash,
    permuted,
    split_of,
)

KEYS = [f"question-{i}" for i in range(20_000)]
SHARES = (0.8, 0.1, 0.1)
HUNDREDTHS = st.tuples(st.integers(1, 99), st.integers(1, 99)).filter(lambda pair: pair[0] < pair[1])
EDGES = HUNDREDTHS.map(lambda pair: (pair[0] / 100, pair[1] / 100))
TIED = st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 0.5000001, 2.0]), max_size=60)

# Drawn once and written down: a change here means that every existing run would be cut anew.
GOLDEN_SPLIT = ["test", "test", "dev", "train", "train", "test", "train", "dev"]
GOLDEN_SUBSET = ["question-7", "question-9", "question-10", "question-14", "question-3"]
GOLDEN_PERMUTATION = {"a": "d", "b": "f", "c": "b", "d": "a", "e": "c", "f": "e"}


def shuffled(things, seed=0):
    return random.Random(seed).sample(things, len(things))


# Splits


def test_fault_unseeded_split_the_same_key_and_seed_give_the_same_split_for_ever():
    assert [split_of(key, 0, (0.4, 0.3, 0.2)) for key in KEYS[30:38]] == GOLDEN_SPLIT
    assert [split_of(key, 0, SHARES) for key in KEYS] == [split_of(key, 0, SHARES) for key in KEYS]


def test_fault_split_drops_a_remainder_shares_that_sum_to_one_place_every_row():
    for shares in [(0.8, 0.1, 0.1), (0.7, 0.2, 0.1), (0.1, 0.2, 0.7), (0.6, 0.3, 0.1), (1.0, 0.0, 0.0)]:
        assert None not in {split_of(key, 3, shares) for key in KEYS}


def test_the_last_point_below_one_is_placed_although_the_shares_sum_to_less_in_floats(monkeypatch):
    assert 0.7 + 0.2 + 0.1 < 1
    monkeypatch.setattr("teachwise.sampling._hash", lambda *_: 2**64 - 1)
    assert split_of("any", 0, (0.7, 0.2, 0.1)) == "test"


def test_split_sizes_come_near_the_shares():
    counts = Counter(split_of(key, 0, (0.6, 0.2, 0.1)) for key in KEYS)
    for name, share in [("train", 0.6), ("dev", 0.2), ("test", 0.1), (None, 0.1)]:
        assert abs(counts[name] / len(KEYS) - share) < 4 * (share * (1 - share) / len(KEYS)) ** 0.5


def test_another_seed_is_another_split():
    same = sum(split_of(key, 0, SHARES) == split_of(key, 1, SHARES) for key in KEYS) / len(KEYS)
    assert same == pytest.approx(0.8**2 + 0.1**2 + 0.1**2, abs=0.02)


@pytest.mark.parametrize(
    "shares", [(0.8, 0.2, 0.1), (-0.1, 0.5, 0.5), (float("nan"), 0.1, 0.1), (1.1, 0.0, 0.0), (0.5, 0.5, 0.001)]
)
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match="shares are"):
        split_of("a", 0, shares)


# Bands


@pytest.mark.parametrize(
    ("n", "edges", "sizes"),
    [
        (12_030, (0.25, 0.75), (3_008, 6_014, 3_008)),
        (12_032, (0.25, 0.75), (3_008, 6_016, 3_008)),
        (7_473, (0.25, 0.75), (1_868, 3_737, 1_868)),
        (0, (0.25, 0.75), (0, 0, 0)),
        (1, (0.25, 0.75), (0, 1, 0)),
        (2, (0.25, 0.75), (1, 0, 1)),
        (5, (0.1, 0.9), (1, 3, 1)),  # (1 - 0.9) * 5 is 0.4999... in floats
        (50, (0.29, 0.71), (15, 20, 15)),  # 0.29 * 50 is 14.499... in floats
        (10, (1 / 3, 2 / 3), (3, 4, 3)),
    ],
)
def test_band_sizes_by_hand(n, edges, sizes):
    assert band_sizes(n, edges) == sizes


@given(st.integers(0, 100_000), HUNDREDTHS)
def test_fault_remainder_dropped_band_sizes_always_sum_to_n(n, hundredths):
    low, high = hundredths
    sizes = band_sizes(n, (low / 100, high / 100))
    assert sum(sizes) == n
    assert min(sizes) >= 0
    assert sizes[0] == (2 * low * n + 100) // 200  # the same rule, in whole numbers
    assert sizes[2] == (2 * (100 - high) * n + 100) // 200


def test_every_two_decimal_edge_is_rounded_as_it_is_written():
    for n in range(1, 400):
        for hundredth in range(1, 100):
            wanted = (2 * hundredth * n + 100) // 200
            assert hundredth == 99 or band_sizes(n, (hundredth / 100, 0.99))[0] == wanted
            assert hundredth == 99 or band_sizes(n, (0.01, (100 - hundredth) / 100))[2] == wanted


@pytest.mark.parametrize(
    "edges", [(0.75, 0.25), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0), (-0.1, 0.5), (0.2, float("nan")), (float("nan"), 0.2)]
)
def test_edges_out_of_order_are_refused(edges):
    with pytest.raises(ValueError, match="edges are"):
        band_sizes(10, edges)
    with pytest.raises(ValueError, match="edges are"):
        cut_bands(["a"], np.array([1.0]), edges)


def test_a_negative_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="n is -1"):
        band_sizes(-1, (0.25, 0.75))


def test_bands_by_hand_ties_are_broken_by_id():
    ids = ["d", "b", "a", "c"]
    assert cut_bands(ids, np.array([1.0, 1.0, 1.0, 1.0])) == ["hard", "medium", "easy", "medium"]
    assert cut_bands(ids, np.array([0.1, 9.0, 0.2, 0.3])) == ["easy", "hard", "medium", "medium"]


@given(TIED, EDGES)
def test_fault_bands_overlap_each_row_has_one_band_and_bands_follow_one_another(values, edges):
    ids = [f"{i:03}" for i in range(len(values))]
    bands = cut_bands(ids, np.array(values), edges)
    rank = {"easy": 0, "medium": 1, "hard": 2}
    in_order = [rank[band] for _, _, band in sorted(zip(values, ids, bands, strict=True))]
    assert in_order == sorted(in_order)
    assert tuple(bands.count(name) for name in rank) == band_sizes(len(values), edges)


def test_fault_the_middle_band_has_an_upper_edge():
    values = np.random.default_rng(0).random(1_000)
    bands = np.array(cut_bands([str(i) for i in range(1_000)], values))
    assert values[bands == "easy"].max() < values[bands == "medium"].min()
    assert values[bands == "medium"].max() < values[bands == "hard"].min()


@given(TIED, EDGES, st.integers(0, 9))
def test_bands_do_not_depend_on_row_order(values, edges, seed):
    rows = [(f"{i:03}", value) for i, value in enumerate(values)]
    moved = shuffled(rows, seed)
    first, second = (
        dict(
            zip(
                [i for i, _ in some],
                cut_bands([i for i, _ in some], np.array([v for _, v in some]), edges),
                strict=True,
            )
        )
        for some in (rows, moved)
    )
    assert first == second


def test_float32_scores_are_cut_like_their_float64_values():
    values = np.random.default_rng(1).random(200, dtype=np.float32)
    ids = [str(i) for i in range(200)]
    assert cut_bands(ids, values) == cut_bands(ids, values.astype(np.float64))


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        (["a", "b"], [1.0, float("nan")], "1 of 2 values are NaN"),
        (["a", "b"], [1.0, float("inf")], "1 of 2 values are NaN or infinite"),
        (["a", "a"], [1.0, 2.0], "1 of 2 ids repeat"),
        (["a", "b"], [1.0], "values have shape"),
        (["a"], [[1.0]], "values have shape"),
    ],
)
def test_rows_that_cannot_be_cut_are_refused(ids, values, message):
    with pytest.raises(ValueError, match=message):
        cut_bands(ids, np.array(values))


def test_rows_outside_the_cut_are_placed_by_value():
    edges = band_values(np.array([0.3, 2.0, 0.1, 0.4]), ["medium", "hard", "easy", "medium"])
    assert edges == (0.1, 0.4)
    placed = [band_of(value, edges) for value in (-5.0, 0.1, 0.1000001, 0.4, 0.4000001, 99.0)]
    assert placed == ["easy", "easy", "medium", "medium", "hard", "hard"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=60, unique=True), st.integers(0, 2))
def test_rows_of_the_cut_get_their_own_band_back(values, which):
    edges = [(0.25, 0.75), (0.4, 0.6), (0.3, 0.9)][which]
    bands = cut_bands([f"{i:03}" for i in range(len(values))], np.array(values), edges)
    value_edges = band_values(np.array(values), bands)
    assert [band_of(value, value_edges) for value in values] == bands


@pytest.mark.parametrize(
    ("values", "bands", "message"),
    [
        ([1.0, 2.0, 3.0], ["easy", "hard", "medium"], "bands overlap"),
        ([2.0, 1.0, 3.0], ["easy", "medium", "hard"], "bands overlap"),
        ([1.0, 2.0], ["medium", "hard"], "empty"),
        ([1.0, 2.0], ["easy", "hard"], "empty"),
        ([1.0, 2.0], ["easy", "middle"], "middle"),
        ([1.0, 2.0], ["easy"], "values have shape"),
        ([1.0, float("nan")], ["easy", "medium"], "NaN"),
    ],
)
def test_bands_that_are_no_cut_have_no_edges(values, bands, message):
    with pytest.raises(ValueError, match=message):
        band_values(np.array(values), bands)


@pytest.mark.parametrize(
    ("value", "edges"), [(float("nan"), (0.0, 1.0)), (0.5, (1.0, 0.0)), (0.5, (0.0, float("nan")))]
)
def test_values_without_a_place_are_refused(value, edges):
    with pytest.raises(ValueError, match="wanted"):
        band_of(value, edges)


def test_rows_of_other_splits_have_a_band_and_move_no_edge():
    values = {"a": 0.1, "b": 0.5, "c": 0.5, "d": 0.9}
    others = {"low": -5.0, "tied": 0.5, "high": 9.0}
    found = bands_of({**others, **values}, list(values))
    assert found == {"low": "easy", "a": "easy", "b": "medium", "tied": "medium", "c": "medium"} | dict.fromkeys(
        ("d", "high"), "hard"
    )
    assert bands_of({**others, **values}, ["a", "b"]) == {}


def test_real_scores_have_the_published_band_sizes_and_accuracy_falls_from_band_to_band(shared_data):
    table = pq.read_table(shared_data / "mmlu_pro_qwen25_3b_entropy.parquet")
    ids = [str(number) for number in table["question_id"].to_pylist()]
    bands = np.array(cut_bands(ids, table["entropy"].to_numpy()))
    correct = np.array(table["student_correct"].to_pylist())
    assert [int((bands == name).sum()) for name in ("easy", "medium", "hard")] == [3_008, 6_014, 3_008]
    assert correct[bands == "easy"].mean() > 0.6 > 0.4 > correct[bands == "medium"].mean()
    assert correct[bands == "hard"].mean() < 0.2


# Subsets and permutations


@given(st.integers(0, 50), st.integers(0, 9))
def test_a_subset_does_not_depend_on_row_order_and_grows_by_adding(k, seed):
    ids = KEYS[:50]
    subset = first_by_hash(ids, k, seed)
    assert subset == first_by_hash(shuffled(ids, seed), k, seed)
    assert len(set(subset)) == k
    assert set(subset) <= set(ids)
    assert subset == first_by_hash(ids, 50, seed)[:k]


def test_a_subset_is_the_same_for_ever():
    assert first_by_hash(KEYS[:20], 5, seed=0) == GOLDEN_SUBSET


def test_removing_a_row_moves_no_other_row_out_of_the_subset():
    subset = first_by_hash(KEYS[:1_000], 100, seed=0)
    left = [key for key in KEYS[:1_000] if key != subset[7]]
    assert set(subset) - {subset[7]} <= set(first_by_hash(left, 100, seed=0))


def test_every_id_is_equally_likely_to_be_chosen():
    chosen = Counter(key for seed in range(4_000) for key in first_by_hash(KEYS[:10], 3, seed))
    assert len(chosen) == 10
    assert all(abs(count - 1_200) < 4 * (4_000 * 0.3 * 0.7) ** 0.5 for count in chosen.values())


def test_draws_with_another_seed_or_salt_are_independent_of_one_another_and_of_the_split():
    half = len(KEYS) // 2
    first = set(first_by_hash(KEYS, half, seed=0))
    for other in (first_by_hash(KEYS, half, seed=1), first_by_hash(KEYS, half, seed=0, salt="dev")):
        assert len(first & set(other)) / half == pytest.approx(0.5, abs=0.02)
    train = sum(split_of(key, 0, SHARES) == "train" for key in first) / half
    assert train == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("ids", "k", "message"), [("ab", 3, "k is 3"), ("ab", -1, "k is -1"), ("aa", 1, "repeat")])
def test_subsets_that_cannot_be_drawn_are_refused(ids, k, message):
    with pytest.raises(ValueError, match=message):
        first_by_hash(list(ids), k, seed=0)


@given(st.sets(st.text(max_size=8), max_size=40), st.integers(0, 9))
def test_a_permutation_maps_the_ids_onto_themselves_whatever_the_row_order(names, seed):
    ids = sorted(names)
    swap = permuted(ids, seed)
    assert set(swap) == set(swap.values()) == names
    assert len(swap) == len(names)
    assert swap == permuted(shuffled(ids, seed), seed)


def test_every_permutation_is_equally_likely():
    seen = Counter(tuple(permuted(["a", "b", "c"], seed).values()) for seed in range(6_000))
    assert set(seen) == set(permutations("abc"))
    assert all(abs(count - 1_000) < 4 * (6_000 / 6 * 5 / 6) ** 0.5 for count in seen.values())


def test_a_permutation_cuts_the_link_between_score_and_treatment_and_keeps_the_counts():
    ids = KEYS[:4_000]
    bands = dict(zip(ids, cut_bands(ids, np.arange(4_000.0)), strict=True))
    swap = permuted(ids, seed=0)
    control = {name: bands[swap[name]] for name in ids}
    assert Counter(control.values()) == Counter(bands.values())
    still = sum(control[name] == "hard" for name in ids if bands[name] == "hard") / 1_000
    assert still == pytest.approx(0.25, abs=0.05)


def test_a_permutation_is_the_same_for_ever_and_ids_that_repeat_are_refused():
    assert permuted(list("abcdef"), seed=0) == GOLDEN_PERMUTATION
    with pytest.raises(ValueError, match="repeat"):
        permuted(["a", "a"], seed=0)
