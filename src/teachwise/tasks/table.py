"""Reading a table of any usual kind into plain rows.

One function for every door: tasks read their source with it, and the commands that take a table of scores do too.
A row is a dict from column name to cell. CSV and TSV cells stay text, because "007" and "1e5" may be answers.
"""

import csv
import difflib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from teachwise.errors import DataError
from teachwise.run_folder import atomic
from teachwise.text_file import read_text

Cells = dict[str, Any]
"""One row: column name to cell."""


def read_table(source: str, hub_split: str = "test") -> list[Cells]:
    """Read every row of a file, or of a data set on the Hugging Face hub.

    Args:
        source: A .parquet, .jsonl, .json (a list of objects), .csv or .tsv file; or, where no such file is there,
            a hub name `owner/name`. Text is UTF-8, with or without a byte order mark.
        hub_split: The split to load when the source is a hub name.

    Returns:
        At least one row, in the source's order.

    Raises:
        DataError: the source is missing, empty, of an unknown kind or broken; with the line where there is one.
    """
    rows = _read_hub(source, hub_split) if is_hub_name(source) else _read_file(Path(source).expanduser())
    if not rows:
        raise DataError(f"{source}: holds no rows, wanted at least one", "check that the export went through")
    return rows


def column_names(rows: Sequence[Cells]) -> list[str]:
    """Every column that occurs in any row, in order of first sight: rows of JSON Lines may differ."""
    return list(dict.fromkeys(name for row in rows for name in row))


def column(rows: Sequence[Cells], name: str, source: str) -> list[Any]:
    """One column, a cell per row; None in rows that lack it.

    Args:
        rows: N rows.
        name: The column.
        source: What the error message calls the table.

    Raises:
        DataError: no row has such a column.
    """
    names = column_names(rows)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise DataError(f"{source}: no column {name!r}", f"{guess}it has: {', '.join(names)}")
    return [row.get(name) for row in rows]


def is_hub_name(source: str) -> bool:
    """Whether a source is taken from the hub: it is written like a hub name, and no such file is here."""
    path = Path(source).expanduser()
    shaped = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source)
    return bool(shaped) and path.suffix.lower() not in _READERS and not path.exists()


def _read_hub(source: str, hub_split: str) -> list[Cells]:
    import datasets

    try:
        return [dict(row) for row in datasets.load_dataset(source, split=hub_split)]
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{source}: no such file here, and not loaded from the hub (split {hub_split!r}): {first_line}",
            "check the name, `data.hub_split` and the network; or save the data set as Parquet and name that file",
        ) from error


def _read_file(path: Path) -> list[Cells]:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {found}, wanted a table", f"give a {_kinds()} file, or a hub name owner/name")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown kind {path.suffix!r}, wanted {_kinds()}", "convert or rename the file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty, wanted at least one row", "check that the export went through")
    return reader(path)


def _kinds() -> str:
    return ", ".join(_READERS)


def _read_parquet(path: Path) -> list[Cells]:
    # A file object: given a path, pyarrow may read folder names such as `seed=0` as columns.
    with path.open("rb") as file:
        try:
            rows: list[Cells] = pq.read_table(file).to_pylist()
        except (pa.ArrowException, OSError) as error:
            first_line = str(error).partition("\n")[0]
            raise DataError(
                f"{path}: not a readable Parquet file: {first_line}", "it may be cut off: write or copy it again"
            ) from error
    return rows


def _read_jsonl(path: Path) -> list[Cells]:
    # Not splitlines(): JSON strings may hold other line separators, such as U+2028, as they are.
    lines = enumerate(read_text(path).split("\n"), start=1)
    hint = "every line is one JSON object; a list of objects is a .json file"
    return [_as_object(_json(line, path, n, hint), f"{path}:{n}") for n, line in lines if line.strip()]


def _json(text: str, path: Path, first_line: int, hint: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path}:{first_line + error.lineno - 1}"
        raise DataError(f"{place}: broken JSON: {error.msg}, column {error.colno}", hint) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists without end
        raise DataError(f"{path}:{first_line}: JSON that cannot be read: {error}", hint) from error


def _read_json(path: Path) -> list[Cells]:
    content = _json(read_text(path), path, 1, "wanted a list of objects; one object per line is a .jsonl file")
    if not isinstance(content, list):
        raise DataError(
            f"{path}: holds {_json_kind(content)}, wanted a list of objects",
            "move the rows to the top: [{...}, {...}]",
        )
    return [_as_object(row, f"{path}: row {number}") for number, row in enumerate(content)]


def _as_object(row: Any, place: str) -> Cells:
    if not isinstance(row, dict):
        raise DataError(
            f"{place}: {_json_kind(row)}, wanted an object", 'a row looks like {"question": "...", "answer": "B"}'
        )
    return row


def _json_kind(content: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(type(content), "a number")


def _read_csv(path: Path) -> list[Cells]:
    """Cells stand between commas, or between semicolons as some spreadsheets write them where the comma is decimal."""
    header = read_text(path).partition("\n")[0]
    return _read_delimited(path, ";" if ";" in header and "," not in header else ",")


def _read_tsv(path: Path) -> list[Cells]:
    return _read_delimited(path, "\t")


def _read_delimited(path: Path, delimiter: str) -> list[Cells]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    rows: list[Cells] = []
    try:
        header = next(reader, [])
        _check_header(header, delimiter, path)
        for cells in reader:
            if cells:
                _check_width(cells, header, f"{path}:{reader.line_num}")
                rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        hint = "check the quotes around this line; JSON Lines is the safer format for long texts"
        raise DataError(f"{path}:{reader.line_num}: broken line: {error}", hint) from error
    return rows


def _check_header(header: list[str], delimiter: str, path: Path) -> None:
    others = [mark for mark in ",;\t|" if mark != delimiter and len(header) == 1 and mark in header[0]]
    if others:
        raise DataError(
            f"{path}:1: one column, {header[0]!r}, wanted several with {delimiter!r} between them",
            f"the separator seems to be {others[0]!r}: .csv files have ',' and .tsv files tabs; convert or rename it",
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path}:1: columns named twice: {', '.join(twice)}", "give every column its own name")


def _check_width(cells: list[str], header: list[str], place: str) -> None:
    if len(cells) != len(header):
        raise DataError(
            f"{place}: {len(cells)} cells, wanted {len(header)} as in the header",
            "put quotes around cells that hold the separator or a line break",
        )


_READERS: dict[str, Callable[[Path], list[Cells]]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}


def usable(rows: Sequence[Cells]) -> list[Cells]:
    """The rows that `teachwise score` could use: all but those with a reason in the column `unusable`."""
    return [row for row in rows if not row.get("unusable")]


def numbers(rows: Sequence[Cells], name: str, source: str, places: Iterable[int] | None = None) -> list[float]:
    """A column of finite numbers.

    Args:
        rows: N rows.
        name: The column.
        source: What the error message calls the table.
        places: Row numbers to read, in this order; None reads all.

    Raises:
        DataError: naming the first row whose cell is missing, no number, NaN or infinite.
    """
    cells = column(rows, name, source)
    places = range(len(cells)) if places is None else places
    return [_number(cells[place], f"{source}: row {place}: {name}") for place in places]


def truths(rows: Sequence[Cells], name: str, source: str, places: Iterable[int] | None = None) -> list[bool]:
    """A column of truth values: true/false, yes/no, 1/0; arguments as for `numbers`.

    Raises:
        DataError: naming the first row whose cell is neither.
    """
    cells = column(rows, name, source)
    places = range(len(cells)) if places is None else places
    return [_truth(cells[place], f"{source}: row {place}: {name}") for place in places]


def _number(cell: Any, place: str) -> float:
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{place} is {cell!r}, wanted a finite number", "mend the row, or take it out of the table")
    return number


def _truth(cell: Any, place: str) -> bool:
    text = str(cell).strip().lower()
    if text not in _TRUE | _FALSE:
        raise DataError(f"{place} is {cell!r}, wanted true or false, or 1 or 0", "mend the row, or name another column")
    return text in _TRUE


_TRUE, _FALSE = {"true", "yes", "1", "1.0"}, {"false", "no", "0", "0.0"}


def check_writable(path: Path) -> None:
    """Make sure that a table can be written as this kind of file, before hours of work.

    Raises:
        DataError: an unknown suffix, or a folder of that name.
    """
    if path.suffix.lower() not in _WRITTEN:
        raise DataError(f"{path}: unknown kind {path.suffix!r} to write", f"use {', '.join(_WRITTEN)}")
    if path.is_dir():
        raise DataError(f"{path}: is a folder, wanted a file to write", "choose another name")


def write_table(path: Path, rows: Sequence[Cells]) -> None:
    """Write rows as Parquet, JSON Lines, CSV or TSV by the suffix, all or nothing.

    Raises:
        DataError: an unknown suffix, or columns that Parquet cannot hold.
    """
    check_writable(path)
    names, suffix = column_names(rows), path.suffix.lower()
    with atomic(path) as part:
        if suffix == ".parquet":
            pq.write_table(_arrow_table(rows, names, path), part)
        elif suffix == ".jsonl":
            part.write_text("".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows), "utf-8")
        else:
            with part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, names, delimiter="," if suffix == ".csv" else "\t")
                writer.writeheader()
                writer.writerows(rows)


_WRITTEN = (".parquet", ".jsonl", ".csv", ".tsv")


def _arrow_table(rows: Sequence[Cells], names: Sequence[str], path: Path) -> pa.Table:
    try:
        return pa.table({name: [row.get(name) for row in rows] for name in names})
    except pa.ArrowException as error:
        raise DataError(f"{path}: cannot be written as Parquet: {error}", "write .jsonl instead") from error
