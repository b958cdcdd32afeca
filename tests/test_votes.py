"""votes: texts that are drawn are drawn fairly, and by nothing but their own lot; what the votes say, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from teachwise.engines.chains import Drawn
from teachwise.engines.hf import HfEngine
from teachwise.evidence import VoteEvidence
from teachwise.measures import SAMPLES, SOURCES, Asking, Known, find_measure
from teachwise.measures.votes import numbers, shares, vote_correct
from teachwise.recipe import load_recipe
from teachwise.tasks import load_task
from test_measures import answer

LOG = math.log

# drawing


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature):
    logits = torch.tensor([1.0, -math.inf, 0.0, 2.0, -1.0])
    n = 20_000
    uniforms = ((np.arange(n) + 0.5) / n)[:, None]
    drawn = Drawn(uniforms, temperature)(None, logits.expand(n, -1)).argmax(-1)
    found = np.bincount(drawn.numpy(), minlength=5) / n
    np.testing.assert_allclose(found, torch.softmax(logits / temperature, 0).numpy(), atol=1 / n)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_a_token_that_cannot_come_is_never_drawn(uniform):
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 1.0, -math.inf]])
    found = Drawn(np.array([[uniform]]), 1.0)(None, logits)
    assert found.argmax().item() == (1 if uniform == 0 else 3)


def test_rounding_of_the_sum_does_not_draw_a_token_that_cannot_come():
    lot = torch.Generator().manual_seed(0)
    logits = torch.cat([3 * torch.randn(200, 500, generator=lot), torch.full((200, 1), -math.inf)], dim=1)
    assert (torch.softmax(logits.double(), -1).cumsum(-1)[:, -1] < 1 - 2**-53).any()
    drawn = Drawn(np.full((200, 1), 1 - 2**-53), 1.0)(None, logits).argmax(-1)
    assert (drawn < 500).all()


def test_each_token_takes_the_next_number_of_its_row():
    drawn = Drawn(np.array([[0.1, 0.9], [0.9, 0.1]]), 1.0)
    even = torch.zeros(2, 4)
    assert [drawn(None, even).argmax(-1).tolist() for _ in range(2)] == [[0, 3], [3, 0]]


def test_numbers_are_the_same_everywhere_and_others_for_each_example_and_text():
    assert numbers("e1", 0, 2).tolist() == pytest.approx([0.22455, 0.12687], abs=1e-5)
    assert numbers("e1", 0, 5)[:2].tolist() == numbers("e1", 0, 2).tolist()
    lots = np.stack([numbers(f"e{n}", s, 40) for n in range(25) for s in range(4)])
    assert len(np.unique(lots)) == lots.size
    assert abs(lots.mean() - 0.5) < 0.02


@pytest.fixture(scope="module")
def toy():
    return HfEngine("toy")


def asking_for(toy, folder, samples=4, batch_tokens=2000, temperature=1.0, n=10):
    task = load_task("toy", limit={"train": n, "dev": 1, "test": 1})
    examples = [row.example("train") for row in task.rows()][:n]
    settings = {"samples": samples, "temperature": temperature, "max_new_tokens": 40}
    return Asking(examples, task, lambda: toy, None, folder, batch_tokens, settings)


def test_a_questions_texts_do_not_depend_on_the_batch_nor_on_how_many_there_are(toy, tmp_path):
    found = SOURCES["votes"].gather(asking_for(toy, tmp_path / "a"))
    alone = SOURCES["votes"].gather(asking_for(toy, tmp_path / "b", batch_tokens=1))
    fewer = SOURCES["votes"].gather(asking_for(toy, tmp_path / "c", samples=2))
    assert found == alone
    assert [one.votes[:2] for one in found] == [one.votes for one in fewer]
    assert [one.texts[:2] for one in found] == [one.texts for one in fewer]
    assert max(len(set(one.texts)) for one in found) > 1
    assert [one.id for one in found] == [one.id for one in asking_for(toy, tmp_path).examples]


def test_votes_are_what_the_texts_state(toy, tmp_path):
    asking = asking_for(toy, tmp_path, temperature=3.0)
    found = SOURCES["votes"].gather(asking)
    for example, one in zip(asking.examples, found, strict=True):
        assert [asking.task.read_answer(example, text) or "" for text in one.texts] == list(one.votes)
        assert len(one.votes) == len(one.generated_tokens) == 4
        assert one.n_truncated == sum(n == 40 for n in one.generated_tokens)
    assert any("" in one.votes for one in found), "at this temperature some text states nothing"


def test_near_a_temperature_of_zero_all_texts_are_the_greedy_one(toy, tmp_path):
    asking = asking_for(toy, tmp_path, temperature=0.001)
    prompts = toy.chat.prompt_ids([asking.task.messages(one, "cot") for one in asking.examples])
    greedy = [one.text for one in toy.generate(prompts, 40)]
    assert [set(one.texts) for one in SOURCES["votes"].gather(asking)] == [{text} for text in greedy]


def test_a_killed_job_draws_no_text_twice(toy, tmp_path):
    asked = []

    class Dying:
        chat = toy.chat

        def __init__(self, left):
            self.left = left

        def generate(self, prompts, *settings):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            asked.append(len(prompts))
            return toy.generate(prompts, *settings)

    asking, first, second = asking_for(toy, tmp_path), Dying(1), Dying(100)
    with pytest.raises(KeyboardInterrupt):
        SOURCES["votes"].gather(replace(asking, student=lambda: first))
    found = SOURCES["votes"].gather(replace(asking, student=lambda: second))
    assert sum(asked) == 4 * len(asking.examples)
    assert found == SOURCES["votes"].gather(replace(asking, folder=tmp_path / "other"))


# measuring


@pytest.fixture
def known(example_with):
    """The answer at once is A with 0.8 against B with 0.2, over two options, five times; each has four votes."""
    ballots = [("A", "A", "A", "A"), ("B", "B", "B", "B"), ("A", "B", "A", "B"), ("", "", "", ""), ("A", "", "", "A")]
    examples = [example_with(f"e{n}", options=("x", "y")) for n in range(5)]
    votes = [VoteEvidence(f"e{n}", one, one, (1,) * 4, 0) for n, one in enumerate(ballots)]
    at_once = [answer(f"e{n}", [0.8, 0.2], 1e-9) for n in range(5)]
    return Known(examples, np.ones(5, bool), {"answer": at_once, "votes": votes})


def spread(*p):
    return -sum(one * LOG(one) for one in p)


BY_HAND = {
    "vote_entropy": [0, 0, LOG(2), LOG(4), spread(0.5, 0.25, 0.25)],
    "vote_agreement": [0, 0, 0.5, 1, 0.5],
    "vote_conflict": [0, 1, 0.5, 1, 0.5],
    "vote_hybrid": [
        spread(0.9, 0.1),
        spread(0.4, 0.6),
        spread(0.65, 0.35),
        spread(0.4, 0.1, *[0.125] * 4),
        spread(0.65, 0.1, 0.125, 0.125),
    ],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_measure_of_votes_is_what_a_hand_computes(known, name):
    np.testing.assert_allclose(find_measure(name)(known), BY_HAND[name], rtol=1e-7, atol=1e-12)


def test_an_open_answer_at_once_counts_as_its_likeliest_token_against_all_others(known):
    open_ones = [replace(one, letter_logprobs=(), predicted="12", top_logprob=LOG(0.6)) for one in known.answers]
    votes = [replace(one, votes=("12", "12", "12", "7")) for one in known.evidence["votes"]]
    values = find_measure("vote_hybrid")(replace(known, evidence={"answer": open_ones, "votes": votes}))
    np.testing.assert_allclose(values, spread(0.675, 0.125, 0.2))
    unread = [replace(one, predicted=None) for one in open_ones]
    values = find_measure("vote_hybrid")(replace(known, evidence={"answer": unread, "votes": votes}))
    np.testing.assert_allclose(values, spread(0.375, 0.125, 0.3, 0.2))
    assert (find_measure("vote_conflict")(replace(known, evidence={"answer": unread, "votes": votes})) == 1).all()


def test_two_sure_answers_that_contradict_each_other_make_a_coin_toss(known):
    sure = [replace(one, letter_logprobs=(0.0, -50.0)) for one in known.answers]
    values = find_measure("vote_hybrid")(replace(known, evidence={**known.evidence, "answer": sure}))
    assert values[:2] == pytest.approx([0, LOG(2)], abs=1e-12)


def test_the_more_texts_are_unreadable_the_less_sure_is_the_student():
    values = [spread(*shares(["A"] * (5 - n) + [""] * n).values()) for n in range(6)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(LOG(5))


def test_the_commonest_readable_vote_is_right_or_wrong(known):
    assert vote_correct(known).tolist() == [True, False, True, False, True]
    late = [replace(one, votes=("B", "A", "A", "B")) for one in known.evidence["votes"]]
    assert not vote_correct(replace(known, evidence={"votes": late})).any()


def test_the_registry_says_what_the_recipes_default_costs():
    assert load_recipe("toy").score.samples == SAMPLES == find_measure("vote_entropy").cost["texts_written"]
