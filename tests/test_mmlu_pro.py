from collections import Counter

import pyarrow.parquet as pq
import pytest

from teachwise.records import Unusable
from teachwise.tasks import Row, load_task
from teachwise.tasks.letters import read_letter
from teachwise.tasks.mmlu_pro import HUB_NAME, MmluPro
from teachwise.tasks.multiple_choice import MultipleChoice

STUDENT = "mmlu_pro_qwen25_3b_entropy.parquet"
TEACHER = "mmlu_pro_teacher_llama31_70b.parquet"

PUBLISHED = (
    "src\tanswer\toptions\tcategory\tquestion\tquestion_id\tanswer_index\tbase_cluster\n"
    "x\tB\t['Judges', \"Nobody's law\", '10%']\tlaw\tWho decides?\t7\t1\tLegal Theory\n"
    "x\tC\t['1', '2', '3', '4']\tmath\t\"two\nlines \"\"quoted\"\"\"\t8\t2\tNumbers\n"
)


@pytest.mark.parametrize(("columns", "subject"), [(None, "law"), ({"subject": "base_cluster"}, "Legal Theory")])
def test_the_published_table_is_read(tmp_path, columns, subject):
    path = tmp_path / "mmlu_pro_stem.tsv"
    path.write_text(PUBLISHED, encoding="utf-8")
    first, second = MmluPro(str(path), columns=columns).rows()
    assert first == Row(0, "Who decides?", ("Judges", "Nobody's law", "10%"), "B", subject)
    assert (second.question, second.answer) == ('two\nlines "quoted"', "C")


def test_the_hub_is_the_default_and_nothing_is_loaded_before_it_is_needed():
    task = load_task("mmlu_pro", source=None, columns={}, answer_is="auto", hub_split="test", seed=0, limit={})
    assert isinstance(task, MmluPro)
    assert (task.source, task.answer_is) == (HUB_NAME, "letter")


def test_real_questions_are_all_usable(shared_data):
    rows = list(MmluPro(str(shared_data / STUDENT)).rows())
    assert len(rows) == 12_030
    assert not [row for row in rows if isinstance(row, Unusable)]
    assert len({row.subject for row in rows}) == 14
    sizes = Counter(len(row.options) for row in rows)
    assert (min(sizes), max(sizes), sizes[10]) == (3, 10, 9980)


def test_the_one_disagreeing_row_is_used_and_noted(shared_data):
    task = MmluPro(str(shared_data / STUDENT))
    rows = list(task.rows())
    assert rows[3858].answer == "C"
    assert task.notes == ["row 3858: the answer is 'C', but answer_index is '1'; the answer column counts"]


def test_columns_and_answers_are_found_without_the_preset(shared_data):
    source = str(shared_data / STUDENT)
    rows = list(MmluPro(source).rows())
    assert list(MultipleChoice(source).rows()) == rows
    by_index = list(MultipleChoice(source, columns={"answer": "answer_index"}).rows())
    assert [row.row for row, other in zip(rows, by_index, strict=True) if row != other] == [3858]


@pytest.fixture(scope="module")
def bands(shared_data):
    """Each quartile band of the student's entropy, 25 / 50 / 25% by rank: (gold, stored, stated) per question."""
    teacher = {row["question_id"]: row for row in pq.read_table(shared_data / TEACHER).to_pylist()}
    rows = pq.read_table(shared_data / STUDENT).to_pylist()
    rows.sort(key=lambda row: (row["entropy"], row["question_id"]))
    replies = [
        (row["answer"], reply["teacher_answer"], read_letter(reply["rationale"], row["options"]))
        for row in rows
        for reply in [teacher[row["question_id"]]]
    ]
    quarter, rest = len(rows) // 4, len(rows) * 3 // 4
    return replies[:quarter], replies[quarter:rest], replies[rest:]


def test_teacher_texts_without_an_answer_are_unreadable_and_counted_apart(bands):
    assert [sum(stated is None for _, _, stated in band) for band in bands] == [19, 118, 116]


def test_teacher_accuracy_by_band_as_the_texts_state_it(bands):
    right = [sum(stated == gold for gold, _, stated in band) for band in bands]
    assert right == [2364, 3625, 1539]
    assert [round(count / len(band), 3) for count, band in zip(right, bands, strict=True)] == [0.786, 0.603, 0.512]


def test_teacher_accuracy_by_band_as_stored_counts_lucky_guesses(bands):
    right = [sum(stored == gold for gold, stored, _ in band) for band in bands]
    assert [round(count / len(band), 3) for count, band in zip(right, bands, strict=True)] == [0.786, 0.605, 0.517]


def test_the_stored_answer_differs_from_the_text_where_the_text_states_one(bands):
    """Once a slip of the stored column (the text says H, and is right), once a reply in two parts."""
    differ = [reply for band in bands for reply in band if reply[2] is not None and reply[1] != reply[2]]
    assert differ == [("A", "G", "E"), ("H", "J", "H")]
