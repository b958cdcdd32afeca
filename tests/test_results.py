"""`docs/results.md` says what `docs/results/measures.json` has, and `bench/measures.py` measures what it says."""

import copy
import importlib.util
import json
import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata

from doc_pages import ROOT
from teachwise.measures import MEASURES, SOURCES, Known, Measure, find_measure
from teachwise.measures.answer import known_example
from teachwise.records import Example
from teachwise.run_folder import Run, Unit
from teachwise.stats import roc_auc

PAGE, FIGURES = ROOT / "docs" / "results.md", ROOT / "docs" / "results" / "measures.json"


def load(folder, name):
    """A module that is no part of the package."""
    sys.path.insert(0, str(ROOT / folder))
    try:
        spec = importlib.util.spec_from_file_location(f"{folder}_{name}", ROOT / folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # its dataclasses look themselves up
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / folder))


@pytest.fixture(scope="module")
def page():
    return load("docs", "results_page")


@pytest.fixture(scope="module")
def judge():
    return load("bench", "measure_figures")


@pytest.fixture(scope="module")
def found():
    return json.loads(FIGURES.read_text(encoding="utf-8"))


def generated():
    return re.search(
        r"<!-- generated: results measures -->\n(.*?)<!-- end -->", PAGE.read_text(encoding="utf-8"), re.S
    )[1]


def test_the_page_is_what_the_figures_give(page, found):
    assert generated() == page.measures_results(found)


def test_the_tables_of_the_page_have_the_figures_of_the_file(found):
    """Read without the code that writes them."""
    text = generated()
    on_train, on_test = (text.partition(f"### {title}")[2].partition("\n### ")[0] for title in ("On train", "On test"))
    for row in found["measures"]:
        for part, auc in ((on_train, row["auc"]), (on_test, row["test"]["auc"])):
            (line,) = re.findall(rf"^\| `{re.escape(row['name'])}`[^|]*\|([^|]*)\|([^|]*)\|", part, re.MULTILINE)
            assert [float(one) for one in re.findall(r"\d?\.\d+", line[0])] == [
                round(auc[key], 3) for key in ("value", "low", "high") if auc[key] is not None
            ]
            assert int(line[1].replace(",", "")) == auc["n"]


def test_no_figure_stands_outside_of_what_the_code_writes():
    by_hand = PAGE.read_text(encoding="utf-8").replace(generated(), "")
    assert re.findall(r"(?<!\d)\.\d{2,}|\d+(?:\.\d+)?%", by_hand) == ["95%"]


CHANGES = {
    "a measure's AUC": lambda one: one["measures"][2]["auc"].update(value=0.123),
    "its lower end": lambda one: one["measures"][2]["auc"].update(low=0.123),
    "the paired difference": lambda one: one["measures"][2]["behind"].update(high=0.9),
    "within strata": lambda one: one["measures"][2]["within"].update(low=0.123),
    "Gini": lambda one: one["measures"][2]["gini"].update(value=0.123),
    "calibration": lambda one: one["measures"][2].update(ece=0.987),
    "confidently wrong": lambda one: one["measures"][2]["confidently_wrong"].update(value=0.987),
    "the verdict": lambda one: one["measures"][2].update(verdict="FAIL"),
    "on test": lambda one: one["measures"][2]["test"]["auc"].update(value=0.123),
    "a control on train": lambda one: one["measures"][0]["against"]["train"]["random"].update(low=-1.0, high=-0.5),
    "a control on test": lambda one: one["measures"][0]["against"]["test"]["random"].update(low=-1.0, high=-0.5),
    "passes": lambda one: one["measures"][2]["cost"].update(forward_passes=77),
    "seconds": lambda one: one["measures"][2]["seconds"].update(asking=77.77),
    "a family": lambda one: one["measures"][2]["by"]["calc"].update(value=0.123),
    "alike": lambda one: one["alike"].pop(0),
    "a proof": lambda one: one["alike"][0].update(because=None),
    "the toy's domain": lambda one: one["domains"]["toy"]["measures"]["answer_entropy"]["by"]["calc"].update(value=0.1),
    "the real table": lambda one: one["domains"]["mmlu_pro"]["measures"]["random"]["auc"].update(value=0.1),
    "a subject": lambda one: one["domains"]["mmlu_pro"]["measures"]["answer_entropy"]["by"]["law"].update(high=0.1),
    "its day": lambda one: one["domains"]["mmlu_pro"].update(measured="2020-01-01"),
    "sizes": lambda one: one["sizes"].update(train=7),
    "a measure less": lambda one: one["measures"].pop(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_figure_is_no_longer_that_of_the_page(page, found, what):
    changed = copy.deepcopy(found)
    CHANGES[what](changed)
    assert page.measures_results(changed) != generated()


def row_of(name, role="signal", train=(0.1, 0.2), test=(0.1, 0.2), behind=(-0.1, 0.1), **more):
    auc = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 10}
    lead = {key: {"c": {"value": sum(ends) / 2, "low": ends[0], "high": ends[1], "n": 10}} for key, ends in
            (("train", train), ("test", test))}  # fmt: skip
    gap = {"value": sum(behind) / 2, "low": behind[0], "high": behind[1], "n": 10}
    return {"name": name, "role": role, "auc": auc, "within": auc, "own": None, "against": lead, "behind": gap, **more}


def test_what_is_said_of_the_measures_follows_from_the_intervals(page):
    held = {"value": 0.5, "low": 0.45, "high": 0.55, "n": 10}
    low = {"value": 0.3, "low": 0.2, "high": 0.4, "n": 10}
    rows = [
        row_of("both", behind=(-0.2, -0.1)),
        row_of("train_alone", test=(-0.1, 0.1), behind=(0.1, 0.2)),
        row_of("unsettled", train=(-0.1, 0.1), within=held),
        row_of("beaten", train=(-0.2, -0.1), auc=low, within=low),
        row_of("told", role="gold"),
        row_of("asked", role="scripted"),
        {**row_of("c", role="control", within=held), "against": {"train": {}, "test": {}}},
    ]
    said = page.verdicts({"measures": rows})
    lines = {match[1]: match[2] for match in re.finditer(r"^- \*\*(.+?)\*\*(.*)$", said, re.MULTILINE)}
    assert lines["Beat every one of the 1 controls, on train and on test"] == ": `both`."
    assert lines["Beat every control on train, not all on test"] == ": `train_alone`."
    assert lines["Not told apart from a control"] == " (which): `unsettled` (`c`)."
    assert lines["Beaten by a control"] == " (which): `beaten` (to `c`)."
    inside = lines["Tell errors among questions of one subject and one quarter of lengths"]
    assert inside.endswith("every control: `both`, `train_alone`; above .5 alone: none; not: `unsettled`, `beaten`.")
    assert lines["The wrong way round"].endswith(": `beaten`.")
    assert lines["Answer entropy is better than"].endswith(": `train_alone`.")
    assert lines["Answer entropy is worse than"] == ": `both`."
    assert lines["Answer entropy is not told apart from"] == ": `unsettled`, `beaten`."
    assert lines["No claim, because they look at the gold answer"].endswith(": `told`.")
    assert lines["No claim, because the toy's judge is a program"].endswith(": `asked`.")


def known_with(letters, tops=None, options=None):
    """Questions with these log-probabilities of the letters, and of the two likeliest tokens."""
    one = known_example()
    answer, example = one.evidence["answer"][0], one.examples[0]
    tops = tops or [sorted(row)[:-3:-1] for row in letters]
    answers = [
        replace(answer, letter_logprobs=tuple(row), option_logprobs=tuple(wide), top_logprob=top, second_logprob=second)
        for row, wide, (top, second) in zip(letters, options or letters, tops, strict=True)
    ]
    examples = [replace(example, id=f"e{n}") for n in range(len(letters))]
    return Known(examples, np.arange(len(letters)) % 2 == 0, {"answer": answers})


def draw(count, n=200):
    shares = np.random.default_rng(3).dirichlet([0.4] * count, n)
    return [[math.log(max(p, 1e-9)) for p in row] for row in shares]


def test_what_must_rank_alike_does(judge):
    """Each proof's condition, met by numbers drawn by lot: the two measures order all questions alike."""
    two = [[math.log(p), math.log1p(-p)] for p in np.random.default_rng(1).uniform(0.5, 0.999, 200)]
    met = {"option": known_with(draw(4)), "margin": known_with(two, two)}
    for reason in judge.REASONS:
        known = met["margin" if "margin" in reason.names else "option"]
        assert reason.holds(known), reason.because
        first, second = (rankdata(np.round(find_measure(name)(known), 12)) for name in sorted(reason.names))
        assert first.tolist() == second.tolist(), reason.because


def test_where_a_condition_does_not_hold_nothing_is_proved_and_the_rankings_differ(judge):
    mixed = known_with([*draw(4, 50), *draw(9, 50)], options=draw(4, 50) + draw(9, 50)[::-1])
    for reason in judge.REASONS:
        known = known_with(draw(4)) if "margin" in reason.names else mixed
        assert not reason.holds(known), reason.because
        first, second = (rankdata(find_measure(name)(known)) for name in sorted(reason.names))
        assert first.tolist() != second.tolist(), reason.because


def test_measures_that_say_the_same_are_found(judge):
    known = known_with(draw(3, 40))
    values = np.random.default_rng(5).normal(size=40)
    other = values.copy()
    other[[0, 2]] = values[[2, 0]]  # two right or two wrong ones change places: the same AUC
    columns = {"a": values, "twice": values, "cubed": values**3, "swapped": other, "back": -values}
    scores = {name: {f"e{n}": Value(one) for n, one in enumerate(row)} for name, row in columns.items()}
    pairs = {frozenset(pair["names"]): pair["how"] for pair in judge.alike(scores, known)}
    assert pairs[frozenset({"a", "twice"})] == "values"
    assert pairs[frozenset({"a", "cubed"})] == "ranking"
    assert pairs[frozenset({"a", "swapped"})] == "auc"
    assert not any("back" in names for names in pairs)


class Value:
    """As much of a score as is looked at."""

    def __init__(self, value):
        self.value = float(value)


def test_every_role_is_told_from_the_registry(judge):
    roles = {name: judge.role_of(name) for name in MEASURES}
    assert roles["answer_entropy"] == "signal"
    assert roles["random"] == roles["subject_prior"] == "control"
    assert roles["gold_cross_entropy"] == roles["instruction_difficulty"] == "gold"
    assert {name for name, role in roles.items() if role == "scripted"} == {
        name for name, one in MEASURES.items() if one.cost["teacher_calls"]
    }


def test_what_asks_a_teacher_is_scripted_on_the_toy(judge, monkeypatch):
    monkeypatch.setitem(SOURCES, "judge", replace(SOURCES["answer"], name="judge", calls=1))
    monkeypatch.setitem(MEASURES, "judged", Measure("judged", "gold", "0-1", ("answer", "judge")))
    assert judge.role_of("judged") == "scripted"


def test_a_measure_that_is_newer_than_the_figures_is_named_as_such(page, found):
    older = copy.deepcopy(found)
    older["measures"] = [row for row in older["measures"] if row["name"] != "margin"]
    assert "Left out (newer than these figures): `margin`" in page.about(older)
    for name in MEASURES:
        assert f"`{name}`" in generated()


def test_no_measure_ranks_like_another_without_proof(found):
    assert [one["names"] for one in found["alike"] if one["how"] in ("values", "ranking") and not one["because"]] == []


def test_the_figures_of_the_real_table_are_those_known(judge, shared_data, found):
    real = judge.real_domain(shared_data)
    assert real["measures"] == found["domains"]["mmlu_pro"]["measures"]
    assert round(real["measures"]["answer_entropy"]["auc"]["value"], 4) == 0.7093


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) >= 8
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{test}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The figures of a tiny run, twice: the second time nothing is asked again."""
    bench, home = load("bench", "measures"), tmp_path_factory.mktemp("measures")
    sizes = ["--train", "60", "--dev", "5", "--test", "40", "--work", str(home / "work"), "--data", str(home / "none")]
    (home / "kept.json").write_text('{"domains": {"mmlu_pro": {"measured": "2020-01-01", "measures": {}}}}')
    plain = dict(SOURCES)
    assert bench.main([*sizes, "--json", str(home / "kept.json")]) in (0, 1)  # of so few, some rank alike by chance
    assert plain == SOURCES
    asked = (home / "work" / "seconds.json").read_text()
    before = json.loads((home / "kept.json").read_text())
    bench.main([*sizes, "--json", str(home / "again.json")])
    assert (home / "work" / "seconds.json").read_text() == asked
    return home, before, json.loads((home / "again.json").read_text())


@pytest.mark.slow
def test_all_measures_run_on_a_tiny_toy(tiny):
    _, figures, _ = tiny
    names = {row["name"] for row in figures["measures"]}
    assert names | set(figures["left_out"]) >= {*MEASURES, "answer_entropy@fallback"}
    assert "gain" in figures["left_out"]  # no weaker model was given
    assert figures["asked"] == 105
    for row in figures["measures"]:
        assert row["seconds"]["computing"] >= 0
        assert (row["seconds"]["asking"] is None) == (row["role"] == "scripted"), row["name"]
    answer = next(row for row in figures["measures"] if row["name"] == "answer_entropy")
    control = next(row for row in figures["measures"] if row["name"] == "random")
    assert answer["seconds"]["asking"] > 0
    assert control["seconds"]["asking"] == 0


@pytest.mark.slow
def test_the_aucs_are_those_of_the_runs_scores(tiny, judge):
    home, figures, _ = tiny
    run = Run(home / "work" / "run")
    frame = list(judge.values_of(run)["margin"].values())
    split = {one.id: one.split for one in run.records(Unit("prepare"), "examples.parquet", Example)}
    margin = next(row for row in figures["measures"] if row["name"] == "margin")
    for name, auc in (("train", margin["auc"]), ("test", margin["test"]["auc"])):
        rows = [row for row in frame if split[row.id] == name]
        expected = roc_auc(np.array([row.value for row in rows]), np.array([not row.correct for row in rows]))
        assert (auc["value"], auc["n"]) == (pytest.approx(expected.value), len(rows))


@pytest.mark.slow
def test_a_second_start_gives_the_same_figures_and_asks_nothing(tiny):
    _, first, second = tiny
    for one in (first, second):
        one.pop("domains")
        one["measures"] = [{key: value for key, value in row.items() if key != "seconds"} for row in one["measures"]]
    assert first == second


@pytest.mark.slow
def test_figures_of_an_absent_table_are_kept_with_their_day(tiny):
    home, _, _ = tiny
    kept = json.loads((home / "kept.json").read_text())["domains"]["mmlu_pro"]
    assert kept == {"measured": "2020-01-01", "measures": {}}
