"""The whole way from an address to a loaded data set, against a server on this machine."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from reclib.data import DataError, fetch, load_dataset, load_open_bandit
from reclib.data.catalogue import CATALOGUE, DatasetInfo, RemoteFile
from reclib.data.fetch import DownloadError, download, gzip_lines, k_core, read_member
from reclib.data.files import content_sha256, read_rows

if TYPE_CHECKING:
    from tests.data.conftest import Site

BODY = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()
LIMIT = 10**9


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts."""
    monkeypatch.setattr("reclib.data.fetch.PAUSE", 0.0)


def remote(site: Site, name: str = "set.bin", sha256: str | None = SHA) -> RemoteFile:
    site.files.setdefault(name, BODY)
    return RemoteFile(name, (f"{site.url}/{name}",), sha256)


# -------------------------------------------------------------------------------------------------- download


def test_download_in_one_go(site: Site, tmp_path: Path) -> None:
    path = download(remote(site), tmp_path, SHA, progress=False)
    assert path.read_bytes() == BODY
    assert site.requests == [("set.bin", None)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.bin"]


def test_a_cut_connection_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.cut_after = [100_000, 50_000]
    path = download(remote(site), tmp_path, SHA, progress=False)
    assert path.read_bytes() == BODY
    assert site.requests == [("set.bin", None), ("set.bin", "bytes=100000-"), ("set.bin", "bytes=150000-")]


def test_an_aborted_download_is_resumed_by_the_next_command(site: Site, tmp_path: Path) -> None:
    site.cut_after = [100_000] + [0] * 5
    with pytest.raises(DownloadError, match=r"broke off after 0.1 MB .*Run the same command again"):
        download(remote(site), tmp_path, SHA, progress=False)
    assert (tmp_path / "set.bin.part").read_bytes() == BODY[:100_000]
    site.requests.clear()
    assert download(remote(site), tmp_path, SHA, progress=False).read_bytes() == BODY
    assert site.requests == [("set.bin", "bytes=100000-")]
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.bin"]


def test_ctrl_c_keeps_the_part(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib3

    stream = urllib3.HTTPResponse.stream

    def interrupted(self: urllib3.HTTPResponse, *args: object, **kwargs: object) -> object:
        for n, chunk in enumerate(stream(self, *args, **kwargs)):  # type: ignore[arg-type]
            if n == 2:
                raise KeyboardInterrupt
            yield chunk

    monkeypatch.setattr(urllib3.HTTPResponse, "stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(remote(site), tmp_path, SHA, progress=False)
    monkeypatch.undo()
    have = (tmp_path / "set.bin.part").stat().st_size
    assert 0 < have < len(BODY)
    assert download(remote(site), tmp_path, SHA, progress=False).read_bytes() == BODY
    assert site.requests[-1] == ("set.bin", f"bytes={have}-")


def test_a_file_that_changed_in_between_starts_anew(site: Site, tmp_path: Path) -> None:
    site.cut_after = [100_000] + [0] * 5
    old = remote(site)
    with pytest.raises(DownloadError):
        download(old, tmp_path, None, progress=False)
    site.files["set.bin"], site.etag = BODY[::-1], '"two"'
    assert download(old, tmp_path, None, progress=False).read_bytes() == BODY[::-1]


def test_a_server_without_ranges_starts_anew(site: Site, tmp_path: Path) -> None:
    site.ranges, site.cut_after = False, [100_000]
    assert download(remote(site), tmp_path, SHA, progress=False).read_bytes() == BODY


@pytest.mark.parametrize("part", [BODY, BODY + b"too much"])
def test_a_part_with_nothing_left_to_fetch(site: Site, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "set.bin.part").write_bytes(part)
    assert download(remote(site), tmp_path, SHA, progress=False).read_bytes() == BODY


def test_a_wrong_hash_is_refused(site: Site, tmp_path: Path) -> None:
    site.files["set.bin"] = BODY[:-1] + b"!"
    with pytest.raises(DownloadError, match=r"not the one that was expected .*--allow-changed"):
        download(remote(site), tmp_path, SHA, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_404_says_so_and_the_next_address_is_tried(site: Site, tmp_path: Path) -> None:
    gone = RemoteFile("set.bin", (f"{site.url}/gone.bin",), SHA)
    with pytest.raises(DownloadError, match=r"gone.bin: the server answered 404 Not Found.*home page.*--mirror"):
        download(gone, tmp_path, SHA, progress=False)
    site.files["set.bin"] = BODY
    two = RemoteFile("set.bin", (f"{site.url}/gone.bin", f"{site.url}/set.bin"), SHA)
    assert download(two, tmp_path, SHA, progress=False).read_bytes() == BODY


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 503]
    assert download(remote(site), tmp_path, SHA, progress=False).read_bytes() == BODY
    site.statuses = [503] * 5
    with pytest.raises(DownloadError, match="503"):
        download(remote(site, "other.bin"), tmp_path, SHA, progress=False)


def test_nobody_answers(tmp_path: Path) -> None:
    nobody = RemoteFile("set.bin", ("http://127.0.0.1:9/set.bin", "ftp:/x"), SHA)
    with pytest.raises(DownloadError, match=r"127.0.0.1:9/set.bin: the connection broke off after 0 bytes"):
        download(nobody, tmp_path, SHA, progress=False)


# ------------------------------------------------------------------------------------------------- unpacking


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("evil", ["../evil.csv", "/etc/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_an_archive_that_points_outside_is_refused(tmp_path: Path, evil: str) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(zip_of({"good.csv": b"fine", evil: b"bad"}))
    with pytest.raises(DownloadError, match="points outside the archive; refused"):
        read_member(path, "good.csv", LIMIT)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.zip"]


def test_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(zip_of({"big.csv": b"0" * 2_000_000}))
    assert path.stat().st_size < 5_000
    with pytest.raises(DownloadError, match=r"unpacks to more than 1.0 MB; refused"):
        read_member(path, "big.csv", 1_000_000)
    lines = tmp_path / "set.gz"
    for content in (b"0" * 2_000_000, b"0\n" * 1_000_000):  # one endless line, and many short ones
        lines.write_bytes(gzip.compress(content))
        with pytest.raises(DownloadError, match=r"unpacks to more than 1.0 MB; refused"):
            list(gzip_lines(lines, 1_000_000))


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(b"no archive at all")
    with pytest.raises(DownloadError, match="is not a sound zip archive"):
        read_member(path, "x", LIMIT)
    path.write_bytes(zip_of({"other": b""}))
    with pytest.raises(DownloadError, match="x is missing; the official archive has changed"):
        read_member(path, "x", LIMIT)
    path.write_bytes(gzip.compress(BODY)[:1000])
    with pytest.raises(DownloadError, match="the gzip data is damaged"):
        list(gzip_lines(path, LIMIT))


# ------------------------------------------------------------------- MovieLens small, from the server to the log

SMALL = {
    "ml-latest-small/ratings.csv": b"userId,movieId,rating,timestamp\n1,10,4.0,100\n1,20,3.5,50\n2,10,1.0,90\n",
    "ml-latest-small/movies.csv": b"movieId,title,genres\n10,A (1990),Drama\n20,B (1991),Comedy\n",
    "ml-latest-small/tags.csv": b"userId,movieId,tag,timestamp\n1,10,fun,1\n",
    "ml-latest-small/README.txt": b"the licence",
}


@pytest.fixture
def small(site: Site) -> DatasetInfo:
    """A tiny stand-in for the official archive, with its hash pinned."""
    site.files["small.zip"] = zip_of(SMALL)
    file = remote(site, "small.zip", hashlib.sha256(site.files["small.zip"]).hexdigest())
    return dataclasses.replace(CATALOGUE["movielens-small"], users=2, items=2, interactions=3, files=(file,))


def test_fetch_installs_and_verifies(small: DatasetInfo, tmp_path: Path) -> None:
    said: list[str] = []
    path = fetch.fetch(small, tmp_path, progress=False, say=said.append)
    assert path == tmp_path / "movielens-small"
    assert load_dataset("movielens-small", root=tmp_path).item.tolist() == [2, 1, 1]
    assert (path / "LICENSE-README.txt").read_text() == "the licence"
    assert "may redistribute" in (path / "TERMS.txt").read_text()
    assert "(the known one)" in said[0]
    assert [entry.name for entry in tmp_path.iterdir() if not entry.name.startswith(".")] == [path.name]
    assert list((tmp_path / ".downloads").iterdir()) == []
    assert fetch.verify(small, path) == []

    (path / "tags.csv.gz").write_bytes(gzip.compress(SMALL["ml-latest-small/tags.csv"], mtime=1))
    assert [p.split(" since")[0] for p in fetch.verify(small, path)] == ["tags.csv.gz: has changed"]
    (path / "source.json").write_text("{")
    with pytest.raises(DataError, match=r"source.json: is damaged"):
        fetch.verify(small, path)


def test_fetch_replaces_only_when_asked(small: DatasetInfo, tmp_path: Path) -> None:
    path = fetch.fetch(small, tmp_path, progress=False)
    with pytest.raises(DownloadError, match=r"exists already.*--force"):
        fetch.fetch(small, tmp_path, progress=False)
    (path / "extra").write_text("gone after this")
    fetch.fetch(small, tmp_path, overwrite=True, progress=False)
    assert not (path / "extra").exists()


def test_other_counts_than_known_are_not_installed_silently(small: DatasetInfo, tmp_path: Path) -> None:
    more = dataclasses.replace(small, interactions=4)
    with pytest.raises(DownloadError, match=r"interactions: found 3, expected 4\. The official files have changed"):
        fetch.fetch(more, tmp_path, progress=False)
    assert not (tmp_path / "movielens-small").exists()
    assert (tmp_path / ".downloads" / "movielens-small" / "small.zip").exists()  # nothing to download again
    said: list[str] = []
    fetch.fetch(more, tmp_path, allow_changed=True, progress=False, say=said.append)
    assert any("warning: interactions: found 3, expected 4" in line for line in said)
    assert fetch.verify(more, tmp_path / "movielens-small") == ["interactions: found 3, expected 4"]


def test_a_changed_file_needs_consent(small: DatasetInfo, site: Site, tmp_path: Path) -> None:
    site.files["small.zip"] = zip_of({**SMALL, "ml-latest-small/README.txt": b"another licence"})
    with pytest.raises(DownloadError, match="not the one that was expected"):
        fetch.fetch(small, tmp_path, progress=False)
    said: list[str] = []
    fetch.fetch(small, tmp_path, allow_changed=True, progress=False, say=said.append)
    assert "another one than known, accepted as asked" in said[0]


def test_trust_on_first_use(small: DatasetInfo, site: Site, tmp_path: Path) -> None:
    unpinned = dataclasses.replace(small, files=(dataclasses.replace(small.files[0], sha256=None),))
    said: list[str] = []
    path = fetch.fetch(unpinned, tmp_path, progress=False, say=said.append)
    assert "nobody published one; recorded in source.json" in said[0]
    source = json.loads((path / "source.json").read_text())
    assert source["files"][0]["sha256"] == hashlib.sha256(site.files["small.zip"]).hexdigest()
    said.clear()
    fetch.fetch(unpinned, tmp_path, overwrite=True, progress=False, say=said.append)
    assert "the same as last time" in said[0]
    site.files["small.zip"] = zip_of({**SMALL, "ml-latest-small/README.txt": b"another licence"})
    with pytest.raises(DownloadError, match="not the one that was expected"):
        fetch.fetch(unpinned, tmp_path, overwrite=True, progress=False)
    assert (path / "LICENSE-README.txt").read_text() == "the licence"  # the old copy stays


def test_a_mirror_is_held_to_the_same_hash(small: DatasetInfo, site: Site, tmp_path: Path) -> None:
    moved = dataclasses.replace(
        small, files=(dataclasses.replace(small.files[0], urls=("http://127.0.0.1:9/small.zip",)),)
    )
    path = fetch.fetch(moved, tmp_path, mirror=f"{site.url}/", progress=False)
    assert json.loads((path / "source.json").read_text())["files"][0]["urls"] == [f"{site.url}/small.zip"]
    site.files["small.zip"] = zip_of({**SMALL, "extra": b""})
    with pytest.raises(DownloadError, match="not the one that was expected"):
        fetch.fetch(moved, tmp_path, mirror=site.url, overwrite=True, progress=False)


def test_a_damaged_table_is_not_installed(small: DatasetInfo, site: Site, tmp_path: Path) -> None:
    site.files["small.zip"] = zip_of({**SMALL, "ml-latest-small/ratings.csv": b"userId,movieId\n1,10\n"})
    with pytest.raises(DataError, match=r"ratings.csv.gz, line 1: the column 'timestamp' is missing"):
        fetch.fetch(small, tmp_path, allow_changed=True, progress=False)
    assert not (tmp_path / "movielens-small").exists()


# -------------------------------------------------------------------------------------------- the conversions


def one_file_info(name: str, site: Site, contents: dict[str, bytes], **known: int) -> DatasetInfo:
    site.files |= contents
    files = tuple(dataclasses.replace(remote(site, file), sha256=None) for file in contents)
    return dataclasses.replace(CATALOGUE[name], files=files, sequences_sha256=None, **known)


def movielens_1m_zip(ratings: str, movies: str, users: str) -> bytes:
    tables = {"ratings": ratings, "movies": movies, "users": users}
    members = {f"ml-1m/{name}.dat": text.encode("latin-1") for name, text in tables.items()}
    return zip_of(members | {"ml-1m/README": b"the licence"})


def test_movielens_1m_keeps_films_with_five_ratings(site: Site, tmp_path: Path) -> None:
    ratings = "".join(f"{user}::10::{user % 5 + 1}::{100 - user}\n" for user in range(1, 6))
    ratings += "1::20::5::99\n1::30::4::99\n2::30::2::99\n3::30::3::200\n4::30::1::1\n5::30::5::1\n"
    movies = "30::Amélie (2001)::Comedy\n10::A: The Film::Drama|War\n20::Rare::Drama\n"
    users = "".join(f"{user}::F::25::4::00000\n" for user in range(1, 6))
    info = one_file_info(
        "movielens-1m", site, {"ml-1m.zip": movielens_1m_zip(ratings, movies, users)}, users=5, items=2, interactions=10
    )
    path = fetch.fetch(info, tmp_path, progress=False)
    log = load_dataset("movielens-1m", root=tmp_path)
    assert log.items["original_id"].tolist() == [10, 30]
    assert log.items["title"].tolist() == ["A: The Film", "Amélie (2001)"]
    assert log.history(0).tolist() == [1, 2]  # both at 99: the order of the file
    assert log.history(3).tolist() == [2, 1]
    assert log.time is None  # as in the copy the book's numbers come from
    assert log.extra["seconds"][:2].tolist() == [99, 99]
    assert log.extra["rating"][:2].tolist() == [2, 4]
    assert log.extra["liked"][:2].tolist() == [0, 1]
    assert b"zip" not in gzip.decompress((path / "users.jsonl.gz").read_bytes())


def test_movielens_1m_with_a_bad_row(site: Site, tmp_path: Path) -> None:
    for ratings, problem in (
        ("1::10::5\n", r"line 1: does not have 4 fields"),
        ("1::x::5::9\n", r"line 1: item_id 'x'"),
    ):
        archive = movielens_1m_zip(ratings, "10::A::B\n", "1::F::1::1::0\n")
        info = one_file_info("movielens-1m", site, {"ml-1m.zip": archive})
        with pytest.raises(DataError, match=rf"ratings.dat, {problem}"):
            fetch.fetch(info, tmp_path, allow_changed=True, progress=False)
        (tmp_path / ".downloads" / "movielens-1m" / "ml-1m.zip").unlink()


def lines_gz(records: list[object], plain: Callable[[object], str] = json.dumps) -> bytes:
    return gzip.compress("".join(plain(record) + "\n" for record in records).encode())


def review(user: str, asin: str, day: int) -> dict[str, object]:
    return {"reviewerID": user, "asin": asin, "overall": 4.0, "unixReviewTime": day * 86_400, "reviewText": "…"}


def test_amazon_2014(site: Site, tmp_path: Path) -> None:
    # In the order of product codes, as the official file is. User b comes first, so b is user 1.
    reviews = [
        review("b", "A1", 2), review("a", "A2", 9), review("b", "A2", 1), review("a", "A3", 9), review("b", "A3", 2)
    ]  # fmt: skip
    products = [
        {"asin": "A9", "title": "not wanted"},
        {"asin": "A2", "title": "Tom &amp; <b>Jerry</b>", "brand": "X", "categories": [["Beauty", "Hair"], ["Beauty"]]},
        {"asin": "A1", "description": "It's fine", "related": {"also_bought": ["A2"]}},
    ]
    info = one_file_info(
        "amazon2014-beauty",
        site,
        {"reviews_Beauty_5.json.gz": lines_gz(reviews), "meta_Beauty.json.gz": lines_gz(products, repr)},
        users=2, items=3, interactions=5,
    )  # fmt: skip
    fetch.fetch(info, tmp_path, progress=False)
    log = load_dataset("amazon2014-beauty", root=tmp_path)
    assert log.items["asin"].tolist() == ["A2", "A1", "A3"]  # user b on day 1, then on day 2 in file order
    assert log.history(0).tolist() == [1, 2, 3]
    assert log.history(1).tolist() == [1, 3]
    assert log.items["title"].tolist() == ["Tom & Jerry", "", ""]
    assert log.items["description"].tolist() == ["", "It's fine", ""]
    assert log.items["categories"].tolist() == [["Beauty", "Hair"], [], []]
    assert log.time is None  # as in the copy the book's numbers come from
    assert (log.extra["seconds"] / 86_400).tolist() == [1, 2, 2, 9, 9]


def test_amazon_2018_drops_repeats_and_products_without_metadata(site: Site, tmp_path: Path) -> None:
    people, products = "vwxyz", ["P5", "P4", "P3", "P2", "P1"]
    reviews = [review("q", "LOST", 0)] * 6  # no metadata
    reviews += [review(user, asin, day) for user in people for day, asin in enumerate(products)]
    reviews += [review("v", "P5", 9), review("v", "P1", 3)]  # repeats: a later one, an earlier one
    reviews += [review("guest", asin, 0) for asin in products[:4]]  # four reviews are too few
    meta = [
        {"asin": asin, "title": asin.lower(), "category": ["Tools"], "description": ["one", "two"]} for asin in products
    ]
    info = one_file_info(
        "amazon2018-scientific",
        site,
        {
            "Industrial_and_Scientific_5.json.gz": lines_gz(reviews),
            "meta_Industrial_and_Scientific.json.gz": lines_gz(meta),
        },
        users=5, items=5, interactions=25,
    )  # fmt: skip
    fetch.fetch(info, tmp_path, progress=False)
    log = load_dataset("amazon2018-scientific", root=tmp_path)
    # v reviewed P1 on day 3 as well as on day 4: the earlier counts, before P2 of the same day.
    assert log.items["asin"].tolist() == ["P5", "P4", "P3", "P1", "P2"]
    assert log.history(0).tolist() == [1, 2, 3, 4, 5]
    assert log.history(1).tolist() == [1, 2, 3, 5, 4]
    assert log.items["description"].tolist() == ["one two"] * 5


@pytest.mark.parametrize(
    ("reviews", "meta", "message"),
    [
        (b'{"asin": "A1"}\n', b"", r"reviews_Beauty_5.json.gz, line 1: is not a review"),
        (b"nonsense\n", b"", r"reviews_Beauty_5.json.gz, line 1: is not a review"),
        (None, b"{'asin': 'A1', 'title': open('x')}\n", r"meta_Beauty.json.gz, line 1: is not a product record"),
    ],
)
def test_amazon_names_file_and_line(
    site: Site, tmp_path: Path, reviews: bytes | None, meta: bytes, message: str
) -> None:
    good = (json.dumps(review("a", "A1", 1)) + "\n").encode()
    contents = {"reviews_Beauty_5.json.gz": reviews or good, "meta_Beauty.json.gz": meta}
    packed = {name: gzip.compress(content) for name, content in contents.items()}
    with pytest.raises(DataError, match=message):
        fetch.fetch(one_file_info("amazon2014-beauty", site, packed), tmp_path, progress=False)


def test_k_core_repeats_until_nothing_changes() -> None:
    rng = np.random.default_rng(1)
    events = pd.DataFrame({"user": rng.integers(0, 30, 240), "asin": rng.integers(0, 30, 240)})
    core = k_core(events, 6)
    assert 0 < len(core) < len(events)
    assert core["user"].value_counts().min() >= 6
    assert core["asin"].value_counts().min() >= 6
    # The k-core is the largest such set: whatever was dropped has no place in any other.
    alive = set(core.index)
    for dropped in set(events.index) - alive:
        user, asin = events.loc[dropped]
        gone = (core["user"] == user).sum() == 0 or (core["asin"] == asin).sum() == 0
        assert gone


# ------------------------------------------------- the official files, rebuilt from the real sets where they are


def test_amazon_2014_gives_back_the_real_sequences(real: Callable[[str], Path], site: Site, tmp_path: Path) -> None:
    """A file in product order, days that restart where codes descend: the conversion must restore every byte."""
    name = "amazon2014-beauty"
    log = load_dataset(name, root=real(name).parent)
    asin = log.items["asin"].to_numpy()[log.item - 1]
    new_day = np.concatenate([[True], (asin[1:] < asin[:-1]) | (np.diff(log.user) > 0)])
    table = pd.DataFrame({"asin": asin, "user": log.user, "day": np.cumsum(new_day)})
    table = table.sort_values(["asin", "user"])
    reviews = [review(f"U{user}", code, day) for code, user, day in table.itertuples(index=False)]
    contents = {"reviews_Beauty_5.json.gz": lines_gz(reviews), "meta_Beauty.json.gz": lines_gz([])}
    info = dataclasses.replace(one_file_info(name, site, contents), sequences_sha256=CATALOGUE[name].sequences_sha256)
    said: list[str] = []
    path = fetch.fetch(info, tmp_path, progress=False, say=said.append)
    assert content_sha256(path / "sequences.txt.gz") == CATALOGUE[name].sequences_sha256
    assert said[-1] == "the sequences are the very ones the book's numbers come from"
    assert load_dataset(name, root=tmp_path).items["asin"].tolist() == log.items["asin"].tolist()


def test_movielens_1m_gives_back_the_real_sequences(real: Callable[[str], Path], site: Site, tmp_path: Path) -> None:
    name = "movielens-1m"
    rows = read_rows(real(name) / "sequences.txt.gz")
    user = np.repeat(rows.user_ids, rows.lengths)
    seconds = np.arange(len(user)) // 3  # three ratings share a second
    ratings = "".join(f"{u}::{i}::4::{t}\n" for u, i, t in zip(user, rows.values, seconds, strict=True))
    ratings += "1::1107::4::5\n2::1107::4::5\n"  # a film with two ratings, to be left out
    films = "".join(f"{film}::T::G\n" for film in [*np.unique(rows.values), 1107])
    users = "".join(f"{u}::F::1::1::0\n" for u in rows.user_ids)
    archive = movielens_1m_zip(ratings, films, users)
    info = one_file_info(name, site, {"ml-1m.zip": archive})
    path = fetch.fetch(info, tmp_path, progress=False)
    assert 1107 not in rows.values
    assert content_sha256(path / "sequences.txt.gz") == CATALOGUE[name].sequences_sha256


def test_movielens_small_from_the_real_tables(real: Callable[[str], Path], site: Site, tmp_path: Path) -> None:
    name = "movielens-small"
    folder = real(name)
    members = {
        f"ml-latest-small/{table}.csv": gzip.decompress((folder / f"{table}.csv.gz").read_bytes())
        for table in ("ratings", "movies", "tags")
    }
    info = one_file_info(name, site, {"ml.zip": zip_of(members | {"ml-latest-small/README.txt": b""})})
    fetch.fetch(info, tmp_path, progress=False)
    ours, theirs = load_dataset(name, root=tmp_path), load_dataset(name, root=folder.parent)
    np.testing.assert_array_equal(ours.item, theirs.item)


def test_open_bandit_from_the_real_tables(real: Callable[[str], Path], site: Site, tmp_path: Path) -> None:
    name = "open-bandit-small"
    folder = real(name)
    for file in CATALOGUE[name].files:  # with the pinned hashes, from a mirror
        policy, table = file.name.split("-")
        site.files[file.name] = gzip.decompress((folder / policy / f"{table}.gz").read_bytes())
    said: list[str] = []
    fetch.fetch(CATALOGUE[name], tmp_path, mirror=site.url, progress=False, say=said.append)
    assert sum("(the known one)" in line for line in said) == 8
    ours, theirs = (load_open_bandit("women", "bts", root) for root in (tmp_path, folder.parent))
    np.testing.assert_array_equal(ours.context, theirs.context)
    assert fetch.verify(CATALOGUE[name], tmp_path / name) == []


def test_the_real_sets_are_the_ones_the_catalogue_knows(real: Callable[[str], Path]) -> None:
    for name, info in CATALOGUE.items():
        assert fetch.verify(info, real(name)) == []
        note = fetch.order_note(info, real(name))
        assert note is None or note.startswith("the sequences are the very ones")


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_set_has_a_conversion_and_official_addresses(name: str) -> None:
    info = CATALOGUE[name]
    assert name in fetch.CONVERT
    assert info.files
    for file in info.files:
        assert file.urls
        assert all(url.startswith("https://") for url in file.urls)
        assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
