"""Reading a text file that a user wrote: UTF-8, with or without a byte order mark, or a message that names the line."""

from pathlib import Path

from teachwise.errors import DataError, TeachwiseError

_OPENINGS = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PK\x03\x04": "a zip archive or an Excel file",
    b"\x1f\x8b": "a gzip archive",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
}
"""What a file is instead, by its first bytes."""


def read_text(path: Path, kind: type[TeachwiseError] = DataError) -> str:
    """The content of a text file.

    Args:
        path: The file.
        kind: The error to raise.

    Raises:
        TeachwiseError: it is no UTF-8 text; with the line where that shows.
        OSError: it cannot be opened.
    """
    content = path.read_bytes()
    for opening, name in _OPENINGS.items():
        if content.startswith(opening):
            raise kind(
                f"{path}:1: not UTF-8: this is {name}, wanted plain text", "convert it, or give it its own suffix"
            )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise kind(f"{path}:{line}: not UTF-8", "save the file as UTF-8, for instance with iconv") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise kind(
            f"{path}:{line}: holds a zero byte, so it is UTF-16 or no text at all, wanted UTF-8",
            "save the file as UTF-8, for instance with iconv",
        )
    return text
