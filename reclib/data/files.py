"""Files of the data format: strict readers that name the file and the line, and the writers that match them.

A log is `sequences.txt.gz`, one user per line: `user_id item_id item_id ...`, oldest first. Every further
`NAME.txt.gz` has the same shape and holds one number per event. Tables (items, users) are JSON lines or CSV.
Nothing is ever dropped or repaired in silence: what does not fit is a `DataError`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

SEQUENCES = "sequences.txt.gz"


class DataError(ValueError):
    """A data file is damaged or not in the format. The message names the file, the line and the fix."""

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        super().__init__(f"{path}, line {line}: {problem}" if line is not None else f"{path}: {problem}")


class Rows(NamedTuple):
    """A file with one user per line."""

    user_ids: np.ndarray  # [users] int64, in the order of the lines
    lengths: np.ndarray  # [users] events per user
    values: np.ndarray  # [events] int64 or float64, user after user


def read_gzip(path: Path) -> bytes:
    """The unpacked content of a gzip file; a truncated or damaged one is an error, not a shorter file."""
    chunks: list[bytes] = []
    try:
        with gzip.open(path) as file:
            while chunk := file.read(1 << 16):
                chunks.append(chunk)
    except FileNotFoundError:
        raise DataError(path, None, "is missing; copy or fetch the data set again") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        line = b"".join(chunks).count(b"\n") + 1
        raise DataError(path, line, f"the gzip data breaks off here ({error}); get the file again") from error
    return b"".join(chunks)


def write_gzip(path: Path, content: bytes) -> None:
    """Pack without name and date, so that the same content gives the same file."""
    path.write_bytes(gzip.compress(content, compresslevel=6, mtime=0))


def content_sha256(path: Path) -> str:
    """SHA-256 of what is inside a gzip file: packing it again does not change it."""
    return hashlib.sha256(read_gzip(path)).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as it lies on the disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_rows(path: Path, whole_numbers: bool = True) -> Rows:
    """Read `user_id value value ...` lines, vectorised (a million events in well under a second).

    Raises:
        DataError: truncated gzip, empty line, user without events, the same user twice, or a value that is
            not a number (with `whole_numbers`: not a whole number).
    """
    text = read_gzip(path)
    if not text.strip():
        raise DataError(path, 1, "the file is empty; write one user per line: user_id item_id item_id ...")
    if not text.endswith(b"\n"):
        text += b"\n"

    # Each character is a line end, another space or part of a word; words start after a space.
    char = np.frombuffer(text, dtype=np.uint8)
    is_end = char == ord("\n")
    is_word = ~(is_end | (char == ord(" ")) | (char == ord("\t")) | (char == ord("\r")))
    word_at = np.flatnonzero(is_word & ~np.concatenate([[False], is_word[:-1]]))
    line_of_word = np.searchsorted(np.flatnonzero(is_end), word_at)
    words_per_line = np.bincount(line_of_word, minlength=int(is_end.sum()))

    if len(empty := np.flatnonzero(words_per_line == 0)):
        raise DataError(path, int(empty[0]) + 1, "the line is empty; remove it")
    first_word = np.concatenate([[0], np.cumsum(words_per_line)[:-1]])
    is_user = np.zeros(len(word_at), dtype=bool)
    is_user[first_word] = True

    def word(index: int) -> str:
        return text[word_at[index] : word_at[index] + 40].split()[0].decode(errors="replace")

    # Everything that is not a digit must lie in a value, and only where fractions are allowed.
    odd = np.flatnonzero(is_word & ((char < ord("0")) | (char > ord("9"))))
    odd_word = np.searchsorted(word_at, odd, side="right") - 1
    if not whole_numbers:
        odd_word = odd_word[is_user[odd_word]]
    if len(odd_word):
        what = "user id" if is_user[odd_word[0]] else "value"
        raise DataError(
            path,
            int(line_of_word[odd_word[0]]) + 1,
            f"the {what} {word(int(odd_word[0]))!r} is not a whole number; ids are whole numbers from 1",
        )
    if len(lonely := np.flatnonzero(words_per_line == 1)):
        line = int(lonely[0])
        raise DataError(path, line + 1, f"user {word(int(first_word[line]))} has no events; remove the line")

    numbers: np.ndarray
    if whole_numbers:
        ends = np.flatnonzero(is_word & ~np.concatenate([is_word[1:], [False]]))
        if len(long := np.flatnonzero(ends - word_at >= 18)):  # 18 digits always fit into 64 bits
            raise DataError(path, int(line_of_word[long[0]]) + 1, f"the number {word(int(long[0]))} is too large")
        numbers = np.fromstring(text, dtype=np.int64, sep=" ")
        user_ids = numbers[first_word]
    else:
        words = text.split()
        user_ids = np.array(words, dtype=object)[first_word].astype(np.int64)
        numbers = _to_floats(path, words, line_of_word)

    _, first_seen = np.unique(user_ids, return_index=True)
    if len(first_seen) < len(user_ids):
        again = int(np.setdiff1d(np.arange(len(user_ids)), first_seen)[0])
        before = int(np.flatnonzero(user_ids == user_ids[again])[0])
        raise DataError(
            path,
            again + 1,
            f"user {user_ids[again]} stands on line {before + 1} already; put a user on one line",
        )
    return Rows(user_ids, words_per_line - 1, numbers[~is_user])


def _to_floats(path: Path, words: list[bytes], line_of_word: np.ndarray) -> np.ndarray:
    try:
        return np.array(words).astype(np.float64)
    except ValueError:
        for index, word in enumerate(words):
            try:
                float(word)
            except ValueError:
                value = word.decode(errors="replace")
                raise DataError(path, int(line_of_word[index]) + 1, f"{value!r} is not a number") from None
        raise


def all_whole(values: np.ndarray) -> bool:
    """Whether all of these floats are whole numbers that 64-bit integers hold exactly."""
    return bool(np.all(np.abs(values) < 2.0**53) and np.all(values == np.trunc(values)))


def write_rows(path: Path, rows: Rows) -> None:
    """Write one line per user. Floats are written so that reading gives the same bits."""
    values = rows.values
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    if values.dtype.kind == "f" and all_whole(values):
        values = values.astype(np.int64)  # 964982703 rather than 964982703.0
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{path.name}: values must be numbers, found {values.dtype}; encode them as numbers first")
    words = list(map(repr, values.tolist()))
    stops = np.cumsum(rows.lengths).tolist()
    starts = [0, *stops[:-1]]
    lines = (
        f"{user} {' '.join(words[start:stop])}\n"
        for user, start, stop in zip(rows.user_ids.tolist(), starts, stops, strict=True)
    )
    write_gzip(path, "".join(lines).encode())


def read_table(path: Path, key: str) -> pd.DataFrame:
    """Read `NAME.jsonl.gz` or `NAME.csv.gz`, indexed by the whole-number column `key`.

    Raises:
        DataError: truncated gzip, bad JSON or CSV, or a `key` that is missing, double or no whole number.
    """
    text = read_gzip(path)
    frame = _parse_json_lines(path, text) if path.name.endswith(".jsonl.gz") else read_csv(path, text)
    # A CSV has its header on line 1. Line numbers are right as long as no quoted field holds a line break.
    first_line = 1 if path.name.endswith(".jsonl.gz") else 2
    if len(frame) == 0:
        raise DataError(path, first_line, "the table is empty")
    if key not in frame.columns:
        raise DataError(path, 1, f"there is no {key!r}; found {', '.join(map(str, frame.columns))}")
    ids = frame[key].tolist()
    for row, value in enumerate(ids):
        # A missing id makes floats of the others, so 2.0 is a whole number too.
        if isinstance(value, bool | str) or value is None or not value >= 1 or value != int(value):
            given = "is missing" if _is_missing(value) else f"{value!r} must be a whole number of at least 1"
            raise DataError(path, first_line + row, f"{key} {given}")
    if len(double := np.flatnonzero(frame[key].duplicated())):
        row = int(double[0])
        raise DataError(path, first_line + row, f"{key} {ids[row]} stands there twice; keep one row per id")
    frame[key] = frame[key].astype(np.int64)
    return frame.set_index(key).sort_index()


def _parse_json_lines(path: Path, text: bytes) -> pd.DataFrame:
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:  # bad JSON or bad UTF-8
            raise DataError(path, number, f"this is not JSON ({error}); write one object per line") from None
        if not isinstance(record, dict):
            raise DataError(path, number, "this is not a JSON object; write one object per line")
        records.append(record)
    return pd.DataFrame.from_records(records)


def read_csv(path: Path, text: bytes) -> pd.DataFrame:
    """A CSV with header. Texts such as `NA` or `None` stay texts: there is a film called *None*."""
    try:
        return pd.read_csv(io.BytesIO(text), na_filter=False, index_col=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(path, None, f"this is not the CSV that was expected ({error})") from None


def number_column(path: Path, frame: pd.DataFrame, column: str, whole: bool = False, first_line: int = 2) -> np.ndarray:
    """One column as float64 (or int64 with `whole`); a value that is not a finite number names its line.

    `first_line` is the line of the first row: 2 below a header.
    """
    if column not in frame.columns:
        raise DataError(path, 1, f"the column {column!r} is missing; found {', '.join(map(str, frame.columns))}")
    numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
    bad = ~np.isfinite(numbers)
    if whole:
        bad |= numbers != np.trunc(np.where(bad, 0.0, numbers))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        kind = "whole number" if whole else "number"
        raise DataError(path, row + first_line, f"{column} {frame[column].tolist()[row]!r} is not a {kind}")
    return numbers.astype(np.int64) if whole else numbers


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as JSON lines, its index first. Empty cells (None, NaN) are left out of their line."""
    keys = [frame.index.name or "id", *map(str, frame.columns)]
    lines = []
    for values in frame.itertuples(name=None):
        record = {key: value for key, value in zip(keys, values, strict=True) if not _is_missing(value)}
        lines.append(json.dumps(record, ensure_ascii=False, default=_plain) + "\n")
    write_gzip(path, "".join(lines).encode())


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NaT or (isinstance(value, float) and value != value)


def _plain(value: object) -> object:
    """What `json` cannot write by itself: numpy numbers and arrays, and anything else made of numbers."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Iterable):
        return list(value)
    raise ValueError(f"items: cannot write a {type(value).__name__} as JSON; turn it into text or numbers first")
