"""What the contamination guard finds and what it misses, measured on planted copies of real questions.

    python bench/guard.py --data ../shared/data --json bench/results/guard.json

Of every source some questions are held out and the rest is train. Copies of the held-out ones are planted in train, one
of each kind per question, and so are different questions of the same words (other numbers; another question about the
same text). Recall is the share of the copies that are found; precision the share of the found rows that are copies or
otherwise repeat a held-out question. The settings of `teachwise.overlap` were chosen on plants of GSM8K and on rows
that the toy lost, its rules shaped by what stands in MMLU-Pro; plants of MMLU-Pro and of KMMLU chose nothing.

Sources whose file is not in the folder are left out; the toy needs none.
"""

import argparse
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import teachwise
from teachwise.overlap import copies, recitals
from teachwise.prepare import read_source
from teachwise.records import LETTERS, Example
from teachwise.sections import Data

GSM8K, MMLU_PRO, KMMLU = "gsm8k_train.jsonl", "mmlu_pro_qwen25_3b_entropy.parquet", "kmmlu_strategic_500.jsonl"
TEACHER = "mmlu_pro_teacher_llama31_70b.parquet"
HELD = 1000
"""Held-out questions of a source; a quarter of one that has fewer than four times as many."""
REPEATS_BY_HAND = {"mmlu_pro": 10}
"""Train rows found without any plant that do repeat a held-out question, by reading each of them."""


# sources


def gsm8k(folder: Path) -> list[Example]:
    rows = [json.loads(line) for line in (folder / GSM8K).open(encoding="utf-8")]
    golds = [row["answer"].rpartition("####")[2].strip() for row in rows]
    return [_example(n, row["question"], (), gold) for n, (row, gold) in enumerate(zip(rows, golds, strict=True))]


def mmlu_pro(folder: Path) -> list[Example]:
    data = Data(task="mmlu_pro", source=str(folder / MMLU_PRO), on_contamination="warn")
    return read_source(data).examples


def kmmlu(folder: Path) -> list[Example]:
    """Korean questions; the file holds stem and options in one text."""
    found = []
    for n, line in enumerate((folder / KMMLU).open(encoding="utf-8")):
        row = json.loads(line)
        stem, *options = re.split(r"\n[A-D]\. ", row["input"].removeprefix("문제: "))
        gold = re.search(r"정답: ([1-4])", row["output"])
        if gold and len(options) == 4:
            found.append(_example(n, stem, tuple(options), LETTERS[int(gold[1]) - 1]))
    return found


def toy(folder: Path) -> list[Example]:
    data = Data(task="toy", limit={"train": 2000, "dev": 600, "test": 2000})
    return read_source(data).examples


SOURCES: dict[str, tuple[Callable[[Path], list[Example]], str | None]] = {
    "gsm8k": (gsm8k, GSM8K),
    "mmlu_pro": (mmlu_pro, MMLU_PRO),
    "kmmlu": (kmmlu, KMMLU),
    "toy": (toy, None),
}


def _example(row: int, question: str, options: tuple[str, ...], answer: str) -> Example:
    return Example(f"e{row}", row, "train", "", None, question, options, answer)


def parted(name: str, examples: list[Example], lot: random.Random) -> tuple[list[Example], list[Example]]:
    """Train and held-out questions: as the source's own split has it, or by lot."""
    if name in ("mmlu_pro", "toy"):
        held = [one for one in examples if one.split != "train"]
        return [one for one in examples if one.split == "train"], held
    lot.shuffle(examples)
    n = min(HELD, len(examples) // 4)
    return examples[n:], examples[:n]


# plants


class Planter:
    """Makes copies, and different questions of the same words, of held-out questions.

    Args:
        others: Where words and sentences that are put in come from.
        lot: The source of chance.
    """

    def __init__(self, others: list[Example], lot: random.Random) -> None:
        self.lot = lot
        self.words = [word for one in others[:2000] for word in one.question.split() if not re.search(r"\d", word)]
        self.sentences = [sentence for one in others[:2000] for sentence in sentences(one.question)[:1]]
        self.others = others

    def word_for_word(self, one: Example) -> Example:
        """The row itself."""
        return one

    def case_points_spaces(self, one: Example) -> Example:
        """Other capitals, punctuation and white space."""

        def noisy(text: str) -> str:
            text = text.upper() if self.lot.random() < 0.5 else text.capitalize()
            return "  ".join(re.sub(r"[;:!?\"“”]|,(?!\d)", " ", text).split(" ")) + self.lot.choice(
                (" ", ".", "!", " ?")
            )

        return replace(one, question=noisy(one.question))

    def options_shuffled(self, one: Example) -> Example | None:
        """The options in another order."""
        if not one.options:
            return None
        order = self.lot.sample(range(len(one.options)), len(one.options))
        answer = LETTERS[order.index(LETTERS.index(one.answer))]
        return replace(one, options=tuple(one.options[place] for place in order), answer=answer)

    def wrong_options_replaced(self, one: Example) -> Example | None:
        """Other wrong options."""
        gold = LETTERS.index(one.answer) if one.options else None
        other = next((two for two in self.lot.sample(self.others, 20) if len(two.options) == len(one.options)), None)
        if gold is None or other is None:
            return None
        options = [one.options[n] if n == gold else text for n, text in enumerate(other.options)]
        return replace(one, options=tuple(options))

    def sentence_added(self, one: Example) -> Example:
        """A sentence of another question before or after it."""
        more = self.lot.choice(self.sentences)
        return replace(one, question=self.lot.choice((f"{more} {one.question}", f"{one.question} {more}")))

    def sentence_removed(self, one: Example) -> Example | None:
        """The first sentence left out."""
        parts = sentences(one.question)
        return replace(one, question=" ".join(parts[1:])) if len(parts) > 1 else None

    def one_word_in_ten(self, one: Example) -> Example | None:
        """A tenth of the words replaced by words of other questions."""
        return self._replaced(one, 0.1)

    def one_word_in_five(self, one: Example) -> Example | None:
        """A fifth of them."""
        return self._replaced(one, 0.2)

    def _replaced(self, one: Example, share: float) -> Example | None:
        """Words of the question and of the gold option; numbers and signs stay."""
        stem = self._some(one.question, share)
        if stem == one.question:
            return None
        return replace(one, question=stem, options=tuple(self._some(text, share) for text in one.options))

    def _some(self, text: str, share: float) -> str:
        parts = text.split()
        places = [n for n, part in enumerate(parts) if part.isalpha() and len(part) > 1]
        for n in self.lot.sample(places, min(len(places), round(share * len(parts)))):
            parts[n] = self.lot.choice(self.words)
        return " ".join(parts) if parts != text.split() else text

    def other_numbers(self, one: Example) -> Example | None:
        """The same gold answer even so: without it, two rules would hide behind one another."""
        question = re.sub(r"\d+", lambda found: str(int(found[0][:9]) + self.lot.randint(1, 9)), one.question)
        return replace(one, question=question) if question != one.question else None

    def another_question_about_it(self, one: Example) -> Example | None:
        """The same text, but the last sentence, the options and the answer are another question's."""
        parts = sentences(one.question)
        other = self.lot.choice(self.others)
        if len(parts) < 2:
            return None
        question = " ".join([*parts[:-1], sentences(other.question)[-1]])
        return replace(one, question=question, options=other.options, answer=other.answer)


COPIES = (
    "word_for_word",
    "case_points_spaces",
    "options_shuffled",
    "wrong_options_replaced",
    "sentence_added",
    "sentence_removed",
    "one_word_in_ten",
    "one_word_in_five",
)
DIFFERENT = ("other_numbers", "another_question_about_it")


def sentences(text: str) -> list[str]:
    """The sentences of a text, by their closing points."""
    return [part for part in re.split(r"(?<=[.?!])\s+", text.strip()) if part]


# figures


def measure(name: str, examples: list[Example]) -> dict[str, Any]:
    """Recall of every kind of copy, and how many different questions are taken for copies."""
    lot = random.Random(0)
    train, held = parted(name, examples, lot)
    planter = Planter(train, lot)
    started = time.perf_counter()
    alone = {match.other for match in copies(train, held)}
    found: dict[str, Any] = {
        "n_train": len(train),
        "n_held": len(held),
        "seconds": round(time.perf_counter() - started, 1),
    }
    # a question that repeats another held-out one is found whatever is done to it, and would blur the figures
    for kind in (*COPIES, *DIFFERENT):
        plants = list(_planted(getattr(planter, kind), held))
        matches = copies([plant for _, plant in plants], held)
        hit = {match.other for match in matches if plants[match.other][0] == match.held}
        found[kind] = {"n": len(plants), "found": len(hit)}
    found["unplanted"] = {"n": len(train), "found": len(alone), "repeats_by_hand": REPEATS_BY_HAND.get(name, 0)}
    right = sum(found[kind]["found"] for kind in COPIES) + found["unplanted"]["repeats_by_hand"]
    rows = sum(found[kind]["found"] for kind in (*COPIES, *DIFFERENT)) + len(alone)
    found["precision"] = round(right / rows, 4) if rows else None
    found["recall"] = round(sum(found[kind]["found"] for kind in COPIES) / sum(found[kind]["n"] for kind in COPIES), 4)
    return found


def measure_versions(examples: list[Example], n: int) -> dict[str, int]:
    """A table with n versions of each question, a tenth of the words replaced in each, split by lot.

    Returns:
        Train rows of whose question a version is held out, and how many of them are found.
    """
    lot = random.Random(0)
    lot.shuffle(examples)
    planter = Planter(examples, lot)
    rows = [(one.id, planter.one_word_in_ten(one) or one) for one in examples[: 4000 // n] for _ in range(n)]
    lot.shuffle(rows)
    held, train = rows[: len(rows) // 5], rows[len(rows) // 5 :]
    both = {id for id, _ in held}
    hit = {match.other for match in copies([one for _, one in train], [one for _, one in held])}
    wanted = [place for place, (id, _) in enumerate(train) if id in both]
    return {"n": len(wanted), "found": len(hit & set(wanted))}


def _planted(edit: Callable[[Example], Example | None], held: list[Example]) -> Iterator[tuple[int, Example]]:
    for place, one in enumerate(held):
        if (plant := edit(one)) is not None:
            yield place, plant


def measure_texts(folder: Path) -> dict[str, Any]:
    """Real rationales, as they are and with a held-out question in their middle."""
    import pyarrow.parquet as pq

    texts = {row["question_id"]: row["rationale"] for row in pq.read_table(folder / TEACHER).to_pylist()}
    ids = pq.read_table(folder / MMLU_PRO, columns=["question_id"])["question_id"].to_pylist()
    train, held = parted("mmlu_pro", mmlu_pro(folder), random.Random(0))
    own = [one for one in train if texts.get(ids[one.row])]
    said = [texts[ids[one.row]] for one in own]
    alone = recitals(said, own, held)
    lot = random.Random(0)
    places = lot.sample(range(len(own)), HELD)
    whose = lot.sample(range(len(held)), HELD)
    planted = [
        f"{said[n][:200]} For instance: {held[h].question} {said[n][200:]}" for n, h in zip(places, whose, strict=True)
    ]
    hits = {match.other for match in recitals(planted, [own[n] for n in places], held)}
    return {
        "unplanted": {"n": len(own), "found": len({match.other for match in alone})},
        "recited": {"n": HELD, "found": len(hits)},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="measure the contamination guard on planted copies")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real tables")
    parser.add_argument("--json", type=Path, help="also write the figures to a file")
    chosen = parser.parse_args()
    found: dict[str, Any] = {}
    for name, (read, file) in SOURCES.items():
        if file is None or (chosen.data / file).is_file():
            found[name] = measure(name, read(chosen.data))
            print_table(name, found[name])
    if "gsm8k" in found:
        versions = {n: measure_versions(gsm8k(chosen.data), n) for n in (5, 10, 20, 40)}
        found["versions"] = versions
        print(f"versions of each question  {versions}")
    if (chosen.data / TEACHER).is_file():
        found["rationales"] = measure_texts(chosen.data)
        print(f"rationales  {found['rationales']}")
    if chosen.json:
        facts = {"date": date.today().isoformat(), "version": teachwise.__version__}
        chosen.json.write_text(json.dumps({**facts, **found}, indent=2) + "\n", encoding="utf-8")


def print_table(name: str, found: dict[str, Any]) -> None:
    """Print one line per kind of plant."""
    print(f"{name}: {found['n_train']:,} train and {found['n_held']:,} held-out questions, {found['seconds']} s")
    for kind in (*COPIES, *DIFFERENT, "unplanted"):
        one = found[kind]
        share = f"{one['found'] / one['n']:7.2%}" if one["n"] else "      -"
        print(f"  {kind:26} {one['found']:>6,} of {one['n']:>6,}  {share}")
    print(f"  precision {found['precision']}  recall {found['recall']}")


if __name__ == "__main__":
    main()
