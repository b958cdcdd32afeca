"""The transformers engine: entropies, padding, stopping and loading, on tiny models of several families."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from teachwise import entropy
from teachwise.engines import length_batches
from teachwise.engines.hf import HfEngine, answer_entropy, load_model
from teachwise.errors import StudentError
from test_chat import CHATML, word_tokenizer

WORDS = [f"w{number}" for number in range(40)] + list("ABCDE")
N_VOCABULARY = 48
SHAPE = {
    "vocab_size": N_VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.35,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
CONFIGS = {
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "llama": LlamaConfig(**SHAPE),
    "phi3": Phi3Config(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE, head_dim=8, sliding_window=16),
    "mistral": MistralConfig(**SHAPE, sliding_window=16),
    "gpt2": GPT2Config(vocab_size=N_VOCABULARY, initializer_range=0.35, eos_token_id=0, bos_token_id=0, **GPT2),
}


def saved(model, folder, template=CHATML, **generation):
    """A model and a word tokenizer as a checkpoint folder; `generation` is written as its generation settings."""
    model.save_pretrained(folder)
    word_tokenizer(WORDS, template).save_pretrained(folder)
    settings = {"eos_token_id": 0, "pad_token_id": 1, **generation}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.fixture(scope="module", params=CONFIGS)
def engine(request, tmp_path_factory):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    return HfEngine(saved(model, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def prompts():
    draw = np.random.default_rng(0)
    return [draw.integers(3, N_VOCABULARY, size).tolist() for size in (1, 3, 40, 7, 22, 22)]


def counting_model(successors):
    """A model that writes, after each token, the one that `successors` names (by default the next number)."""
    shape = {**SHAPE, "hidden_size": N_VOCABULARY, "num_attention_heads": 4, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
    with torch.no_grad():
        for part in model.parameters():
            part.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight.copy_(torch.eye(N_VOCABULARY))
        for token in range(N_VOCABULARY):
            model.lm_head.weight[successors.get(token, (token + 1) % N_VOCABULARY), token] = 2.0
    return model


# ------------------------------------------------------------------------------------------ the formula

TIED = [3.0, 3.0, 3.0, -50.0]
EXTREME = [
    [0.0, -30.0, -31.0, -90.0],
    [0.0, -16.0, -17.0, -18.0],
    [80.0, 79.0, 20.0, -80.0],
    [1e4, 0.0, -1e4, 1e4 - 14],
    [-1e4, -1e4 - 3, -2e4, -3e4],
    [0.0, -200.0, -1e30, -3e38],
    [0.0, -math.inf, -math.inf, -math.inf],
    [1.5, -math.inf, 0.25, -math.inf],
    [0.0, 0.0, 0.0, 0.0],
    TIED,
]


def test_entropy_in_torch_is_the_reference_at_extreme_logits():
    logits = torch.tensor(EXTREME, dtype=torch.float64)
    expected = entropy.answer_entropy(logits.numpy())
    np.testing.assert_allclose(answer_entropy(logits).numpy(), expected, rtol=1e-12, atol=0)


def test_float32_entropy_keeps_its_digits_where_the_student_is_nearly_sure():
    logits = torch.tensor(EXTREME, dtype=torch.float32)
    expected = entropy.answer_entropy(logits.numpy())
    np.testing.assert_allclose(answer_entropy(logits).numpy(), expected, rtol=1e-6, atol=1e-38)
    draw = np.random.default_rng(0)
    wide = (8 * draw.standard_normal((64, 5000))).astype(np.float32)
    wide[np.arange(64), draw.integers(0, 5000, 64)] += np.linspace(20, 60, 64, dtype=np.float32)
    expected = entropy.answer_entropy(wide)
    assert expected.min() < 1e-7
    np.testing.assert_allclose(answer_entropy(torch.tensor(wide)).numpy(), expected, rtol=2e-6)


def test_nearly_sure_rows_keep_their_order_in_float32():
    gaps = torch.linspace(12, 40, 200)
    rows = torch.stack([torch.zeros(200), -gaps, -gaps - 1], dim=1)
    values = answer_entropy(rows)
    assert (values > 0).all()
    assert (values[:-1] > values[1:]).all()


@given(st.lists(st.floats(-80, 80, width=32), min_size=2, max_size=40))
def test_entropy_lies_between_0_and_ln_v_and_near_the_reference(row):
    value = answer_entropy(torch.tensor([row], dtype=torch.float32)).item()
    assert 0 <= value <= math.log(len(row)) * (1 + 1e-6)
    assert value == pytest.approx(entropy.answer_entropy(np.array([row])).item(), rel=5e-6, abs=1e-37)


# ------------------------------------------------------------------------------------ scores of a batch


def test_a_row_scores_the_same_alone_and_in_a_padded_batch(engine, prompts):
    together = engine.answer_scores(prompts, ["ABCDE"] * len(prompts))
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = engine.answer_scores([prompt], ["ABCDE"])
        assert found.entropy_nats == pytest.approx(alone.entropy_nats, abs=1e-4)
        assert found.option_probabilities == pytest.approx(alone.option_probabilities, abs=1e-4)
        assert found.token == alone.token
    assert np.ptp([found.entropy_nats for found in together]) > 0.05


def test_entropy_is_read_where_the_answer_begins(engine, prompts):
    moved = []
    with torch.no_grad():
        for prompt in prompts:
            logits = engine.model(input_ids=torch.tensor([prompt])).logits[0].float().numpy()
            (found,) = engine.answer_scores([prompt], ["ABC"])
            assert found.entropy_nats == pytest.approx(entropy.answer_entropy(logits[-1:]).item(), abs=1e-4)
            (later,) = engine.answer_scores([[*prompt, int(logits[-1].argmax())]], ["ABC"])
            moved.append(abs(later.entropy_nats - found.entropy_nats))
    assert max(moved) > 0.01


def test_the_scored_token_is_the_first_one_written(engine, prompts):
    scored = engine.answer_scores(prompts, ["AB"] * len(prompts))
    written = engine.generate(prompts, max_new_tokens=1)
    assert [one.token for one in scored] == [one.text for one in written]


def test_option_probabilities_follow_each_rows_own_letters(engine, prompts):
    two, five = engine.answer_scores([prompts[3]] * 2, ["BA", "ABCDE"])
    assert len(two.option_probabilities) == 2
    assert two.option_probabilities[::-1] == pytest.approx(five.option_probabilities[:2])
    assert 0 < sum(five.option_probabilities) < 1


def test_a_row_writes_the_same_alone_and_in_a_padded_batch(engine, prompts):
    together = engine.generate(prompts, max_new_tokens=12)
    assert together == [engine.generate([prompt], max_new_tokens=12)[0] for prompt in prompts]


def test_the_toy_student_knows_its_steps_better_than_its_chains():
    engine = HfEngine("toy")
    asked = ["options A 8 B 6 C 2 D 7 E 9 question calc 6 - 1 answer", "A 8 B 6"]
    prompts = engine.chat.prompt_ids([[{"role": "user", "content": text}] for text in asked])
    sure, lost = engine.answer_scores(prompts, ["ABCDE"] * 2)
    assert sum(sure.option_probabilities) > 0.95
    assert sum(lost.option_probabilities) < sum(sure.option_probabilities)


# ------------------------------------------------------------------------------------------- generating


def texts(*numbers):
    return " ".join(word_tokenizer(WORDS).convert_ids_to_tokens(list(numbers)))


def test_generation_is_greedy_whatever_the_checkpoint_recommends(tmp_path):
    """The model writes 9 5 9 5 ...; a penalty on repeats, a ban, a minimum or any sampling would break the rhythm."""
    habits = {
        "do_sample": True,
        "temperature": 50.0,
        "top_k": 3,
        "top_p": 0.9,
        "repetition_penalty": 4.0,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [5],
        "begin_suppress_tokens": [9],
        "bad_words_ids": [[9]],
        "min_new_tokens": 30,
        "max_length": 4,
        "forced_eos_token_id": 7,
        "num_beams": 2,
        "num_return_sequences": 2,
    }
    engine = HfEngine(saved(counting_model({5: 9, 9: 5}), tmp_path, **habits))
    (found,) = engine.generate([[5]], max_new_tokens=6)
    assert found.text == texts(9, 5, 9, 5, 9, 5)
    assert (found.tokens, found.is_truncated) == (6, True)


def test_a_temperature_samples(tmp_path):
    engine = HfEngine(saved(counting_model({}), tmp_path))
    torch.manual_seed(0)
    greedy, hot = engine.generate([[5]], 20), engine.generate([[5]], 20, temperature=100.0)
    assert greedy[0].text == texts(*range(6, 26))
    assert hot[0].text != greedy[0].text


@pytest.mark.parametrize(("first", "tokens"), [(5, 4), (20, 3)])
def test_any_of_several_end_tokens_stops(tmp_path, first, tokens):
    """Ends are 0 (`</s>`), 9 and 23; the tokenizer itself knows only 0."""
    engine = HfEngine(saved(counting_model({}), tmp_path, eos_token_id=[0, 9, 23]))
    passes = []
    engine.model.register_forward_hook(lambda *_: passes.append(1))
    (found,) = engine.generate([[first]], max_new_tokens=40)
    assert len(passes) == tokens, "nothing is written after the end, not even to be thrown away"
    assert found.text == texts(*range(first + 1, first + tokens))
    assert (found.tokens, found.is_truncated) == (tokens, False)


def test_the_tokenizers_own_end_stops_also_where_the_checkpoint_names_others(tmp_path):
    engine = HfEngine(saved(counting_model({6: 0}), tmp_path, eos_token_id=[9]))
    assert engine.generate([[5]], 8)[0].tokens == 2


def test_rows_that_end_early_count_their_own_tokens_only(tmp_path):
    engine = HfEngine(saved(counting_model({}), tmp_path, eos_token_id=[0, 12]))
    short, long, cut = engine.generate([[10], [4, 6], [13]], max_new_tokens=8)
    assert (short.text, short.tokens, short.is_truncated) == (texts(11), 2, False)
    assert (long.text, long.tokens, long.is_truncated) == (texts(*range(7, 12)), 6, False)
    assert (cut.text, cut.tokens, cut.is_truncated) == (texts(*range(14, 22)), 8, True)


def test_a_text_that_ends_on_its_last_token_is_whole_and_one_cut_before_it_is_not(tmp_path):
    engine = HfEngine(saved(counting_model({}), tmp_path, eos_token_id=[0, 9]))
    assert not engine.generate([[5]], max_new_tokens=4)[0].is_truncated
    assert engine.generate([[5]], max_new_tokens=3)[0].is_truncated


# ---------------------------------------------------------------------------------------------- batches

LENGTHS = st.lists(st.integers(1, 500), max_size=60)


@given(LENGTHS, st.integers(1, 1500))
def test_batches_hold_every_row_once_and_stay_within_the_budget(lengths, budget):
    batches = length_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


@given(LENGTHS, st.integers(1, 1500), st.randoms(use_true_random=False))
def test_batches_depend_on_the_lengths_alone(lengths, budget, random):
    def shapes(rows):
        return [[rows[i] for i in batch] for batch in length_batches(rows, budget)]

    shuffled = random.sample(lengths, len(lengths))
    assert shapes(shuffled) == shapes(lengths)
    flat = [length for batch in shapes(lengths) for length in batch]
    assert flat == sorted(lengths, reverse=True)


# ---------------------------------------------------------------------------------------------- loading


def test_a_model_that_is_not_there_is_the_users_mistake(tmp_path):
    for model in (str(tmp_path / "nowhere"), "nobody/no-such-model", "not a name at all"):
        with pytest.raises(StudentError, match=r"cannot be loaded|there is no such folder") as error:
            HfEngine(model)
        assert "name" in error.value.hint


def test_a_checkpoint_without_a_tokenizer_is_the_users_mistake(tmp_path):
    counting_model({}).save_pretrained(tmp_path)
    with pytest.raises(StudentError, match=r"tokenizer of .* cannot be loaded") as error:
        HfEngine(str(tmp_path))
    assert error.value.hint


def test_a_half_downloaded_checkpoint_is_the_users_mistake(tmp_path):
    folder = saved(counting_model({}), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(StudentError, match="cannot be loaded"):
        HfEngine(folder)


def test_a_checkpoint_that_lacks_weights_is_not_filled_up_with_random_ones(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = saved(counting_model({}), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StudentError, match="up_proj"):
        HfEngine(folder)


def test_a_checkpoint_in_pickle_is_refused(tmp_path):
    folder = saved(counting_model({}), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(counting_model({}).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(StudentError, match="cannot be loaded"):
        HfEngine(folder)


def test_an_adapter_changes_the_scores_as_its_merged_weights_do(tmp_path, prompts):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    base = saved(AutoModelForCausalLM.from_config(CONFIGS["qwen2"]), tmp_path / "base")
    shape = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base), shape)
    tuned.save_pretrained(tmp_path / "adapter")
    merged = saved(tuned.merge_and_unload(), tmp_path / "merged")

    def entropies(engine):
        return [one.entropy_nats for one in engine.answer_scores(prompts, ["AB"] * len(prompts))]

    adapted = entropies(HfEngine(base, adapter=tmp_path / "adapter"))
    assert adapted == pytest.approx(entropies(HfEngine(merged)), abs=1e-4)
    assert adapted != pytest.approx(entropies(HfEngine(base)), abs=1e-2)
    engine = HfEngine(base, adapter=tmp_path / "adapter")
    assert engine.generate(prompts, 8) == HfEngine(merged).generate(prompts, 8)


def test_an_adapter_that_is_not_there_is_the_users_mistake(tmp_path):
    folder = saved(counting_model({}), tmp_path / "base")
    with pytest.raises(StudentError, match="adapter") as error:
        HfEngine(folder, adapter=tmp_path / "nowhere")
    assert error.value.hint


def test_a_hub_model_is_said_to_be_loading_once_and_a_folder_is_not(monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("teachwise.engines.hf.AutoModelForCausalLM.from_pretrained", refuse)
    for name in ("owner/never-said-before", "owner/never-said-before", "toy"):
        with pytest.raises(StudentError, match="no network"):
            load_model(name, None, "float32", False)
    assert capsys.readouterr().err == "loading owner/never-said-before (from the hub if it is not in the cache)\n"
