"""published: each form of table is known by its columns, joined by question, and judged on what it has."""

import json

import pytest

from complaint import teachwise
from teachwise.errors import DataError
from teachwise.measures import published
from teachwise.measures.published import join_published, read_published
from teachwise.stats import roc_auc
from teachwise.tasks.table import read_table, write_table
from teachwise.validate import validate_columns

SINGLE = [
    {"question_id": "7", "entropy_value_qwen2": "0.5", "entropy_ans_qwen2": "b", "entropy_ans_correct_qwen2": "True"},
    {"question_id": "8", "entropy_value_qwen2": "1.5", "entropy_ans_qwen2": "0", "entropy_ans_correct_qwen2": "False"},
]
CHAIN = [
    {"question_id": 7, "qwen2_entropies": "[0.25, 1.0, 0.5]", "qwen2_ans_token_index": 2, "qwen2_ans_correct": True},
    {"question_id": 8, "qwen2_entropies": "[0.5, 2.0]", "qwen2_ans_token_index": -1, "qwen2_ans_correct": False},
    {"question_id": 9, "qwen2_entropies": "", "qwen2_ans_token_index": -1, "qwen2_ans_correct": False},
]
LEVELS = [
    {"question_id": "7", "masj_complexity": "graduate", "masj_rating": "9.0"},
    {"question_id": "8", "masj_complexity": "undergraduate", "masj_rating": "8.0"},
    {"question_id": "9", "masj_complexity": "", "masj_rating": ""},
]
STEPS = [
    {"question_id": "7", "masj_num_reasoning_steps": "high"},
    {"question_id": "8", "masj_num_reasoning_steps": "low"},
]


@pytest.fixture
def tables(tmp_path):
    paths = {}
    for name, rows in {"single": SINGLE, "levels": LEVELS, "steps": STEPS}.items():
        paths[name] = str(tmp_path / f"{name}.tsv")
        write_table(tmp_path / f"{name}.tsv", rows)
    paths["chain"] = str(tmp_path / "chain.parquet")
    write_table(tmp_path / "chain.parquet", CHAIN)
    return paths


def test_the_single_token_table_gives_entropy_and_what_was_right(tables):
    assert read_published(tables["single"]) == {
        "7": {"correct": True, "answer_entropy": 0.5},
        "8": {"correct": False, "answer_entropy": 1.5},
    }


@pytest.mark.parametrize(
    "names",
    [
        ("entropy", "student_correct"),
        ("qwen2_entropy", "qwen2_ans_correct"),
        ("entropy_value_m", "entropy_ans_correct_m"),
    ],
)
def test_every_naming_of_the_single_token_table_is_known(tmp_path, names):
    write_table(tmp_path / "t.csv", [{"question_id": "1", names[0]: "0.25", names[1]: "false"}])
    assert read_published(str(tmp_path / "t.csv")) == {"1": {"correct": False, "answer_entropy": 0.25}}


def test_a_chain_without_an_answer_is_wrong_and_has_no_entropy_of_it(tables):
    assert read_published(tables["chain"]) == {
        "7": {"correct": True, "chain_correct": True, "chain_answer": 0.5, "chain_max": 1.0, "chain_mean": 1.75 / 3},
        "8": {"correct": False, "chain_correct": False, "chain_answer": None, "chain_max": 2.0, "chain_mean": 1.25},
        "9": {"correct": False, "chain_correct": False, "chain_answer": None, "chain_max": None, "chain_mean": None},
    }


def test_a_level_that_the_second_judge_rated_under_nine_is_not_used(tables):
    found = read_published(tables["levels"])
    assert [found[key]["education_level"] for key in "789"] == [0.6, None, None]
    assert [found[key]["education_rating"] for key in "789"] == [9.0, 8.0, None]
    assert read_published(tables["steps"])["7"] == {"reasoning_steps": 0.75}


def test_tables_are_joined_by_question_and_the_first_says_what_was_right(tables):
    rows = join_published([tables[name] for name in ("single", "chain", "levels", "steps")])
    assert [row["question_id"] for row in rows] == ["7", "8"]
    assert rows[0] == {
        "question_id": "7",
        "correct": True,
        "answer_entropy": 0.5,
        "correct_2": True,
        "chain_correct": True,
        "chain_answer": 0.5,
        "chain_max": 1.0,
        "chain_mean": 1.75 / 3,
        "education_level": 0.6,
        "education_rating": 9.0,
        "reasoning_steps": 0.75,
    }
    assert len(join_published([tables["chain"], tables["single"]])) == 3


def test_two_tables_of_one_form_keep_both(tables):
    rows = join_published([tables["single"], tables["single"]])
    assert rows[1]["answer_entropy_2"] == 1.5


def test_quotes_that_are_text_do_not_break_the_table(tmp_path):
    path = tmp_path / "steps.tsv"
    path.write_text('question_id\tquestion\tmasj_num_reasoning_steps\n1\t"Who said \\"no?\tlow\n2\tplain\tmedium\n')
    assert {key: row["reasoning_steps"] for key, row in read_published(str(path)).items()} == {"1": 0.25, "2": 0.5}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question_id": "1", "x": "2"}], "no published table"),
        ([{"id": "1", "entropy": "2"}], "no column 'question_id'"),
    ],
)
def test_another_table_is_refused(tmp_path, rows, said):
    write_table(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match=said):
        read_published(str(tmp_path / "t.csv"))


def test_no_table_that_says_what_was_right_is_refused(tables):
    with pytest.raises(DataError, match="none says what the student answered right"):
        join_published([tables["levels"]])


def test_every_column_is_judged_where_it_has_a_value():
    rows = [{"correct": n % 3 > 0, "a": float(n % 5), "b": None if n % 2 else float(n % 3)} for n in range(60)]
    found = validate_columns(rows)
    assert list(found) == ["a", "b"]
    assert found["b"]["n"] == found["b"]["no_value"] == 30
    assert found["b"]["auc"] == 0.0
    assert found["a"]["behind"] is None
    assert found["b"]["behind"]["n"] == 30


def test_the_published_table_of_the_paper_gives_its_figure(shared_data, tmp_path):
    path = shared_data / "mmlu_pro_qwen25_3b_entropy.parquet"
    code, out, _ = teachwise("published", path, "--json", "--out", tmp_path / "joined.parquet")
    found = json.loads(out)["answer_entropy"]
    assert code == 0
    assert (found["auc"], found["n"]) == (pytest.approx(0.7093, abs=5e-5), 12_030)
    rows = read_table(str(tmp_path / "joined.parquet"))
    assert len(rows) == 12_030
    assert roc_auc([row["answer_entropy"] for row in rows], [not row["correct"] for row in rows]).value == found["auc"]


@pytest.mark.parametrize("index", [None, "", float("nan"), -1, 9])
def test_a_chain_whose_answer_was_not_found_has_no_answer_entropy(index):
    row = {"m_entropies": [9.0, 1.0], "m_ans_token_index": index, "m_ans_correct": False}
    (found,) = published._chain([row], list(row))
    assert (found["chain_answer"], found["chain_max"]) == (None, 9.0)
