"""embedding: states are the model's own, whatever batch they stood in; what is told was never learnt from."""

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from teachwise.engines.hf import HfEngine
from teachwise.evidence import EmbeddingEvidence
from teachwise.measures import SOURCES, Asking, Known, find_measure
from teachwise.stats import roc_auc
from teachwise.tasks.multiple_choice import MultipleChoice
from test_engine_hf import SHAPE, saved

PROMPTS = [[5 + (3 * i + j) % 30 for j in range(3 + 7 * i % 23)] for i in range(9)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("states")
    saved(Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)), folder)
    engine = HfEngine(str(folder))
    with torch.no_grad():  # transformers starts the padding token at 0, which would hide that it counts for nothing
        engine.model.get_input_embeddings().weight[engine.chat.pad_id] = 0.7
    return engine


def test_states_are_the_mean_over_the_prompts_own_tokens_in_any_batch(engine):
    together = engine.pooled_states(PROMPTS)
    assert together.shape == (9, SHAPE["hidden_size"])
    with torch.no_grad():
        for prompt, found in zip(PROMPTS, together, strict=True):
            own = engine.model(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1][0]
            np.testing.assert_allclose(found, own.mean(0).numpy(), atol=1e-4)


def known(examples, states, right):
    found = [EmbeddingEvidence(e.id, np.asarray(s, "<f2").tobytes()) for e, s in zip(examples, states, strict=True)]
    return Known(examples, np.asarray(right), {"embedding": found})


def test_what_stands_in_the_states_is_learnt_and_holds_on_test_questions(example_with):
    lot = np.random.default_rng(0)
    examples = [example_with(f"e{n}", "train" if n < 300 else "test") for n in range(400)]
    states = lot.normal(0, 1, (400, 20))
    right = states[:, 3] + lot.normal(0, 0.5, 400) < 0
    values = find_measure("embedding_error")(known(examples, states, right))
    assert roc_auc(values[:300], ~right[:300]).value > 0.85
    assert roc_auc(values[300:], ~right[300:]).value > 0.8
    assert values.min() > 0
    assert values.max() < 1


def test_noise_is_not_learnt_by_heart(example_with):
    lot = np.random.default_rng(1)
    examples = [example_with(f"e{n}") for n in range(200)]
    right = lot.random(200) < 0.5
    values = find_measure("embedding_error")(known(examples, lot.normal(0, 1, (200, 150)), right))
    assert 0.35 < roc_auc(values, ~right).value < 0.62


def test_an_examples_own_answer_does_not_tell_it(example_with):
    lot = np.random.default_rng(2)
    examples = [example_with(f"e{n}") for n in range(60)]
    states, right = lot.normal(0, 1, (60, 5)), lot.random(60) < 0.5
    measure = find_measure("embedding_error")
    before = measure(known(examples, states, right))
    flipped = right.copy()
    flipped[7] = not flipped[7]
    assert measure(known(examples, states, flipped))[7] == before[7]


def test_one_state_is_kept_for_each_example_in_order(example_with, tmp_path, engine):
    class Chatty:
        chat = property(lambda self: self)

        def prompt_ids(self, conversations):
            return PROMPTS

        pooled_states = staticmethod(engine.pooled_states)

    examples = [example_with(f"e{n}") for n in range(9)]
    asking = Asking(examples, MultipleChoice("none.csv"), Chatty, None, tmp_path, 40)
    found = SOURCES["embedding"].gather(asking)
    assert [one.id for one in found] == [f"e{n}" for n in range(9)]
    kept = np.stack([np.frombuffer(one.state, "<f2") for one in found]).astype(np.float32)
    np.testing.assert_allclose(kept, engine.pooled_states(PROMPTS), rtol=2e-3, atol=1e-3)
