"""Download a data set from its official address, check it, and turn it into files the loaders read.

Four rules. The terms are shown and accepted first. A broken download goes on where it stopped. A file whose hash is
not the known one is refused; where nobody published a hash, the hash of the first download is written to
`source.json` and later downloads must match it (trust on first use: it notices a change, not a bad first copy).
And nothing from an archive chooses where it is written: only expected members are read, up to a size limit.
"""

from __future__ import annotations

import ast
import datetime
import gzip
import html
import json
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pooch
import requests
import urllib3
from tqdm.auto import tqdm

from reclib.data.catalogue import DatasetInfo, RemoteFile
from reclib.data.files import (
    SEQUENCES,
    DataError,
    Rows,
    content_sha256,
    file_sha256,
    number_column,
    write_gzip,
)
from reclib.data.folder import replace_folder, write_folder
from reclib.data.load import load_dataset
from reclib.data.open_bandit import load_open_bandit

SOURCE = "source.json"  # where the files came from, with their hashes
TERMS = "TERMS.txt"
CHUNK = 1 << 16
PAUSE = 1.0  # seconds before the first new attempt after a broken connection; doubles each time

pooch.get_logger().setLevel("WARNING")  # we say ourselves what is fetched, and how it is checked


class DownloadError(ValueError):
    """The download did not work; the message says what to do."""


# -------------------------------------------------------------------------------------------------- download


@dataclass(frozen=True)
class ResumingDownloader:
    """A downloader for pooch that keeps what has arrived and goes on from there.

    The part lies beside the file as `NAME.part`, with the server's ETag in `NAME.part.etag`: if the file changed
    in between, `If-Range` makes the server send all of it again.
    """

    part: Path  # where the incomplete file is kept between runs
    attempts: int = 5  # connections that may break without bringing anything new
    timeout: float = 30.0  # seconds without a byte
    progress: bool = True  # bar on stderr

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download `url` and move it to `output_file`; called by pooch."""
        failures = 0
        while True:
            before = self._have()
            try:
                self._stream(url)
                break
            except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
                failures = 0 if self._have() > before else failures + 1
                if failures >= self.attempts:
                    raise DownloadError(
                        f"{url}: the connection broke off after {_size(self._have())} ({_reason(error)}). "
                        "Run the same command again: it goes on from there"
                    ) from error
                time.sleep(PAUSE * 2**failures)
        shutil.move(self.part, output_file)
        self._etag_file.unlink(missing_ok=True)

    @property
    def _etag_file(self) -> Path:
        return self.part.with_name(self.part.name + ".etag")

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _stream(self, url: str) -> None:
        have = self._have()
        headers = {"Accept-Encoding": "identity"}  # the bytes of the file, not a repacked copy
        if have:
            headers["Range"] = f"bytes={have}-"
            if self._etag_file.exists():
                headers["If-Range"] = self._etag_file.read_text()
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            if response.status_code == 416:
                # Nothing left to send: the part is complete, or stale. Only the size tells.
                if response.headers.get("Content-Range") == f"bytes */{have}":
                    return
                self.part.unlink()
                return self._stream(url)
            if response.status_code >= 500:
                raise requests.ConnectionError(f"the server answered {response.status_code} {response.reason}")
            if response.status_code not in (200, 206):
                raise DownloadError(
                    f"{url}: the server answered {response.status_code} {response.reason}. The address may have "
                    "moved: look at the home page of the data set, or pass --mirror with an address that works"
                )
            resumed = response.status_code == 206
            if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                self.part.unlink()
                raise requests.ConnectionError("the server sent another part than the one asked for")
            if etag := response.headers.get("ETag") or response.headers.get("Last-Modified"):
                self._etag_file.write_text(etag)
            start = have if resumed else 0
            length = response.headers.get("Content-Length")
            with (
                self.part.open("ab" if resumed else "wb") as file,
                tqdm(
                    desc=self.part.name.removesuffix(".part"),
                    total=start + int(length) if length else None,
                    initial=start,
                    unit="B",
                    unit_scale=True,
                    disable=None if self.progress else True,
                ) as bar,
            ):
                for chunk in response.raw.stream(CHUNK, decode_content=False):
                    file.write(chunk)
                    bar.update(len(chunk))


def _reason(error: Exception) -> str:
    return str(error).split("(Caused by")[-1].strip(" ()'\"")[:200]


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes} bytes"


def download(
    file: RemoteFile, folder: Path, known_sha256: str | None, mirror: str | None = None, progress: bool = True
) -> Path:
    """Get one file by pooch, from the first of its addresses that answers, and check its hash.

    Args:
        file: what to get.
        folder: where it goes; unfinished parts stay here and are taken up again.
        known_sha256: what the content must hash to; None accepts anything.
        mirror: take the file from `MIRROR/NAME` instead of its official addresses.
        progress: show a bar on stderr.

    Raises:
        DownloadError: no address answered, the connection keeps breaking, or the hash is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    urls = file.urls if mirror is None else (f"{mirror.rstrip('/')}/{file.name}",)
    problems = []
    for url in urls:
        fetcher = ResumingDownloader(folder / f"{file.name}.part", progress=progress)
        try:
            got = pooch.retrieve(url, known_hash=known_sha256, fname=file.name, path=folder, downloader=fetcher)
            return Path(got)
        except DownloadError as error:
            problems.append(str(error))
        except requests.RequestException as error:  # an address that is none, too many redirects …
            problems.append(f"{url}: {_reason(error)}")
        except ValueError as error:  # pooch: the hash is another one; it has deleted the file
            raise DownloadError(
                f"{url}: the file is not the one that was expected ({error}). Either the download was tampered "
                "with or the official file changed. If you know that it changed, pass --allow-changed"
            ) from error
    raise DownloadError("; ".join(problems))


# ------------------------------------------------------------------------------------------------- unpacking


def read_member(archive: Path, member: str, limit: int) -> bytes:
    """One file out of a zip archive, at most `limit` bytes.

    The whole archive is refused when any of its names points outside of it: an honest archive has none.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                path = PurePosixPath(name.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
                    raise DownloadError(f"{archive.name}: the entry {name!r} points outside the archive; refused")
            if member not in zipped.namelist():
                raise DownloadError(f"{archive.name}: {member} is missing; the official archive has changed")
            with zipped.open(member) as file:
                content: bytes = file.read(limit + 1)  # what really comes out, whatever the header says
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DownloadError(f"{archive.name}: is not a sound zip archive ({error}); fetch it again") from error
    if len(content) > limit:
        raise DownloadError(f"{archive.name}: unpacks to more than {_size(limit)}; refused")
    return content


def gzip_lines(path: Path, limit: int) -> Iterator[bytes]:
    """The lines of a gzip file, at most `limit` bytes of them in all."""
    total = 0
    try:
        with gzip.open(path) as file:
            while line := file.readline(limit + 1):
                total += len(line)
                if total > limit:
                    raise DownloadError(f"{path.name}: unpacks to more than {_size(limit)}; refused")
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DownloadError(f"{path.name}: the gzip data is damaged ({error}); fetch it again") from error


# ------------------------------------------------------------------------------------------------ conversion


def movielens_small(files: dict[str, Path], info: DatasetInfo, out: Path) -> None:
    """Repack the three tables; the loader reads them as they are."""
    (remote,) = info.files
    archive = files[remote.name]
    for table in ("ratings", "movies", "tags"):
        content = read_member(archive, f"ml-latest-small/{table}.csv", remote.max_unpacked)
        write_gzip(out / f"{table}.csv.gz", content)
    licence = read_member(archive, "ml-latest-small/README.txt", remote.max_unpacked)
    (out / "LICENSE-README.txt").write_bytes(licence)


def movielens_1m(files: dict[str, Path], info: DatasetInfo, out: Path) -> None:
    """Ratings as sequences: films with at least 5 ratings, sorted by time, ties in the order of the file.

    That is the preprocessing of SASRec (Kang and McAuley, 2018). Beyond it we keep the stars, whether a film was
    liked (3 stars or more), and the time stamps: as `extra["seconds"]`, not as `time`, because the book's numbers
    for this set come from the order alone, and a name must mean the same log everywhere.
    """
    (remote,) = info.files
    archive = files[remote.name]

    def table(name: str, columns: list[str]) -> pd.DataFrame:
        # Fields are divided by "::", which no field contains; the titles are Latin-1.
        text = read_member(archive, f"ml-1m/{name}.dat", remote.max_unpacked).decode("latin-1")
        rows = [line.split("::") for line in text.splitlines()]
        if wrong := [n for n, row in enumerate(rows, start=1) if len(row) != len(columns)]:
            raise DataError(archive / f"{name}.dat", wrong[0], f"does not have {len(columns)} fields")
        return pd.DataFrame(rows, columns=columns)

    path = archive / "ratings.dat"
    ratings = table("ratings", ["user_id", "item_id", "rating", "time"])
    ratings = pd.DataFrame(
        {name: number_column(path, ratings, name, whole=True, first_line=1) for name in ratings.columns}
    )
    enough = ratings.groupby("item_id")["item_id"].transform("size") >= 5
    ratings = ratings[enough].sort_values(["user_id", "time"], kind="stable")
    films = table("movies", ["item_id", "title", "genres"])
    films["item_id"] = number_column(archive / "movies.dat", films, "item_id", True, first_line=1)
    films = films.set_index("item_id").sort_index()
    users = table("users", ["user_id", "gender", "age", "occupation", "zip"]).drop(columns="zip")
    for column in ("user_id", "age", "occupation"):
        users[column] = number_column(archive / "users.dat", users, column, True, first_line=1)
    write_folder(
        out,
        _rows(ratings),
        films.loc[np.unique(ratings["item_id"])],
        extra={
            "rating": ratings["rating"].to_numpy(),
            "liked": (ratings["rating"] >= 3).to_numpy(),
            "seconds": ratings["time"].to_numpy(),
        },
        users=users.set_index("user_id"),
        overwrite=True,
    )
    licence = read_member(archive, "ml-1m/README", remote.max_unpacked)
    (out / "LICENSE-README.txt").write_bytes(licence)


def _rows(events: pd.DataFrame) -> Rows:
    """Sequences of a table that is sorted by user already."""
    user_id = events["user_id"].to_numpy()
    first = np.flatnonzero(np.concatenate([[True], user_id[1:] != user_id[:-1]]))
    lengths = np.diff(np.concatenate([first, [len(user_id)]]))
    return Rows(user_id[first], lengths, events["item_id"].to_numpy())


def amazon_2014(files: dict[str, Path], info: DatasetInfo, out: Path) -> None:
    """Reviews of the official 5-core file as sequences, as S3-Rec (Zhou et al., 2020) made them.

    Each user's reviews are sorted by date; those of one day keep the order of the file, which is the order of the
    product codes. Users are numbered by first appearance, items user by user. The dates are `extra["seconds"]`, not
    `time`: they have day precision only, and the book uses the order alone.
    """
    reviews_file, meta_file = info.files
    reviews = _reviews(files[reviews_file.name], reviews_file.max_unpacked)
    facts = _product_facts(files[meta_file.name], meta_file.max_unpacked, set(reviews["asin"]))
    _write_amazon(reviews.sort_values("time", kind="stable"), facts, out)


def amazon_2018(files: dict[str, Path], info: DatasetInfo, out: Path) -> None:
    """Reviews of the official 5-core file, made 5-core again after two steps, as CollisionGenRec (2026) does.

    The official file repeats some reviews and has products without metadata. So: keep products with metadata;
    of several reviews of one product by one user keep the earliest; drop users and products with fewer than 5
    until none is left. Reviews of one day are sorted by product code.
    """
    reviews_file, meta_file = info.files
    reviews = _reviews(files[reviews_file.name], reviews_file.max_unpacked)
    facts = _product_facts(files[meta_file.name], meta_file.max_unpacked, set(reviews["asin"]))
    reviews = reviews[reviews["asin"].isin(facts.index)]
    reviews = reviews.sort_values("time", kind="stable").drop_duplicates(["user", "asin"], keep="first")
    reviews = k_core(reviews, 5)
    _write_amazon(reviews.sort_values(["time", "asin"], kind="stable"), facts, out)


def k_core(events: pd.DataFrame, k: int) -> pd.DataFrame:
    """Drop products, then users, with fewer than `k` events, again and again until nothing changes."""
    while True:
        before = len(events)
        events = events[events.groupby("asin")["asin"].transform("size") >= k]
        events = events[events.groupby("user")["user"].transform("size") >= k]
        if len(events) == before:
            return events


def _reviews(path: Path, limit: int) -> pd.DataFrame:
    """user, asin, time (seconds), stars and line of each review, in the order of the file."""
    records = []
    for number, line in enumerate(gzip_lines(path, limit), start=1):
        try:
            review = json.loads(line)
            stars = float(review["overall"])
            records.append((review["reviewerID"], review["asin"], int(review["unixReviewTime"]), stars, number))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(path, number, f"is not a review with user, product, stars and date ({error!r})") from None
    return pd.DataFrame(records, columns=["user", "asin", "time", "rating", "line"])


def _product_facts(path: Path, limit: int, wanted: set[str]) -> pd.DataFrame:
    """Title, brand, categories and description of the wanted products, by product code.

    The 2014 file holds Python dictionaries, the 2018 file JSON. Only lines of wanted products are parsed.
    """
    code = re.compile(rb"""["']asin["']: ["'](\w+)["']""")
    facts: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(gzip_lines(path, limit), start=1):
        found = code.search(line)
        asin = found.group(1).decode() if found else ""
        if asin not in wanted or asin in facts:
            continue
        text = line.decode("utf-8")
        try:
            record = json.loads(text) if text.startswith('{"') else ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise DataError(path, number, f"is not a product record ({error})") from None
        facts[asin] = {
            "title": _text(record.get("title", "")),
            "brand": _text(record.get("brand", "")),
            "categories": _categories(record.get("categories", record.get("category", []))),
            "description": _text(record.get("description", "")),
        }
    return pd.DataFrame.from_dict(facts, orient="index", columns=["title", "brand", "categories", "description"])


def _text(value: object) -> str:
    """Plain text: entities decoded, tags removed, spaces tidied. Lists of texts are joined."""
    joined = " ".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return " ".join(re.sub(r"</?\w[^>]*>", " ", html.unescape(joined)).split())


def _categories(value: object) -> list[str]:
    """Category names without repeats, in the order of the source (2014 nests them in paths)."""
    flat: list[str] = []
    for entry in value if isinstance(value, list) else []:
        flat += entry if isinstance(entry, list) else [entry]
    return list(dict.fromkeys(html.unescape(name).strip() for name in flat if "</span>" not in name))


def _write_amazon(reviews: pd.DataFrame, facts: pd.DataFrame, out: Path) -> None:
    """Number users by the first of their lines in the file, and items user by user; then write the folder."""
    first_line = reviews.groupby("user")["line"].transform("min")
    reviews = reviews.iloc[np.argsort(first_line.to_numpy(), kind="stable")]
    user_number, _ = pd.factorize(reviews["user"])
    item_number, asins = pd.factorize(reviews["asin"])
    events = pd.DataFrame({"user_id": user_number + 1, "item_id": item_number + 1})
    items = facts.reindex(asins)
    for column in ("title", "brand", "description"):
        items[column] = items[column].where(items[column].notna(), "")
    items["categories"] = [value if isinstance(value, list) else [] for value in items["categories"]]
    items.insert(0, "asin", asins)
    items.index = pd.RangeIndex(1, len(items) + 1, name="item_id")
    write_folder(
        out,
        _rows(events),
        items,
        extra={"rating": reviews["rating"].to_numpy(), "seconds": reviews["time"].to_numpy()},
        overwrite=True,
    )


def open_bandit(files: dict[str, Path], info: DatasetInfo, out: Path) -> None:
    """Repack the tables; the loader reads them as they are."""
    for remote in info.files:
        policy, table = remote.name.split("-")
        (out / policy).mkdir(exist_ok=True)
        write_gzip(out / policy / f"{table}.gz", files[remote.name].read_bytes())


CONVERT: dict[str, Callable[[dict[str, Path], DatasetInfo, Path], None]] = {
    "movielens-small": movielens_small,
    "movielens-1m": movielens_1m,
    "amazon2014-beauty": amazon_2014,
    "amazon2018-scientific": amazon_2018,
    "open-bandit-small": open_bandit,
}


# ----------------------------------------------------------------------------------------- fetch and verify


def fetch(
    info: DatasetInfo,
    root: Path,
    mirror: str | None = None,
    allow_changed: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Download, check, convert and install one data set as `root/NAME`.

    The caller shows `info.terms` and asks first.

    Args:
        info: what to get.
        root: the folder that holds data sets.
        mirror: take the files from `MIRROR/NAME` instead of their official addresses; hashes still count.
        allow_changed: accept other hashes and other counts than the known ones, and say so.
        overwrite: replace a copy that is there already.
        progress: show bars on stderr.
        say: called with one line of text per step.

    Raises:
        DownloadError, DataError: nothing was installed; finished downloads are kept for the next attempt.
    """
    path = root / info.name
    if path.exists() and not overwrite:
        raise DownloadError(
            f"{path} exists already; check it with `data verify {info.name}`, or pass --force to replace it"
        )
    recorded = _recorded_hashes(path)
    downloads = root / ".downloads" / info.name
    files: dict[str, Path] = {}
    record: list[dict[str, Any]] = []
    for remote in info.files:
        known = None if allow_changed else remote.sha256 or recorded.get(remote.name)
        files[remote.name] = download(remote, downloads, known, mirror, progress)
        sha256 = file_sha256(files[remote.name])
        if sha256 == remote.sha256:
            trust = "the known one"
        elif sha256 == recorded.get(remote.name):
            trust = "the same as last time"
        elif remote.sha256 or remote.name in recorded:
            trust = "another one than known, accepted as asked"
        else:
            trust = f"nobody published one; recorded in {SOURCE}, later downloads must match it"
        say(f"{remote.name}: {_size(files[remote.name].stat().st_size)}, SHA-256 {sha256} ({trust})")
        record.append(
            {
                "file": remote.name,
                "urls": [f"{mirror.rstrip('/')}/{remote.name}"] if mirror else list(remote.urls),
                "bytes": files[remote.name].stat().st_size,
                "sha256": sha256,
                "trust": trust,
            }
        )

    say("converting")
    scratch = downloads / "new"
    shutil.rmtree(scratch, ignore_errors=True)
    new = scratch / info.name
    new.mkdir(parents=True)
    CONVERT[info.name](files, info, new)
    (new / TERMS).write_text(f"{info.title}\n{info.homepage}\n\n{info.terms}\nCite: {info.cite}\n", encoding="utf-8")
    converted = {str(file.relative_to(new)): file_sha256(file) for file in sorted(new.rglob("*.gz")) if file.is_file()}
    source = {
        "dataset": info.name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "files": record,
        "converted": converted,
    }
    (new / SOURCE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")

    for problem in compare(info, scratch):
        if not allow_changed:
            raise DownloadError(
                f"{info.name}: {problem}. The official files have changed, or are not what this version of the "
                f"book expects. They are kept in {downloads}; pass --allow-changed to install them all the same "
                "(numbers will differ from the book's)"
            )
        say(f"warning: {problem}; numbers will differ from the book's")
    if note := order_note(info, new):
        say(note)
    replace_folder(new, path)
    shutil.rmtree(downloads)
    return path


def _recorded_hashes(path: Path) -> dict[str, str]:
    return {entry["file"]: entry["sha256"] for entry in _read_source(path)["files"]}


def _read_source(path: Path) -> dict[str, Any]:
    """What `fetch` wrote down about a data set; empty lists where it was copied from elsewhere."""
    if not (path / SOURCE).exists():
        return {"date": None, "files": [], "converted": {}}
    try:
        source: dict[str, Any] = json.loads((path / SOURCE).read_text(encoding="utf-8"))
        if {"date", "files", "converted"} <= set(source):
            return source
    except ValueError:
        pass
    raise DataError(path / SOURCE, None, "is damaged; delete the folder and fetch again")


def compare(info: DatasetInfo, root: Path) -> list[str]:
    """Load a data set with all checks and compare its size with the known one.

    Returns:
        One sentence per difference; none is good.
    """
    if info.users is None:
        found = {"interactions": 0, "items": 0}
        for campaign in ("men", "women"):
            logs = [load_open_bandit(campaign, policy, root) for policy in ("random", "bts")]
            found["interactions"] += sum(log.n_rounds for log in logs)
            found["items"] += logs[0].n_actions
    else:
        log = load_dataset(info.name, root)
        found = {"users": log.n_users, "items": log.n_items, "interactions": len(log)}
    expected = {"users": info.users, "items": info.items, "interactions": info.interactions}
    return [
        f"{what}: found {count:,}, expected {expected[what]:,}"
        for what, count in found.items()
        if count != expected[what]
    ]


def order_note(info: DatasetInfo, path: Path) -> str | None:
    """Whether the events stand in the very order the book's numbers come from; None where that is not recorded."""
    if info.sequences_sha256 is None:
        return None
    if content_sha256(path / SEQUENCES) == info.sequences_sha256:
        return "the sequences are the very ones the book's numbers come from"
    return (
        "note: same counts, but events with the same time stand in another order than in the copy the book's "
        "numbers come from; expect small differences"
    )


def verify(info: DatasetInfo, path: Path) -> list[str]:
    """Check an installed data set: it loads, its counts are right, no file changed since it was fetched.

    Returns:
        One sentence per problem; none is good.

    Raises:
        DataError: a file is damaged; the message names it and the line.
    """
    problems = compare(info, path.parent)
    source = _read_source(path)
    for name, sha256 in source["converted"].items():
        if not (path / name).exists():
            problems.append(f"{name}: is missing; fetch again with --force")
        elif file_sha256(path / name) != sha256:
            problems.append(f"{name}: has changed since it was fetched on {source['date']}")
    return problems
