"""The folder format: what is written comes back, and whatever is wrong is named with file and line."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from reclib.data import DataError, Interactions, from_log, load_dataset, read_folder, save_folder
from reclib.data.files import Rows, read_rows, write_rows

pytestmark = pytest.mark.slow

MakeFolder = Callable[..., Path]


def test_reads_the_format(folder: MakeFolder) -> None:
    log = read_folder(
        folder(
            sequences="7 1 2 3\n9 2 1\n",
            time="7 10 20 20\n9 5 6.5\n",
            liked="7 1 0 1\n9 0 0\n",
            price="7 1.5 -2 3\n9 0 nan\n",
        )
    )
    assert log.user.tolist() == [0, 0, 0, 1, 1]
    assert log.item.tolist() == [1, 2, 3, 2, 1]
    assert log.time is not None
    assert log.time.tolist() == [10, 20, 20, 5, 6.5]
    assert log.extra["liked"].tolist() == [1, 0, 1, 0, 0]
    assert log.extra["liked"].dtype == np.int64
    np.testing.assert_array_equal(log.extra["price"], [1.5, -2, 3, 0, np.nan])
    assert log.user_ids is not None
    assert log.user_ids.tolist() == [7, 9]
    assert (log.n_items, log.n_users, log.name) == (3, 2, "shop")


def test_loads_by_path_and_by_name_below_the_root(folder: MakeFolder) -> None:
    path = folder()
    assert load_dataset(str(path)).item.tolist() == load_dataset("shop", root=path.parent).item.tolist()


def test_item_ids_with_gaps_become_contiguous(folder: MakeFolder) -> None:
    log = read_folder(
        folder(
            sequences="1 30 10\n2 20 30\n",
            items='{"item_id": 30, "title": "c"}\n{"item_id": 10, "title": "a"}\n{"item_id": 20, "title": "b"}\n',
        )
    )
    assert log.item.tolist() == [3, 1, 2, 3]
    assert log.items["original_id"].tolist() == [10, 20, 30]
    assert log.items["title"].tolist() == ["a", "b", "c"]
    assert log.items.index.tolist() == [1, 2, 3]


def test_items_may_be_a_csv_whose_texts_stay_texts(folder: MakeFolder) -> None:
    path = folder(items=None)
    content = b'item_id,title\n1,"Comma, the film"\n2,None\n3,NA\n'
    (path / "items.csv.gz").write_bytes(gzip.compress(content))
    assert read_folder(path).items["title"].tolist() == ["Comma, the film", "None", "NA"]


@pytest.mark.parametrize(
    ("files", "line", "problem"),
    [
        ({"sequences": "1 1 2\n2 1 x3\n"}, 2, r"value 'x3' is not a whole number"),
        ({"sequences": "1 1 2\n2 1 2.5\n"}, 2, r"value '2.5' is not a whole number"),
        ({"sequences": "1 1 -2\n"}, 1, r"value '-2' is not a whole number"),
        ({"sequences": "anna 1 2\n"}, 1, r"user id 'anna' is not a whole number"),
        ({"sequences": "1 1 2\nné 1\n"}, 2, r"user id 'né' is not a whole number"),
        ({"sequences": "1 1 2\n2 1 99999999999999999999\n"}, 2, r"number 99999999999999999999 is too large"),
        ({"sequences": "1 1 2\n2 1 4\n"}, 2, r"item 4 is not in items.jsonl.gz"),
        ({"sequences": "1 1 2\n2 0\n"}, 2, r"item 0 is not in items.jsonl.gz"),
        ({"sequences": "1 1 2\n2\n3 1\n"}, 2, r"user 2 has no events"),
        ({"sequences": "1 1 2\n\n3 1\n"}, 2, r"the line is empty"),
        ({"sequences": "1 1 2\n2 1\n1 3\n"}, 3, r"user 1 stands on line 1 already"),
        ({"sequences": ""}, 1, r"the file is empty"),
        ({"items": '{"item_id": 1}\n{"item_id": 2\n'}, 2, r"this is not JSON"),
        ({"items": '{"item_id": 1}\n\n{"item_id": 2}\n'}, 2, r"this is not JSON"),
        ({"items": '{"item_id": 1}\n[2]\n'}, 2, r"not a JSON object"),
        ({"items": '{"item_id": 1}\n{"item_id": "2"}\n'}, 2, r"item_id '2' must be a whole number"),
        ({"items": '{"item_id": 1}\n{"item_id": 0}\n'}, 2, r"item_id 0 must be a whole number of at least 1"),
        ({"items": '{"item_id": 1}\n{"item_id": true}\n'}, 2, r"item_id True must be a whole number"),
        ({"items": '{"item_id": 1}\n{"title": "x"}\n'}, 2, r"item_id is missing"),
        ({"items": '{"item_id": 1}\n{"item_id": 2}\n{"item_id": 1}\n'}, 3, r"item_id 1 stands there twice"),
        ({"items": '{"title": "x"}\n'}, 1, r"there is no 'item_id'; found title"),
        ({"items": ""}, 1, r"the table is empty"),
        ({"time": "1 5 6 7\n2 9 8\n"}, 2, r"time goes back from 9 to 8 \(user 2\)"),
        ({"time": "1 5 6 inf\n2 8 9\n"}, 1, r"time inf is not a finite number"),
        ({"time": "1 5 6 noon\n2 8 9\n"}, 1, r"'noon' is not a number"),
        ({"time": "1 5 6 7\n2 8\n"}, 2, r"user 2 with 1 values, but sequences.txt.gz has user 2 with 2"),
        ({"time": "1 5 6 7\n3 8 9\n"}, 2, r"user 3 with 2 values, but sequences.txt.gz has user 2"),
    ],
)
def test_names_file_and_line(folder: MakeFolder, files: dict[str, str], line: int, problem: str) -> None:
    path = folder(**files)
    (name,) = files
    file = "items.jsonl.gz" if name == "items" else f"{name}.txt.gz"
    with pytest.raises(DataError, match=problem) as caught:
        read_folder(path)
    assert str(caught.value).startswith(f"{path / file}, line {line}: ")


def test_a_user_too_few_in_a_column(folder: MakeFolder) -> None:
    with pytest.raises(DataError, match=r"time.txt.gz: has 1 users, sequences.txt.gz has 2"):
        read_folder(folder(time="1 5 6 7\n"))


def test_equal_times_are_fine_and_users_may_overlap(folder: MakeFolder) -> None:
    log = read_folder(folder(time="1 5 5 7\n2 1 1\n"))
    assert log.time is not None
    assert log.time.tolist() == [5, 5, 7, 1, 1]


@pytest.mark.parametrize("name", ["sequences.txt.gz", "items.jsonl.gz", "time.txt.gz"])
def test_truncated_gzip(folder: MakeFolder, name: str) -> None:
    rng = np.random.default_rng(0)
    many = range(1, 20_001)
    path = folder(
        sequences="".join(f"{user} {rng.integers(1, 4)} {rng.integers(1, 4)}\n" for user in many),
        items="".join(f'{{"item_id": {item}, "title": "{rng.integers(10**9)}"}}\n' for item in many),
        time="".join(f"{user} {rng.integers(10**6)} {10**6 + rng.integers(10**6)}\n" for user in many),
    )
    read_folder(path)
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{name}, line (\d+): the gzip data breaks off here") as caught:
        read_folder(path)
    line = int(str(caught.value).split("line ")[1].split(":")[0])
    assert 1_000 < line < 20_000  # where it really breaks off


def test_not_gzip_and_damaged_gzip(folder: MakeFolder) -> None:
    path = folder()
    (path / "sequences.txt.gz").write_bytes(b"1 1 2 3\n")
    with pytest.raises(DataError, match=r"sequences.txt.gz, line 1: the gzip data breaks off here"):
        read_folder(path)
    packed = bytearray(gzip.compress(b"1 1 2 3\n" * 1000))
    packed[-8] ^= 0xFF  # the checksum
    (path / "sequences.txt.gz").write_bytes(bytes(packed))
    with pytest.raises(DataError, match=r"CRC check failed"):
        read_folder(path)


def test_missing_and_double_files(folder: MakeFolder) -> None:
    path = folder(items=None)
    with pytest.raises(DataError, match=r"needs items.jsonl.gz or items.csv.gz"):
        read_folder(path)
    shutil.copy(folder() / "items.jsonl.gz", path / "items.csv.gz")
    with pytest.raises(DataError, match=r"holds both items.jsonl.gz and items.csv.gz"):
        read_folder(path)
    (path / "sequences.txt.gz").unlink()
    with pytest.raises(DataError, match=r"holds no sequences.txt.gz"):
        load_dataset(str(path))


def test_bad_csv(folder: MakeFolder) -> None:
    path = folder(items=None)
    (path / "items.csv.gz").write_bytes(gzip.compress(b"item_id,title\n1,a\n2,b,c,d\n"))
    with pytest.raises(DataError, match=r"items.csv.gz: this is not the CSV that was expected .* line 3"):
        read_folder(path)


def test_users_file_gives_the_names(folder: MakeFolder) -> None:
    path = folder()
    users = path / "users.jsonl.gz"
    users.write_bytes(gzip.compress(b'{"user_id": 2, "original_id": "ben"}\n{"user_id": 1, "original_id": "ann"}\n'))
    names = read_folder(path).user_ids
    assert names is not None
    assert names.tolist() == ["ann", "ben"]
    users.write_bytes(gzip.compress(b'{"user_id": 1, "original_id": "ann"}\n'))
    with pytest.raises(DataError, match=r"sequences.txt.gz, line 2: user 2 is not in users.jsonl.gz"):
        read_folder(path)


# ------------------------------------------------------------------------------------------------ round trips

text = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)


@st.composite
def logs(draw: st.DrawFn) -> Interactions:
    n_items = draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    n = sum(lengths)
    time = None
    if draw(st.booleans()):
        finite = st.floats(-1e12, 1e12)
        time = np.concatenate([np.sort(draw(npst.arrays(np.float64, size, elements=finite))) for size in lengths])
    extra = {
        "whole": draw(npst.arrays(np.int64, n, elements=st.integers(-(2**52), 2**52))),
        "flag": draw(npst.arrays(np.bool_, n)),
        "real": draw(npst.arrays(np.float64, n, elements=st.floats(allow_nan=True, allow_infinity=True))),
    }
    items = pd.DataFrame(
        {
            "title": draw(st.lists(text, min_size=n_items, max_size=n_items)),
            "price": draw(st.lists(st.floats(allow_nan=False), min_size=n_items, max_size=n_items)),
            "categories": draw(st.lists(st.lists(text, max_size=3), min_size=n_items, max_size=n_items)),
        },
        index=pd.RangeIndex(1, n_items + 1, name="item_id"),
    )
    users: np.ndarray | None = None
    if draw(st.booleans()):
        whole = st.integers(0, 10**17)
        kind = draw(st.sampled_from([whole, text]))
        ids = draw(st.lists(kind, unique=True, min_size=len(lengths), max_size=len(lengths)))
        users = np.array(ids, dtype=np.int64 if isinstance(ids[0], int) else object)
    return Interactions(
        user=np.repeat(np.arange(len(lengths)), lengths),
        item=draw(npst.arrays(np.int64, n, elements=st.integers(1, n_items))),
        time=time,
        n_items=n_items,
        items=items,
        extra=extra,
        user_ids=users,
        name="shop",
    )


@settings(max_examples=60, deadline=None)
@given(log=logs())
def test_save_then_load_is_the_same(log: Interactions) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = save_folder(log, Path(scratch) / "shop")
        back = read_folder(path)
        again = save_folder(back, Path(scratch) / "again")
        for file in sorted(path.iterdir()):
            assert (again / file.name).read_bytes() == file.read_bytes()
    np.testing.assert_array_equal(back.user, log.user)
    np.testing.assert_array_equal(back.item, log.item)
    assert (back.time is None) == (log.time is None)
    if log.time is not None and back.time is not None:
        np.testing.assert_array_equal(back.time, log.time)
    assert set(back.extra) == set(log.extra)
    for name, values in log.extra.items():
        np.testing.assert_array_equal(back.extra[name], values)
    names = np.arange(1, log.n_users + 1) if log.user_ids is None else log.user_ids
    assert back.user_ids is not None
    assert back.user_ids.tolist() == names.tolist()
    assert (back.n_items, back.name) == (log.n_items, log.name)
    assert back.items.to_dict("list") == log.items.to_dict("list")
    assert back.items.index.tolist() == log.items.index.tolist()


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.integers(0, 10**17), st.lists(st.integers(0, 10**17), min_size=1), min_size=1))
def test_rows_agree_with_a_plain_parser(users: dict[int, list[int]]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "sequences.txt.gz"
        lengths = np.array([len(items) for items in users.values()])
        write_rows(path, Rows(np.array(list(users)), lengths, np.concatenate(list(users.values()))))
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        rows = read_rows(path)
    assert lines == [" ".join(map(str, [user, *items])) for user, items in users.items()]
    parts = np.split(rows.values, np.cumsum(rows.lengths)[:-1])
    assert {int(u): part.tolist() for u, part in zip(rows.user_ids, parts, strict=True)} == users


def test_the_same_log_gives_the_same_bytes(folder: MakeFolder, tmp_path: Path) -> None:
    log = read_folder(folder())
    one, two = save_folder(log, tmp_path / "one"), save_folder(log, tmp_path / "two")
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()


def test_saving_never_overwrites_unasked(folder: MakeFolder, tmp_path: Path) -> None:
    log = read_folder(folder())
    path = save_folder(log, tmp_path / "mine")
    (path / "note").write_text("keep me")
    with pytest.raises(ValueError, match=r"path: .*mine exists already"):
        save_folder(log, path)
    assert (path / "note").exists()
    save_folder(log, path, overwrite=True)
    assert not (path / "note").exists()
    assert read_folder(path).item.tolist() == log.item.tolist()
    assert {entry.name for entry in tmp_path.iterdir()} == {"shop", "mine"}  # nothing half-written stays


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ({"word": np.array(["a"] * 5)}, r"word.txt.gz: values must be numbers"),
        ({"time": np.zeros(5)}, r"extra: 'time' is a file of the format itself"),
    ],
)
def test_what_cannot_be_saved(folder: MakeFolder, tmp_path: Path, extra: dict[str, np.ndarray], problem: str) -> None:
    log = read_folder(folder())
    odd = Interactions(log.user, log.item, None, log.n_items, log.items, extra=extra)
    with pytest.raises(ValueError, match=problem):
        save_folder(odd, tmp_path / "odd")
    assert not (tmp_path / "odd").exists()


# ------------------------------------------------------------------------------------------- your own log


def test_from_log_sorts_stably_and_keeps_the_names() -> None:
    table = pd.DataFrame(
        {
            "who": ["b", "a", "b", "a", "b"],
            "what": ["x", "z", "y", "x", "w"],
            "when": [3.0, 9.0, 1.0, 2.0, 1.0],
            "stars": [5, 4, 3, 2, 1],
            "comment": list("abcde"),
        }
    )
    log = from_log(table, user="who", item="what", time="when", name="shop")
    assert log.user_ids is not None
    assert log.user_ids.tolist() == ["b", "a"]
    assert log.items["original_id"].tolist() == ["w", "x", "y", "z"]
    assert log.item.tolist() == [3, 1, 2, 2, 4]  # b: y and w (same time, order of the table), x; a: x, z
    assert log.extra["stars"].tolist() == [3, 1, 5, 2, 4]
    assert set(log.extra) == {"stars"}


def test_from_log_with_dates_items_and_without_time() -> None:
    table = pd.DataFrame({"user": [1, 1], "item": [5, 7], "time": ["2020-01-02T00:00:01Z", "2020-01-01"]})
    items = pd.DataFrame({"title": ["seven", "nine", "five"]}, index=[7, 9, 5])
    log = from_log(table, items=items)
    assert log.item.tolist() == [2, 1]
    assert log.time is not None
    assert log.time.tolist() == [1577836800.0, 1577923201.0]
    assert log.items["title"].tolist() == ["five", "seven", "nine"]
    assert from_log(table, time=None).item.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("change", "arguments", "problem"),
    [
        ({}, {"user": "nobody"}, r"user: there is no column 'nobody'; the table has user, item, time"),
        ({"item": [1, None]}, {}, r"item: row 2 of the table is empty"),
        ({"time": ["then", "now"]}, {}, r"time: the column 'time' holds neither seconds nor dates"),
        ({}, {"items": pd.DataFrame(index=[1])}, r"items: 2 occurs in the log but not among the items"),
        ({}, {"items": pd.DataFrame(index=[1, 2, 1])}, r"items: the id 1 stands there twice"),
    ],
)
def test_from_log_says_what_is_wrong(change: dict[str, object], arguments: dict[str, object], problem: str) -> None:
    table = pd.DataFrame({"user": [1, 1], "item": [1, 2], "time": [0, 1]} | change)
    with pytest.raises(ValueError, match=problem):
        from_log(table, **arguments)  # type: ignore[arg-type]


def test_from_log_of_an_empty_table() -> None:
    with pytest.raises(ValueError, match="the table is empty"):
        from_log(pd.DataFrame({"user": [], "item": [], "time": []}))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc"), st.integers(0, 4)), min_size=1, max_size=20))
def test_from_log_loses_nothing(events: list[tuple[int, str, int]]) -> None:
    table = pd.DataFrame(events, columns=["user", "item", "time"])
    log = from_log(table)
    assert log.user_ids is not None
    assert log.time is not None
    names = log.items["original_id"].to_numpy()
    back = list(zip(log.user_ids[log.user].tolist(), names[log.item - 1].tolist(), log.time.tolist(), strict=True))
    assert sorted(back) == sorted(events)
    for user in set(table["user"]):
        mine = [event for event in back if event[0] == user]
        assert mine == sorted((event for event in events if event[0] == user), key=lambda event: event[2])
