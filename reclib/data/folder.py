"""Our folder format: load any log that is written in it, and write your own.

my-shop/
    sequences.txt.gz   one user per line: user_id item_id item_id ...   oldest first
    items.jsonl.gz     one object per item: {"item_id": 1, "title": "...", ...}   (or items.csv.gz)
    time.txt.gz        optional, same shape as the sequences: seconds
    NAME.txt.gz        optional, same shape: one number per event, becomes `extra["NAME"]`
    users.jsonl.gz     optional: {"user_id": 1, "original_id": "the name in your log"}
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from reclib.data.files import (
    SEQUENCES,
    DataError,
    Rows,
    all_whole,
    read_rows,
    read_table,
    write_rows,
    write_table,
)
from reclib.data.interactions import Interactions

TIME = "time.txt.gz"


def read_folder(path: Path | str) -> Interactions:
    """Load a folder in the format above.

    Item ids may have gaps: they become `1 … n_items` in ascending order, and the column `original_id` of the
    items keeps what they were.

    Args:
        path: the folder. Its name becomes the name of the log.

    Raises:
        DataError: a file is damaged or does not fit; the message names file, line and fix.
    """
    folder = Path(path)
    items_path = _table_path(folder, "items")
    if items_path is None:
        raise DataError(
            folder,
            None,
            "needs items.jsonl.gz or items.csv.gz, one row per item with its item_id; without texts write only the ids",
        )
    items = read_table(items_path, key="item_id")
    sequences = read_rows(folder / SEQUENCES)
    ids = items.index.to_numpy()
    row_of_item = np.searchsorted(ids, sequences.values)
    unknown = np.flatnonzero(ids[np.minimum(row_of_item, len(ids) - 1)] != sequences.values)
    if len(unknown):
        raise DataError(
            folder / SEQUENCES,
            _line_of_event(sequences, int(unknown[0])),
            f"item {sequences.values[unknown[0]]} is not in {items_path.name}; add it or remove the event",
        )
    if ids[-1] != len(ids):  # gaps
        if "original_id" not in items.columns:
            items.insert(0, "original_id", ids)
        items.index = pd.RangeIndex(1, len(ids) + 1, name="item_id")

    time = None
    extra: dict[str, np.ndarray] = {}
    for column in sorted(folder.glob("*.txt.gz")):
        if column.name == TIME:
            time = _read_column(column, sequences).astype(np.float64)
            _check_time(column, sequences, time)
        elif column.name != SEQUENCES:
            extra[column.name.removesuffix(".txt.gz")] = _read_column(column, sequences)

    return Interactions(
        user=np.repeat(np.arange(len(sequences.lengths)), sequences.lengths),
        item=row_of_item + 1,
        time=time,
        n_items=len(items),
        items=items,
        extra=extra,
        user_ids=_user_ids(folder, sequences),
        name=folder.resolve().name,
    )


def _table_path(folder: Path, stem: str) -> Path | None:
    found = [path for path in (folder / f"{stem}.jsonl.gz", folder / f"{stem}.csv.gz") if path.exists()]
    if len(found) > 1:
        raise DataError(folder, None, f"holds both {found[0].name} and {found[1].name}; keep one of them")
    return found[0] if found else None


def _line_of_event(rows: Rows, event: int) -> int:
    return int(np.searchsorted(np.cumsum(rows.lengths), event, side="right")) + 1


def _read_column(path: Path, sequences: Rows) -> np.ndarray:
    """Values of one per-event file, whole numbers where all of them are."""
    rows = read_rows(path, whole_numbers=False)
    if len(rows.user_ids) != len(sequences.user_ids):
        raise DataError(path, None, f"has {len(rows.user_ids)} users, {SEQUENCES} has {len(sequences.user_ids)}")
    differs = np.flatnonzero((rows.user_ids != sequences.user_ids) | (rows.lengths != sequences.lengths))
    if len(differs):
        line = int(differs[0])
        raise DataError(
            path,
            line + 1,
            f"user {rows.user_ids[line]} with {rows.lengths[line]} values, but {SEQUENCES} has "
            f"user {sequences.user_ids[line]} with {sequences.lengths[line]}; the lines must match",
        )
    return rows.values.astype(np.int64) if all_whole(rows.values) else rows.values


def _check_time(path: Path, sequences: Rows, time: np.ndarray) -> None:
    if len(odd := np.flatnonzero(~np.isfinite(time))):
        raise DataError(path, _line_of_event(sequences, int(odd[0])), f"the time {time[odd[0]]} is not a finite number")
    same_user = np.ones(max(len(time) - 1, 0), dtype=bool)
    same_user[np.cumsum(sequences.lengths)[:-1] - 1] = False
    if len(back := np.flatnonzero((np.diff(time) < 0) & same_user)):
        event = int(back[0])
        line = _line_of_event(sequences, event)
        raise DataError(
            path,
            line,
            f"time goes back from {time[event]:.15g} to {time[event + 1]:.15g} (user "
            f"{sequences.user_ids[line - 1]}); sort the events of each user by time, oldest first",
        )


def _user_ids(folder: Path, sequences: Rows) -> np.ndarray:
    path = _table_path(folder, "users")
    if path is None:
        return sequences.user_ids
    users = read_table(path, key="user_id")
    unknown = np.flatnonzero(~np.isin(sequences.user_ids, users.index.to_numpy()))
    if len(unknown):
        line = int(unknown[0])
        raise DataError(folder / SEQUENCES, line + 1, f"user {sequences.user_ids[line]} is not in {path.name}")
    if "original_id" not in users.columns:
        return sequences.user_ids
    names: np.ndarray = users["original_id"].reindex(sequences.user_ids).to_numpy()
    return names


def save_folder(interactions: Interactions, path: Path | str, overwrite: bool = False) -> Path:
    """Write a log in the format above; `read_folder` gives it back.

    Args:
        interactions: the log. Its `extra` arrays must hold numbers; true and false come back as 1 and 0.
        path: the folder to make. It appears only when everything is written.
        overwrite: replace a folder that is there already.
    """
    user_ids = interactions.user_ids
    numbers = np.arange(1, interactions.n_users + 1)
    users = None
    if user_ids is not None and user_ids.dtype.kind in "iu" and user_ids.min() >= 0:
        numbers = user_ids
    elif user_ids is not None:
        users = pd.DataFrame({"original_id": user_ids}, index=pd.Index(numbers, name="user_id"))
    return write_folder(
        Path(path),
        Rows(numbers, interactions.lengths, interactions.item),
        interactions.items.rename_axis("item_id"),
        time=interactions.time,
        extra=interactions.extra,
        users=users,
        overwrite=overwrite,
    )


def write_folder(
    path: Path,
    sequences: Rows,
    items: pd.DataFrame,
    time: np.ndarray | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    users: pd.DataFrame | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the parts of a log: the work behind `save_folder`, for sources that keep their own item ids."""
    if path.exists() and not overwrite:
        raise ValueError(f"path: {path} exists already; choose another one, or pass overwrite=True")
    extra = dict(extra or {})
    if reserved := {"sequences", "time"} & set(extra):
        raise ValueError(f"extra: {reserved.pop()!r} is a file of the format itself; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        write_rows(new / SEQUENCES, sequences)
        for name, values in (extra if time is None else {**extra, "time": time}).items():
            write_rows(new / f"{name}.txt.gz", sequences._replace(values=np.asarray(values)))
        write_table(new / "items.jsonl.gz", items)
        if users is not None:
            write_table(new / "users.jsonl.gz", users)
        replace_folder(new, path)
    return path


def replace_folder(new: Path, path: Path) -> None:
    """Put the finished folder `new` (on the same disk) in the place of `path`."""
    if path.exists():
        old = new.with_name("old")
        os.replace(path, old)
        os.replace(new, path)
        shutil.rmtree(old)
    else:
        os.replace(new, path)


def from_log(
    frame: pd.DataFrame,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    items: pd.DataFrame | None = None,
    name: str = "log",
) -> Interactions:
    """Turn a table with one row per event into `Interactions`.

    Users are numbered by first appearance, items by sorted id. Events are sorted by time with a stable sort,
    so rows with the same time keep the order of the table. The other columns become `extra` where they are
    numbers.

    Args:
        frame: the table.
        user, item: columns with any ids (numbers or texts).
        time: column with seconds or with dates; None if the rows are in order already.
        items: further facts about the items, indexed by the same ids; items nobody touched may be among them.
        name: name of the log.
    """
    for argument, column in (("user", user), ("item", item), ("time", time)):
        if column is not None and column not in frame.columns:
            have = ", ".join(map(str, frame.columns))
            raise ValueError(f"{argument}: there is no column {column!r}; the table has {have}")
    if len(frame) == 0:
        raise ValueError("frame: the table is empty; give at least one event")
    columns = [user, item] if time is None else [user, item, time]
    for column in columns:
        if len(gaps := np.flatnonzero(frame[column].isna())):
            raise ValueError(f"{column}: row {gaps[0] + 1} of the table is empty; fill it or drop it yourself")

    seconds = None if time is None else _seconds(frame[time], time)
    user_number, user_ids = pd.factorize(frame[user])
    catalogue = pd.Index(frame[item].unique()) if items is None else items.index
    if not catalogue.is_unique:
        raise ValueError(f"items: the id {catalogue[catalogue.duplicated()][0]} stands there twice; keep one row")
    catalogue = catalogue.sort_values()
    item_number = catalogue.get_indexer(pd.Index(frame[item]))
    if len(unknown := np.flatnonzero(item_number < 0)):
        raise ValueError(f"items: {frame[item].iloc[unknown[0]]} occurs in the log but not among the items")
    facts = pd.DataFrame(index=catalogue) if items is None else items.loc[catalogue].copy()
    facts.insert(0, "original_id", catalogue)
    facts.index = pd.RangeIndex(1, len(catalogue) + 1, name="item_id")

    order = np.lexsort((user_number,)) if seconds is None else np.lexsort((seconds, user_number))
    rest = frame.drop(columns=columns).select_dtypes(["number", "bool"])
    return Interactions(
        user=user_number[order].astype(np.int64),
        item=item_number[order].astype(np.int64) + 1,
        time=None if seconds is None else seconds[order],
        n_items=len(catalogue),
        items=facts,
        extra={str(column): rest[column].to_numpy()[order] for column in rest.columns},
        user_ids=np.asarray(user_ids),
        name=name,
    )


def _seconds(column: pd.Series, name: str) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64)
    try:
        try:
            dates = pd.to_datetime(column, utc=True, format="ISO8601")
        except ValueError:  # some other way of writing dates, but the same in all rows
            dates = pd.to_datetime(column, utc=True)
    except (ValueError, TypeError) as error:
        raise ValueError(f"time: the column {name!r} holds neither seconds nor dates ({error})") from None
    return (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(dtype=np.float64)
