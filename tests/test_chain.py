"""chain: what is read again is what was written, token by token; each aggregate against a hand computation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from teachwise import entropy
from teachwise.chat import Chat
from teachwise.engines.chains import token_facts
from teachwise.engines.hf import Generation, HfEngine
from teachwise.errors import DataError
from teachwise.evidence import ChainEvidence, OwnAnswer, VoteEvidence
from teachwise.measures import SOURCES, Asking, Known, find_measure
from teachwise.measures.chain import chain_correct
from teachwise.measures.writing import answer_token, sentence_starts, thinking_tokens
from teachwise.pipeline import run_recipe
from teachwise.recipe import load_recipe
from teachwise.records import read_records, to_table
from teachwise.run_folder import Unit
from teachwise.stats import roc_auc
from teachwise.steps import key_of, step_named
from teachwise.tasks import load_task
from teachwise.tasks.letters import read_letter
from test_chat import byte_tokenizer
from test_engine_hf import CONFIGS, N_VOCABULARY, saved

# exactness


@pytest.fixture(scope="module", params=CONFIGS)
def engine(request, tmp_path_factory):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    return HfEngine(saved(model, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def texts():
    """Prompts and texts of many lengths, also beyond a sliding window of 16."""
    lot = np.random.default_rng(0)
    return [[lot.integers(3, N_VOCABULARY, n).tolist() for n in pair] for pair in ((1, 30), (25, 1), (9, 40), (40, 7))]


def by_hand(model, prompt, text):
    """Entropies, leads and logarithms of a text, from one plain forward pass over it alone, in float64."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1].double().numpy()
    logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    second, first = np.sort(np.exp(logs), axis=1)[:, -2:].T
    return entropy.answer_entropy(logits), first - second, logs[np.arange(len(text)), text]


def assert_close(facts, expected):
    for found, wanted in zip((facts.entropies, facts.leads, facts.logprobs), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_every_token_of_a_text_is_told_as_by_a_plain_pass_over_it_alone(engine, texts):
    prompts, written = zip(*texts, strict=True)
    for prompt, text, facts in zip(prompts, written, engine.token_facts(prompts, written), strict=True):
        assert len(facts.entropies) == len(text)
        assert_close(facts, by_hand(engine.model, prompt, text))


@pytest.mark.parametrize("step", [1, 3, 16, 100])
def test_the_size_of_a_piece_changes_nothing(engine, texts, step):
    prompts, written = zip(*texts, strict=True)
    padded = engine._left_padded(prompts), engine._padded(written)
    with torch.no_grad():
        found = token_facts(engine.model, engine._accepted, *padded, step * 4 * N_VOCABULARY)
    for row, (prompt, text) in enumerate(texts):
        np.testing.assert_allclose(found[:, row, : len(text)], by_hand(engine.model, prompt, text), atol=1e-4)


@pytest.fixture(scope="module")
def toy():
    return HfEngine("toy")


def toy_asking(toy, folder, task="toy", n=12, batch_tokens=1000, **settings):
    found = load_task(task, limit={"train": n, "dev": 1, "test": 1})
    examples = [row.example("train") for row in found.rows()][:n]
    return Asking(examples, found, lambda: toy, None, folder, batch_tokens, {"max_new_tokens": 40, **settings})


def test_what_is_read_again_is_as_sure_as_it_was_when_it_was_written(toy, tmp_path):
    asking = toy_asking(toy, tmp_path)
    prompts = toy.chat.prompt_ids([asking.task.messages(one, "cot") for one in asking.examples])
    settings = GenerationConfig(
        max_new_tokens=40,
        do_sample=False,
        eos_token_id=toy.chat.stop_ids,
        pad_token_id=toy.chat.pad_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    ids, mask = toy._left_padded(prompts)
    seen = toy.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    logits = torch.stack(seen.logits, dim=1).double().numpy()
    for row, found in enumerate(SOURCES["chain"].gather(asking)):
        n = len(found.entropies)
        assert toy.chat.decode(seen.sequences[row, ids.shape[1] :].tolist()) == found.text
        np.testing.assert_allclose(found.entropies, entropy.answer_entropy(logits[row, :n]), atol=1e-4)
        assert max(found.entropies) > 0.01


def test_the_batch_changes_no_chain_beyond_a_ten_thousandth(toy, tmp_path):
    together = SOURCES["chain"].gather(toy_asking(toy, tmp_path / "a", batch_tokens=10_000))
    alone = SOURCES["chain"].gather(toy_asking(toy, tmp_path / "b", batch_tokens=1))
    for one, other in zip(together, alone, strict=True):
        assert replace(one, entropies=(), leads=(), logprobs=()) == replace(other, entropies=(), leads=(), logprobs=())
        assert_close(one, (other.entropies, other.leads, other.logprobs))


def test_a_text_that_meets_its_limit_says_so_and_keeps_all_its_tokens(toy, tmp_path):
    cut, whole = (
        SOURCES["chain"].gather(toy_asking(toy, tmp_path / str(n), n=4, max_new_tokens=n))[0] for n in (5, 40)
    )
    assert (cut.is_truncated, len(cut.entropies), cut.text_tokens, cut.answer_at) == (True, 5, 5, None)
    assert (whole.is_truncated, whole.text_tokens) == (False, len(whole.entropies) - 1)
    assert cut.entropies == pytest.approx(whole.entropies[:5], abs=1e-4)
    assert (cut.thinking_tokens, whole.thinking_tokens) == (5, whole.answer_at)


def test_the_answers_token_and_the_sentences_are_found_in_the_toys_chains(toy, tmp_path):
    for task in ("toy", "toy_open"):
        asking = toy_asking(toy, tmp_path / task, task)
        for one in SOURCES["chain"].gather(asking):
            words = one.text.split()
            assert len(words) == one.text_tokens
            assert words[one.answer_at - 1 : one.answer_at + 2] == ["[[", one.stated, "]]"]
            assert one.sentences == (0, *(place + 1 for place, word in enumerate(words) if word == "."))


def test_the_end_of_the_turn_is_no_part_of_the_text(toy, tmp_path):
    ids = [*toy.chat.tokenizer.encode("so 7 is 7 .", add_special_tokens=False), toy.chat.end_id]

    class Vague:
        chat = toy.chat
        token_facts = staticmethod(toy.token_facts)

        def generate(self, prompts, most):
            return [Generation(toy.chat.decode(ids), len(ids), False, tuple(ids)) for _ in prompts]

    asking = replace(toy_asking(toy, tmp_path, n=2), student=Vague)
    (one, _) = SOURCES["chain"].gather(asking)
    assert (one.stated, one.answer_at, one.thinking_tokens, one.sentences) == (None, None, 5, (0,))
    assert len(one.entropies) == len(one.leads) == len(one.logprobs) == 6


def test_a_killed_job_writes_no_chain_twice(toy, tmp_path):
    class Dying:
        chat, token_facts, left = toy.chat, staticmethod(toy.token_facts), 2

        def generate(self, prompts, *settings):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return toy.generate(prompts, *settings)

    first, second = Dying(), Dying()
    asking = toy_asking(toy, tmp_path, batch_tokens=200)
    with pytest.raises(KeyboardInterrupt):
        SOURCES["chain"].gather(replace(asking, student=lambda: first))
    second.left = 100
    found = SOURCES["chain"].gather(replace(asking, student=lambda: second))
    whole = SOURCES["chain"].gather(replace(asking, folder=tmp_path / "other"))
    assert found == whole
    batches = len(list((tmp_path / "other").glob("parts-*/*.parquet")))
    assert 100 - second.left == batches - 2


def test_the_answer_at_once_is_read_again_with_its_end(toy, tmp_path):
    asking = toy_asking(toy, tmp_path, "toy_open")
    (reply, *_), (chain, *_) = SOURCES["reply"].gather(asking), SOURCES["chain"].gather(asking)
    assert reply.stated == reply.text
    assert len(reply.entropies) == 2
    assert len(chain.entropies) > 5
    known = Known(asking.examples[:1], np.array([True]), {"reply": [reply]})
    assert find_measure("sequence_entropy")(known)[0] == pytest.approx(sum(reply.entropies))
    assert find_measure("sequence_surprise")(known)[0] == pytest.approx(-sum(reply.logprobs))
    assert sum(reply.logprobs) < 0


def test_texts_are_right_by_what_they_themselves_state(known):
    other = [replace(one, stated="A" if one.stated is None else None) for one in known.evidence["chain"]]
    both = replace(known, evidence={**known.evidence, "reply": other})
    assert SOURCES["chain"].correct(both).tolist() == [True, False, False, True, False]
    assert SOURCES["reply"].correct(both).tolist() == [False, False, True, False, True]
    assert SOURCES["answer"].correct(both) is None


# what a text is made of


@pytest.mark.parametrize(
    ("text", "stated", "token"),
    [
        ("so it is [[ B ]]", "B", 4),
        ("B or A ? [[ A ]] A good one", "A", 5),  # after the brackets the text states it already
        ("[[ A ]] no [[ B ]] no [[ A ]]", "A", 9),
        ("the answer is (b) indeed", "B", 3),
        ("the answer is B. Because C", "B", 3),
        ("so **B. Because of it**", "B", 1),
        ("so **B. a tab**", "B", 1),
        ("Best of all : nothing", None, None),
    ],
)
def test_the_answers_token_is_where_the_text_first_states_what_it_ends_with(text, stated, token):
    pieces = [word if not n else f" {word}" for n, word in enumerate(text.split(" "))]
    options = ["x", "y", "z"]
    assert read_letter(text, options) == stated
    assert answer_token(pieces, stated, lambda start: read_letter(start, options)) == token


def test_an_answer_of_several_tokens_begins_at_its_first():
    pieces = ["It", " is", " 12", "34", "5", "."]
    assert answer_token(pieces, "12345", lambda start: None) == 2
    assert answer_token(pieces, "34", lambda start: None) is None


@pytest.mark.parametrize(
    ("pieces", "starts"),
    [
        (["It", " is", " 3", ".", "5", ".", " So", " A"], (0, 6)),
        (["One", "\n", "two", "\n\n", "three"], (0, 2, 4)),
        (["Is", ' it?"', " Yes", "…", " No", "; ", "so", " be", " it."], (0, 2, 4, 6)),
        (["end.", " "], (0, 1)),
        (["end."], (0,)),
        (["end", ".\n"], (0,)),
        ([], ()),
    ],
)
def test_sentences_begin_after_an_end_and_a_blank_or_a_line_break(pieces, starts):
    assert sentence_starts(pieces) == starts


def test_thinking_ends_with_its_tag_else_before_the_answer_else_never():
    assert thinking_tokens(["<think>", "B", "</", "think", ">\n", " So", " B"], 6) == 5
    assert thinking_tokens(["So", " B"], 1) == 1
    assert thinking_tokens(["So", " what"], None) == 2
    assert thinking_tokens([], None) == 0


def test_the_pieces_of_a_text_make_the_text_whatever_the_tokenizer(toy):
    text = "so 7 C [[ C ]]"
    chats = {"words": toy.chat, "bytes": Chat(byte_tokenizer()), "blocks": Chat(block_tokenizer())}
    for name, chat in chats.items():
        ids = chat.tokenizer.encode(text, add_special_tokens=False)
        pieces = chat.pieces(ids)
        assert len(pieces) == len(ids), name
        assert "".join(pieces).strip() == text, name
        assert chat.pieces([]) == []


def block_tokenizer():
    """Words with their blank before them, which is lost where a token is decoded alone, as Llama 2 has it."""
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Metaspace

    words = ["</s>", "<unk>", *(f"▁{word}" for word in ["so", "7", "C", "[[", "]]"])]
    inner = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


# the measures


def chain(entropies, *, sentences=(0,), answer_at=None, is_truncated=False, stated=None, thinking=0):
    """A chain with these entropies; of each the lead is 1 - h / 4, the logarithm -h / 2."""
    leads, logs = tuple(1 - h / 4 for h in entropies), tuple(-h / 2 for h in entropies)
    return ChainEvidence(
        "e", "text", stated, is_truncated, 9, tuple(entropies), leads, logs, sentences, answer_at, thinking
    )


@pytest.fixture
def known(example_with):
    """Five chains: whole, cut off, without an answer, of one token, and without any text."""
    examples = [example_with(f"e{n}") for n in range(5)]
    chains = [
        chain([0.25, 1.5, 0.0, 3.0, 0.5, 0.125, 0.75, 9.0], sentences=(0, 2, 5), answer_at=5, stated="A", thinking=5),
        chain([1.0, 2.0], answer_at=0, is_truncated=True, stated="B", thinking=0),
        chain([1.0, 0.5, 9.0], sentences=(0, 1), thinking=2),
        chain([0.5, 9.0], answer_at=0, stated="A"),
        chain([9.0], sentences=()),
    ]
    return Known(examples, np.zeros(5, bool), {"chain": chains})


NAN = math.nan
BY_HAND = {
    "chain_answer": [0.125, 1.0, NAN, 0.5, NAN],
    "chain_max": [3.0, 2.0, 1.0, 0.5, NAN],
    "chain_mean": [6.125 / 7, 1.5, 0.75, 0.5, NAN],
    "chain_gap": [2.875, 1.0, NAN, 0.0, NAN],
    "chain_top_two": [1.5, 1.0, 0.5, 0.5, NAN],
    "chain_mix": [0.15 + 0.95 * 0.125, 1.05, NAN, 0.5, NAN],
    "chain_margin": [6.125 / 28, 0.375, 0.1875, 0.125, NAN],
    "chain_surprise": [6.125 / 14, 0.75, 0.375, 0.25, NAN],
    "chain_sequence": [6.125, 3.0, 1.5, 0.5, NAN],
    "chain_sentence_mean": [(1.75 / 2 + 3.5 / 3 + 0.875 / 2) / 3, 1.5, 0.75, 0.5, NAN],
    "chain_sentence_max": [3.5 / 3, 1.5, 1.0, 0.5, NAN],
    "chain_sentence_peak": [(1.5 + 3.0 + 0.75) / 3, 2.0, 0.75, 0.5, NAN],
    "chain_tail": [4.375 / 5, 1.5, 0.75, 0.5, NAN],
    "chain_tail_max": [3.0, 2.0, 1.0, 0.5, NAN],
    "chain_tail_median": [0.5, 1.5, 0.75, 0.5, NAN],
    "chain_high_share": [2 / 7, 0.5, 0.0, 0.0, NAN],  # 0 .125 .25 .5 .5 .5 .75 1 1 1.5 2 3: the percentile is 1.125
    "thinking_length": [5, 0, 2, 0, 0],
    "thinking_entropy": [5.25 / 5, NAN, 0.75, NAN, NAN],
    "thinking_cut": [0, 1, 0, 0, 0],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_measure_of_a_chain_is_what_a_hand_computes_without_the_end_of_the_turn(known, name):
    np.testing.assert_allclose(find_measure(name)(known), BY_HAND[name], rtol=1e-12)


def test_a_test_question_has_no_say_in_what_is_high(known):
    found = find_measure("chain_high_share")
    examples = [replace(one, split="test") if n == 1 else one for n, one in enumerate(known.examples)]
    loud = [chain([50.0] * 40) if n == 1 else one for n, one in enumerate(known.evidence["chain"])]
    quiet = [chain([0.0] * 40) if n == 1 else one for n, one in enumerate(known.evidence["chain"])]
    values = [found(replace(known, examples=examples, evidence={"chain": one})) for one in (loud, quiet)]
    np.testing.assert_array_equal(values[0][[0, 2, 3]], values[1][[0, 2, 3]])
    assert values[0][1] > values[1][1]


def test_where_all_tokens_are_as_unsure_as_one_another_none_is_high(known):
    alike = replace(known, examples=known.examples[:1], evidence={"chain": [chain([1.0, 1.0, 1.0, 9.0])]})
    assert find_measure("chain_high_share")(alike).tolist() == [0.0]


def test_a_chain_is_right_where_it_states_the_gold_answer(known):
    assert chain_correct(known).tolist() == [True, False, False, True, False]


def test_a_token_that_is_no_number_is_refused_by_its_example():
    bad = [chain([1.0, 2.0]), replace(chain([1.0, 2.0]), id="f", entropies=(0.0, NAN))]
    with pytest.raises(DataError, match="ChainEvidence f: entropies is nan"):
        to_table(ChainEvidence, bad)
    assert to_table(ChainEvidence, bad[:1]).num_rows == 1


# a whole run


def test_written_evidence_goes_from_the_recipe_to_the_verdict(tmp_path):
    also = "score.also=[chain_mean, thinking_cut, sequence_entropy, vote_hybrid]"
    sizes = ["data.limit={train: 30, dev: 4, test: 4}", "validate.on_fail=warn", "score.samples=3"]
    run = run_recipe(load_recipe("toy", [also, *sizes, "score.max_new_tokens=14"]), tmp_path, until="validate")
    assert {path.name.partition("-")[0] for path in (tmp_path / "evidence").iterdir()} == {
        *("answer", "chain", "reply", "votes")
    }
    counts = run.manifest(Unit("score"))["counts"]
    assert 0 < counts["unreadable_chain"] <= counts["truncated_chain"] < 38
    assert counts["truncated_chain"] < counts["truncated_votes"] <= 3 * 38
    assert run.validation["measures"]["chain_mean"]["asks"] == "1 forward pass, 1 text written"
    (path,) = (tmp_path / "evidence").glob("votes-*.parquet")
    votes = read_records(path, VoteEvidence)
    assert counts["unreadable_votes"] == sum(one.votes.count("") for one in votes) > 0
    assert counts["truncated_votes"] == sum(one.n_truncated for one in votes)
    values = run.measures.set_index(["measure", "id"])["value"].unstack(0)
    assert values["thinking_cut"].sum() == counts["truncated_chain"]
    assert values.notna().all().all()
    assert own_figures(run) == {
        "chain_mean": "chain",
        "thinking_cut": "chain",
        "sequence_entropy": "reply",
        "vote_hybrid": None,
        "answer_entropy": None,
    }
    chain = run.validation["measures"]["chain_mean"]["own"]
    own = read_records(tmp_path / "score" / "own_answers.parquet", OwnAnswer)
    train = set(run.examples.query("split == 'train'")["id"])
    right = {row.id: row.correct for row in own if row.source == "chain" and row.id in train}
    assert len(right) == chain["n"] == 30
    assert chain["accuracy"] == pytest.approx(sum(right.values()) / 30)
    assert chain["accuracy"] != run.validation["accuracy"]
    wrong = np.array([not one for one in right.values()])
    assert chain["auc"] == roc_auc(values["chain_mean"][list(right)].to_numpy(), wrong).value


def own_figures(run):
    """By measure, whose answers it was judged by beside the answer at once."""
    return {name: one["own"] and one["own"]["source"] for name, one in run.validation["measures"].items()}


@pytest.mark.parametrize(
    ("measure", "change", "is_other"),
    [
        ("answer_entropy", "score.samples=9", False),
        ("answer_entropy", "score.max_new_tokens=9", False),
        ("answer_entropy", "score.proxy=toy", False),
        ("chain_mean", "score.max_new_tokens=9", True),
        ("chain_mean", "score.temperature=0.1", False),
        ("vote_entropy", "score.temperature=0.1", True),
    ],
)
def test_a_setting_redoes_the_arms_only_where_the_driving_measure_reads_it(measure, change, is_other):
    keys = []
    for more in ([], [change]):
        recipe, found = load_recipe("toy", [f"score.measure={measure}", *more]), {}
        for name in ("prepare", "score", "validate"):
            found[Unit(name)] = key_of(step_named(name), Unit(name), recipe, found)
        unit = Unit("route", "banded")
        keys.append((found[Unit("score")], key_of(step_named("route"), unit, recipe, found)))
    assert keys[0][0] != keys[1][0]
    assert (keys[0][1] != keys[1][1]) == is_other


def test_files_in_the_working_directory_are_no_part_of_a_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("toy")
    before = key_of(step_named("score"), Unit("score"), recipe, {})
    (tmp_path / "notes.json").write_text("{}")
    assert key_of(step_named("score"), Unit("score"), recipe, {}) == before
