"""The whole chain on a small toy run: real student, real training, a real teacher over HTTP."""

import json
import subprocess
import sys
import threading

import pytest

from teachwise import prepare
from teachwise.errors import DataError, GateError, TeacherError
from teachwise.pipeline import run_recipe
from teachwise.recipe import Recipe, load_recipe
from teachwise.records import Assignment, Prediction, Rationale, Score
from teachwise.run_folder import Run, Unit
from teachwise.steps import STEPS, key_of, units_of
from teachwise.toy.server import TeacherServer, serve

ARMS = (
    "arms={base: {policy: none}, sft: {policy: all, give: answer}, banded: {policy: bands, stages:"
    " [{easy: answer, medium: answer}, {hard: rationale}]}, random: {policy: random, like: banded}}"
)
SMALL = [
    "seeds=[0, 1]",
    "data.limit={train: 80, dev: 30, test: 40}",
    "train.epochs=1",
    "evaluate.max_new_tokens=30",
    "evaluate.batch_tokens=8000",
    ARMS,
]


SIZES = {"dev": 30, "test": 40}
MODES = ("direct", "cot", "routed")


@pytest.fixture(scope="module")
def teacher():
    server = serve(0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def small(teacher: TeacherServer, *overrides: str) -> Recipe:
    return load_recipe("toy", [*SMALL, f"teacher.base_url={teacher.base_url}", *overrides])


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory) -> Run:
    return run_recipe(small(teacher), tmp_path_factory.mktemp("run") / "toy")


def times(run: Run) -> dict[str, int]:
    return {str(p.parent.relative_to(run.root)): p.stat().st_mtime_ns for p in run.root.rglob("manifest.json")}


def redone(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {unit for unit in after if after[unit] != before.get(unit) and not unit.startswith("replaced")}


def shares(run: Run, arm: str, seed: int) -> dict[tuple[str, str], float]:
    """Share of correct answers by split and mode, from one seed's own predictions."""
    rows = run.records(Unit("evaluate", arm, seed), "predictions.parquet", Prediction)
    found = {(s, m): [row.correct for row in rows if (row.split, row.mode) == (s, m)] for s in SIZES for m in MODES}
    return {key: sum(right) / SIZES[key[0]] for key, right in found.items()}


def test_every_unit_of_every_step_is_closed_by_a_manifest(finished, teacher):
    recipe = small(teacher)
    units = [unit for step in STEPS for unit in units_of(step, recipe)]
    assert len(units) == 3 + 4 * (1 + 3 * 2) + 2  # the untouched base has nothing that a seed could change
    assert all(finished.manifest(unit) for unit in units)


def test_the_report_and_the_comparison_name_every_arm(finished):
    comparison = finished.json(Unit("compare"), "comparison.json")
    assert list(comparison["arms"]) == ["base", "sft", "banded", "random"]
    assert comparison["intervals_cover"].startswith("questions and training seeds")
    html = (finished.folder(Unit("report")) / "report.html").read_text()
    assert all(arm in html for arm in comparison["arms"])


def test_the_control_has_the_stages_updates_and_bought_rationales_of_the_arm_it_is_like(finished):
    counts = {arm: finished.manifest(Unit("train", arm))["counts"] for arm in ("banded", "random")}
    assert counts["banded"]["updates"] == counts["random"]["updates"]
    bought = {arm: finished.manifest(Unit("teach", arm))["counts"]["requests"] for arm in ("banded", "random")}
    assert bought["banded"] == bought["random"] == 20
    chosen = [finished.records(Unit("route", arm), "assignments.parquet", Assignment) for arm in ("banded", "random")]
    taught = [{row.id for row in rows if row.give == "rationale"} for rows in chosen]
    assert taught[0] != taught[1]


def test_each_training_seed_trains_other_weights_and_draws_another_random_control(finished):
    weights = [(finished.folder(Unit("train", "banded", s)) / "stage-1/model.safetensors").read_bytes() for s in (0, 1)]
    assert weights[0] != weights[1]
    drawn = [finished.records(Unit("teach", "random", s), "rationales.parquet", Rationale) for s in (0, 1)]
    assert {row.id for row in drawn[0]} != {row.id for row in drawn[1]}


def test_accuracies_per_seed_are_those_of_each_seeds_own_answers_in_the_chosen_mode(finished):
    arms = finished.json(Unit("compare"), "comparison.json")["arms"]
    for arm, found in arms.items():
        own = [shares(finished, arm, seed) for seed in ([0] if arm == "base" else [0, 1])]
        mode = found["mode"]
        assert found["per_seed"] == pytest.approx([share["test", mode] for share in own], abs=1e-6)
        assert found["accuracy"]["value"] == pytest.approx(sum(found["per_seed"]) / len(own), abs=1e-6)
        best = max(sum(share["dev", one] for share in own) for one in MODES)
        assert sum(share["dev", mode] for share in own) == pytest.approx(best)
    assert any(len(set(found["per_seed"])) == 2 for found in arms.values()), "seeds that answer alike show nothing here"


def test_an_arms_cost_is_the_mean_over_its_seeds(finished):
    cost = finished.json(Unit("compare"), "comparison.json")["arms"]["random"]["cost"]
    teach, train = (
        [finished.manifest(Unit(step, "random", seed))["counts"] for seed in (0, 1)] for step in ("teach", "train")
    )
    tokens = [counts["prompt_tokens"] + counts["completion_tokens"] for counts in teach]
    assert tokens[0] != tokens[1], "seeds that cost the same show nothing here"
    assert cost["teacher_tokens"] == sum(tokens) / 2
    assert cost["teacher_prompt_tokens"] == sum(counts["prompt_tokens"] for counts in teach) / 2
    assert cost["teacher_completion_tokens"] == sum(counts["completion_tokens"] for counts in teach) / 2
    assert cost["rationales_bought"] == 20
    assert cost["rationales_kept"] == sum(counts["kept"] for counts in teach) / 2
    assert cost["trained_tokens"] == sum(counts["trained_tokens"] for counts in train) / 2


def test_every_held_out_question_is_answered_in_every_mode(finished):
    rows = finished.records(Unit("evaluate", "banded"), "predictions.parquet", Prediction)
    assert {(row.split, row.mode) for row in rows} == {(s, m) for s in ("dev", "test") for m in MODES}
    assert len(rows) == 3 * (30 + 40)


def test_no_rejected_rationale_is_trained_on(finished):
    rationales = finished.records(Unit("teach", "banded"), "rationales.parquet", Rationale)
    kept = sum(one.kept for one in rationales)
    stage = json.loads((finished.folder(Unit("train", "banded")) / "stage-1" / "stage.json").read_text())
    assert stage["rows"] == kept


def test_a_second_run_keeps_everything_and_asks_the_teacher_nothing(finished, teacher):
    before, asked = times(finished), teacher.n_completions
    run_recipe(small(teacher), finished.root)
    assert redone(before, times(finished)) == set()
    assert teacher.n_completions == asked


def test_a_new_edge_redoes_the_arms_that_look_at_it_and_nothing_else(teacher):
    recipe = small(teacher, "arms.banded.edges=[0.3, 0.8]")
    old, new = _keys(small(teacher)), _keys(recipe)
    changed = {unit for unit in old if old[unit] != new[unit]}
    assert {(unit.step, unit.arm) for unit in changed} == {
        (step, arm) for step in ("route", "teach", "train", "evaluate") for arm in ("banded", "random")
    } | {("compare", ""), ("report", "")}


def test_a_measure_more_redoes_no_arm_and_asks_no_model(teacher, tmp_path, monkeypatch):
    """The evidence is there already: the student is not even loaded."""
    run = run_recipe(small(teacher), tmp_path / "run", until="route")
    before = times(run)
    monkeypatch.setattr("teachwise.engines.hf.HfEngine.__init__", lambda *_, **__: pytest.fail("a model was loaded"))
    recipe = small(teacher, "score.also=[max_probability, gold_cross_entropy, outside_mass]")
    run_recipe(recipe, tmp_path / "run", until="route")
    assert redone(before, times(run)) == {"score", "validate"}
    names = {row.measure for row in run.records(Unit("score"), "scores.parquet", Score)}
    assert names == {"answer_entropy", "max_probability", "gold_cross_entropy", "outside_mass"}
    assert len(list((tmp_path / "run" / "evidence").iterdir())) == 1


def test_another_driving_measure_redoes_what_follows_the_scores_without_asking_again(teacher, tmp_path):
    run = run_recipe(small(teacher), tmp_path / "run", until="route")
    before, values = times(run), run.scores["value"].tolist()
    run_recipe(small(teacher, "score.measure=question_length"), tmp_path / "run", until="route")
    assert {"score", "validate", "route/banded/seed-0/round-0"} <= redone(before, times(run))
    assert len(list((tmp_path / "run" / "evidence").iterdir())) == 1
    assert run.scores["measure"].unique().tolist() == ["question_length"]
    assert run.scores["value"].tolist() != values
    assert run.measures["measure"].nunique() == 5


def test_variants_proxy_and_a_measure_of_ones_own_go_the_whole_way_to_the_gate(teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def words(known):\n    return [len(e.question) for e in known.examples]\n")
    also = "[answer_entropy@fallback, option_entropy@alternative, instruction_difficulty, gain, 'mine:words']"
    recipe = small(teacher, f"score={{also: {also}, proxy: toy}}")
    run = run_recipe(recipe, tmp_path / "run", until="validate")
    sources = {path.name.partition("-")[0] for path in (tmp_path / "run" / "evidence").iterdir()}
    assert sources == {"answer", "fallback", "alternative", "bare", "proxy"}
    counts = run.manifest(Unit("score"))["counts"]
    assert {"unreadable_fallback", "unreadable_alternative", "unreadable_proxy"} < set(counts)
    values = run.measures.pivot(index="id", columns="measure", values="value")
    assert (values["gain"] == 0).all(), "the proxy is the student here"
    assert (values["answer_entropy"] != values["answer_entropy@fallback"]).any()
    key = key_of(STEPS[1], Unit("score"), recipe, {Unit("prepare"): "k"})
    (tmp_path / "mine.py").write_text("def words(known):\n    return [1.0 for e in known.examples]\n")
    assert key_of(STEPS[1], Unit("score"), recipe, {Unit("prepare"): "k"}) != key


def test_a_new_arm_redoes_no_other_arm(teacher):
    old = _keys(small(teacher))
    new = _keys(small(teacher, "arms.distill={policy: all, give: rationale}"))
    assert {unit.step for unit in old if old[unit] != new[unit]} == {"compare", "report"}


def test_a_new_student_redoes_everything_from_the_scores_on(teacher):
    old, new = _keys(small(teacher)), _keys(small(teacher, "student.dtype=bfloat16"))
    assert {unit.step for unit in old if old[unit] == new[unit]} == {"prepare"}


def test_fields_that_change_only_speed_redo_nothing(teacher):
    faster = ["score.batch_tokens=99", "teacher.concurrency=2", "train.save_every=7", "evaluate.batch_tokens=500"]
    assert _keys(small(teacher)) == _keys(small(teacher, *faster))


def test_a_changed_recipe_that_stops_early_leaves_no_result_of_the_old_one_beside_it(teacher, tmp_path):
    arms = "arms={base: {policy: none}}"
    run = run_recipe(small(teacher, arms), tmp_path)
    before = times(run)
    run_recipe(small(teacher, arms, "evaluate.max_new_tokens=20"), tmp_path, until="score")
    left = set(times(run))
    assert not {unit for unit in left if unit.startswith(("evaluate", "compare", "report"))}
    assert {unit for unit in left if unit.startswith(("prepare", "score", "train"))}
    run_recipe(small(teacher, arms), tmp_path)
    assert times(run).keys() >= before.keys()
    assert not redone(before, times(run))


def test_a_changed_recipe_that_is_killed_at_once_leaves_no_old_figure_beside_new_weights(
    teacher, tmp_path, monkeypatch
):
    arms = "arms={base: {policy: none}, sft: {policy: all, give: answer}}"
    run = run_recipe(small(teacher, arms), tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("teachwise.train.train_arm", killed)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(small(teacher, arms, "train.learning_rate=0.002"), tmp_path)
    left = {unit for unit in times(run) if not unit.startswith("replaced/")}
    assert {unit.partition("/")[0] for unit in left if "/base/" not in unit} == {
        "prepare",
        "score",
        "validate",
        "route",
        "teach",
    }
    assert {"train/base/seed-0/round-0", "evaluate/base/seed-0/round-0"} <= left, "untouched by how training goes"


def test_open_questions_whose_answer_is_a_number_go_the_whole_way(teacher, tmp_path):
    arms = "arms={base: {policy: none}, distill: {policy: all, give: rationale}}"
    run = run_recipe(small(teacher, "data.task=toy_open", "validate.on_fail=warn", arms), tmp_path)
    scores = run.records(Unit("score"), "scores.parquet", Score)
    assert {row.option_mass for row in scores} == {None}
    assert 0 < sum(row.correct for row in scores) < len(scores)
    stated = [p.stated for p in run.records(Unit("evaluate", "base", 0), "predictions.parquet", Prediction)]
    assert sum(text is not None and text.isdigit() for text in stated) > len(stated) / 2
    kept = [r for r in run.records(Unit("teach", "distill", 0), "rationales.parquet", Rationale) if r.kept]
    assert kept


def test_an_edited_table_is_noticed(tmp_path):
    table = tmp_path / "q.csv"
    recipe = load_recipe("toy", ["data={task: multiple_choice, source: " + str(table) + "}"])
    table.write_text("question,A,B,answer\nx,1,2,A\n")
    old = _keys(recipe)[Unit("prepare")]
    table.write_text("question,A,B,answer\nx,1,2,B\n")
    assert _keys(recipe)[Unit("prepare")] != old


def test_results_of_a_table_that_was_edited_do_not_stay_when_the_run_stops_early(teacher, tmp_path):
    table = tmp_path / "q.csv"
    rows = [f"calc {n} + {m} is,3,4,5,6,A" for n in range(10) for m in range(8)]
    table.write_text("\n".join(["question,A,B,C,D,answer", *rows]))
    recipe = [
        "data={task: multiple_choice, source: " + str(table) + "}",
        "validate.on_fail=warn",
        "arms={base: {policy: none}}",
    ]
    run = run_recipe(load_recipe("toy", [*recipe, f"teacher.base_url={teacher.base_url}"]), tmp_path / "run")
    table.write_text("\n".join(["question,A,B,C,D,answer", *rows[:-9]]))
    run_recipe(load_recipe("toy", [*recipe, f"teacher.base_url={teacher.base_url}"]), tmp_path / "run", until="route")
    assert not {unit for unit in times(run) if unit.startswith(("evaluate", "compare", "report"))}


def test_a_failed_gate_stops_before_anything_is_bought(teacher, tmp_path):
    asked = teacher.n_completions
    with pytest.raises(GateError, match="does not predict errors") as error:
        run_recipe(small(teacher, "validate.min_auc=1.0"), tmp_path)
    assert error.value.exit_code == 3
    assert teacher.n_completions == asked
    assert not (tmp_path / "route").exists()


def test_a_failed_gate_can_route_at_random_and_says_so(teacher, tmp_path):
    recipe = small(teacher, "validate={min_auc: 1.0, on_fail: random}")
    run = run_recipe(recipe, tmp_path, until="route")
    assert run.manifest(Unit("route", "banded"))["counts"]["randomised"] is True
    assert "randomised" not in run.manifest(Unit("route", "sft"))["counts"]


def test_a_second_run_in_the_folder_is_refused_while_the_first_is_inside_a_step(teacher, tmp_path, monkeypatch):
    refused = []

    def step(recipe, run, unit):
        if not refused:
            refused.append(None)  # should the second be let in, it must not try a third
            with pytest.raises(DataError, match="another teachwise process") as error:
                run_recipe(small(teacher, "seeds=[7]"), tmp_path, until="prepare")
            refused[0] = error.value.exit_code
        return {}

    monkeypatch.setattr(prepare, "prepare_examples", step)
    run = run_recipe(small(teacher), tmp_path, until="prepare")
    assert refused == [2]
    assert run.manifest(Unit("prepare"))
    assert load_recipe(tmp_path / "resolved.yaml").seeds == [0, 1], "the refused one wrote its own recipe"
    run_recipe(small(teacher), tmp_path, until="prepare")


def test_what_was_done_before_is_said_at_the_start_of_a_step(teacher, tmp_path, capsys):
    arms = "base: {policy: none}, sft: {policy: all, give: answer}"
    run_recipe(small(teacher, "validate.on_fail=warn", f"arms={{{arms}}}"), tmp_path, until="teach")
    capsys.readouterr()
    more = f"{arms}, more: {{policy: all, give: answer}}"
    run_recipe(small(teacher, "validate.on_fail=warn", f"arms={{{more}}}"), tmp_path, until="route")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "changed since the last start: arms.more added"
    told = [line.split("  ")[:2] for line in lines if line.startswith(("kept", "done"))]
    assert told == [
        ["kept", "prepare: 1 of 1 done before"],
        ["kept", "score: 1 of 1 done before"],
        ["kept", "validate: 1 of 1 done before"],
        ["kept", "route: 3 of 5 done before"],
        ["done", "route more (seed 0)"],
        ["done", "route more (seed 1)"],
    ]


def test_at_most_five_changed_fields_are_named_and_an_edited_table_is_other_inputs(teacher, tmp_path, capsys):
    table = tmp_path / "q.csv"
    table.write_text("\n".join(["question,A,B,answer", *(f"what is {n},1,2,A" for n in range(60))]))
    task = "data={task: multiple_choice, source: " + str(table) + "}"
    run_recipe(small(teacher, task), tmp_path / "run", until="prepare")
    assert "changed" not in capsys.readouterr().err
    table.write_text(table.read_text() + "\nwhat is 99,1,2,B")
    run_recipe(small(teacher, task), tmp_path / "run", until="prepare")
    assert f"aside: 1 unit of prepare (of other inputs), kept in {tmp_path / 'run' / 'replaced'}" in (
        capsys.readouterr().err
    )
    fields = [f"train.{field}" for field in ("epochs=9", "learning_rate=1", "lora_r=1", "lora_alpha=1")]
    more = ["seeds=[5]", "note=x", "teacher.concurrency=3"]
    run_recipe(small(teacher, task, *fields, *more), tmp_path / "run", until="prepare")
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("changed since the last start: note Toy benchmark")
    assert first.count(" -> ") == 5
    assert first.endswith(" and 1 more")


def test_a_failed_gate_that_only_warns_cannot_be_overlooked(teacher, tmp_path, capsys):
    run_recipe(small(teacher, "validate={min_auc: 1.0, on_fail: warn}"), tmp_path, until="route")
    lines = capsys.readouterr().err.splitlines()
    loud = [line for line in lines if line.startswith("WARNING ")]
    assert len(loud) == 1, "said once at every start"
    assert "does not predict errors" in loud[0]
    assert "no better than by lot" in loud[0]
    assert "from here on" not in loud[0], "this start buys nothing"
    sft = "arms={sft: {policy: all, give: answer}}"
    run_recipe(small(teacher, "validate={min_auc: 1.0, on_fail: warn}", sft), tmp_path, until="route")
    assert capsys.readouterr().err.count("WARNING ") == 1, "nothing is bought"


def test_how_training_goes_is_all_the_same_to_an_arm_that_trains_nothing(teacher):
    before, after = _keys(small(teacher)), _keys(small(teacher, "train.epochs=9", "on_rejected=answer"))
    changed = {unit.arm for unit in before if unit.step in ("train", "evaluate") and before[unit] != after[unit]}
    assert changed == {"sft", "banded", "random"}
    other = _keys(small(teacher, "student.dtype=bfloat16"))
    assert other[Unit("train", "base")] != before[Unit("train", "base")]


def test_an_arm_that_trains_nothing_loads_no_trainer(finished, teacher):
    code = (
        "import sys; from teachwise.recipe import load_recipe; from teachwise.run_folder import Run, Unit\n"
        "from teachwise.train import train_arm\n"
        "run = Run(sys.argv[1])\n"
        "train_arm(load_recipe(run.root / 'resolved.yaml'), run, Unit('train', 'base'))\n"
        "print([name for name in ('torch', 'trl', 'teachwise.trainer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, finished.root], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def _keys(recipe: Recipe) -> dict[Unit, str]:
    keys: dict[Unit, str] = {}
    for step in STEPS:
        for unit in units_of(step, recipe):
            keys[unit] = key_of(step, unit, recipe, keys)
    return keys


def test_a_missing_key_is_told_before_any_work(teacher, tmp_path):
    with pytest.raises(TeacherError, match="NOT_SET"):
        run_recipe(small(teacher, "teacher.key_env=NOT_SET"), tmp_path)
    assert not (tmp_path / "prepare").exists()


@pytest.mark.parametrize("arms", ["base: {policy: none}", "sft: {policy: all, give: answer}"])
def test_a_run_that_buys_nothing_needs_no_key(teacher, tmp_path, arms):
    recipe = small(teacher, "teacher.key_env=NOT_SET", "arms={" + arms + "}")
    assert run_recipe(recipe, tmp_path, until="teach").root == tmp_path


def test_a_run_that_was_taught_needs_no_key_any_more(finished, teacher):
    before = times(finished)
    run_recipe(small(teacher, "teacher.key_env=NOT_SET"), finished.root)
    assert redone(before, times(finished)) == set()


def test_what_the_budget_leaves_out_redoes_the_arms_it_touched_and_no_other(teacher, tmp_path):
    """A whole arm is the same whether a partial one would have been allowed or not, under any cap."""
    run = run_recipe(small(teacher, "seeds=[0]"), tmp_path / "whole", until="teach")
    before = times(run)
    for budget in ("{teacher_tokens: 400000, on_spent: partial}", "{teacher_tokens: 500000, on_spent: partial}"):
        run_recipe(small(teacher, "seeds=[0]", f"budget={budget}"), run.root, until="teach")
        assert redone(before, times(run)) == set()

    tight = run_recipe(
        small(teacher, "seeds=[0]", "budget={teacher_tokens: 900, on_spent: partial}"), tmp_path / "t", until="teach"
    )
    before = times(tight)
    gaps = {arm: tight.manifest(Unit("teach", arm))["counts"]["unpaid"] for arm in ("sft", "banded", "random")}
    assert gaps["sft"] == 0 < gaps["random"]
    run_recipe(
        small(teacher, "seeds=[0]", "budget={teacher_tokens: 900, on_spent: partial}"), tight.root, until="teach"
    )
    assert redone(before, times(tight)) == set()
    more = "budget={teacher_tokens: 400000, on_spent: partial}"
    run_recipe(small(teacher, "seeds=[0]", more), tight.root, until="teach")
    assert redone(before, times(tight)) == {f"teach/{arm}/seed-0/round-0" for arm, n in gaps.items() if n}
    assert tight.manifest(Unit("teach", "random"))["key"] == run.manifest(Unit("teach", "random"))["key"]


def test_what_is_rejected_is_nothing_to_an_arm_that_asks_no_teacher(teacher):
    def keys(*overrides):
        recipe, found = small(teacher, *overrides), {}
        for step in STEPS:
            for unit in units_of(step, recipe):
                found[unit] = key_of(step, unit, recipe, found)
        return found

    before = keys()
    for change in ("on_rejected=answer", "keep=all", "teacher.max_tokens=77"):
        after = keys(change)
        changed = {unit.arm for unit in after if after[unit] != before[unit] and unit.step in ("teach", "train")}
        assert changed == {"banded", "random"}, change
