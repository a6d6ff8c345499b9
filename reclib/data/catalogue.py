"""The data sets the book knows: what they are, where they come from, on which terms, and where they may lie.

Needs neither torch nor pandas, so that `python -m reclib data list` answers at once. Cards with the traps of
each set are in `data/cards`.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set on the network."""

    name: str  # what it is called in the download folder
    urls: tuple[str, ...]  # official addresses, tried in this order
    sha256: str | None  # None: nobody published it; the first download is recorded and then held to
    max_unpacked: int = 2**32  # bytes; unpacking stops with an error beyond this


@dataclass(frozen=True)
class DatasetInfo:
    """One data set: the numbers that `data verify` checks, and what a reader must know before using it."""

    name: str
    title: str
    users: int | None
    items: int
    interactions: int
    time_stamps: str  # "seconds", "days" or "order only"
    homepage: str
    cite: str
    terms: str  # shown before a download and kept beside the data
    download: str  # size of the download, for people
    files: tuple[RemoteFile, ...]  # empty: nothing to download
    sequences_sha256: str | None = None  # of the unpacked sequences.txt that the book's numbers come from


class UnknownDataset(ValueError):
    """No data set and no folder of this name."""


class MissingDataset(ValueError):
    """A known data set is not on this machine. The message says both ways to get it."""


_GROUPLENS_TERMS = """\
Usage licence, quoted from the README of the data set (GroupLens, University of Minnesota):

  Neither the University of Minnesota nor any of the researchers involved can guarantee the correctness of
  the data, its suitability for any particular purpose, or the validity of results based on the use of the
  data set. The data set may be used for any research purposes under the following conditions:
"""

_MOVIELENS_SMALL_TERMS = (
    _GROUPLENS_TERMS
    + """\
  * The user may not state or imply any endorsement from the University of Minnesota or the GroupLens
    Research Group.
  * The user must acknowledge the use of the data set in publications resulting from the use of the data set.
  * The user may redistribute the data set, including transformations, so long as it is distributed under
    these same license conditions.
  * The user may not use this information for any commercial or revenue-bearing purposes without first
    obtaining permission from a faculty member of the GroupLens Research Project at the University of
    Minnesota.
"""
)

_MOVIELENS_1M_TERMS = (
    _GROUPLENS_TERMS
    + """\
  * The user may not state or imply any endorsement from the University of Minnesota or the GroupLens
    Research Group.
  * The user must acknowledge the use of the data set in publications resulting from the use of the data set,
    and must send us an electronic or paper copy of those publications.
  * The user may not redistribute the data without separate permission.
  * The user may not use this information for any commercial or revenue-bearing purposes without first
    obtaining permission from a faculty member of the GroupLens Research Project at the University of
    Minnesota.
"""
)

_AMAZON_TERMS = """\
There is no formal licence. The authors offer the data for research and ask to be cited. The product texts
belong to Amazon and its sellers. So: use it for your own research, cite the paper, do not publish the files
or parts of them.
"""

_OPEN_BANDIT_TERMS = """\
Released by ZOZO Research for research, with citation of the paper. This small version is part of the
repository st-tech/zr-obp, which is under the Apache License 2.0 (https://www.apache.org/licenses/LICENSE-2.0).
The project's web page is said to name CC BY 4.0 for the data; look there before you publish any of it.
"""

_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_AMAZON_2014 = (
    "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles",
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon/categoryFiles",
)
_AMAZON_2018 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"
_OPEN_BANDIT = "https://raw.githubusercontent.com/st-tech/zr-obp/12eb4f1738b8220498f9faed5ff6a4ffe5f4c626/obd"


def _open_bandit_files() -> tuple[RemoteFile, ...]:
    # The repository's own files, so their hashes are known.
    known = {
        ("random", "men"): "ede6d08c6877f99cd3770f7d09e26c738e6aa6de4445ccccfb1356ba5d06b1eb",
        ("random", "women"): "e65f3bd3beb17664fa69cc129bf7bf852a775f8ffa630506e505fc905315bb34",
        ("random", "men_items"): "6d855c2b7e917d0448d71bbe62c023147495882c0fdc8c41e86fef86abf9fe09",
        ("random", "women_items"): "b1ca4905f97703d196004f2ad4552c1e90c2afad8b50688d333b0d2dc0b33147",
        ("bts", "men"): "db6d1f7ed2d591ba521533e45286d4c1fba7fe57a8ad2e80342210335f43c527",
        ("bts", "women"): "e5d1b49a39b608585a2f3014a3f54970430cd37a495c1b73fceb85cdf428a5b8",
        ("bts", "men_items"): "3b411ed6b0471316321a6b93f4f756bb25888eac6218cd71d0b603d41d85732d",
        ("bts", "women_items"): "a56295bad066a558eb783055afd9279f5f4e209a4776eafc22151c53f0ac89d4",
    }
    files = []
    for (policy, stem), sha256 in known.items():
        campaign = stem.removesuffix("_items")
        remote = "item_context.csv" if stem.endswith("_items") else f"{campaign}.csv"
        url = f"{_OPEN_BANDIT}/{policy}/{campaign}/{remote}"
        files.append(RemoteFile(f"{policy}-{stem}.csv", (url,), sha256))
    return tuple(files)


CATALOGUE: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="movielens-small",
            title="MovieLens latest-small (2018): film ratings with time stamps",
            users=610,
            items=9742,
            interactions=100_836,
            time_stamps="seconds",
            homepage="https://grouplens.org/datasets/movielens/latest/",
            cite="Harper and Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015",
            terms=_MOVIELENS_SMALL_TERMS,
            download="1 MB",
            files=(
                RemoteFile(
                    "ml-latest-small.zip",
                    (f"{_GROUPLENS}/ml-latest-small.zip",),
                    "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
                    max_unpacked=64 * 2**20,
                ),
            ),
        ),
        DatasetInfo(
            name="movielens-1m",
            title="MovieLens-1M (2003) in the SASRec ordering: films with at least 5 ratings",
            users=6040,
            items=3416,
            interactions=999_611,
            time_stamps="order only",
            homepage="https://grouplens.org/datasets/movielens/1m/",
            cite="Harper and Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015",
            terms=_MOVIELENS_1M_TERMS,
            download="6 MB",
            files=(
                RemoteFile(
                    "ml-1m.zip",
                    (f"{_GROUPLENS}/ml-1m.zip",),
                    "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
                    max_unpacked=256 * 2**20,
                ),
            ),
            sequences_sha256="1c0d25c60172984c1d8f3857a0ed12c24a63c674da021cde2c62816193ac8e10",
        ),
        DatasetInfo(
            name="amazon2014-beauty",
            title="Amazon reviews 2014, Beauty, 5-core: products with title, brand, categories",
            users=22_363,
            items=12_101,
            interactions=198_502,
            time_stamps="days",
            homepage="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
            cite="McAuley, Targett, Shi, van den Hengel, Image-based Recommendations on Styles and "
            "Substitutes, SIGIR 2015; He and McAuley, Ups and Downs, WWW 2016",
            terms=_AMAZON_TERMS,
            download="about 150 MB",
            files=(
                RemoteFile(
                    "reviews_Beauty_5.json.gz",
                    tuple(f"{base}/reviews_Beauty_5.json.gz" for base in _AMAZON_2014),
                    None,
                ),
                RemoteFile(
                    "meta_Beauty.json.gz",
                    tuple(f"{base}/meta_Beauty.json.gz" for base in _AMAZON_2014),
                    None,
                ),
            ),
            sequences_sha256="226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
        ),
        DatasetInfo(
            name="amazon2018-scientific",
            title="Amazon reviews 2018, Industrial and Scientific, 5-core: products with long descriptions",
            users=8317,
            items=4344,
            interactions=58_492,
            time_stamps="days",
            homepage="https://nijianmo.github.io/amazon/",
            cite="Ni, Li, McAuley, Justifying Recommendations using Distantly-Labeled Reviews and "
            "Fine-Grained Aspects, EMNLP 2019",
            terms=_AMAZON_TERMS,
            download="about 95 MB",
            files=(
                RemoteFile(
                    "Industrial_and_Scientific_5.json.gz",
                    (f"{_AMAZON_2018}/categoryFilesSmall/Industrial_and_Scientific_5.json.gz",),
                    None,
                ),
                RemoteFile(
                    "meta_Industrial_and_Scientific.json.gz",
                    (f"{_AMAZON_2018}/metaFiles2/meta_Industrial_and_Scientific.json.gz",),
                    None,
                ),
            ),
            sequences_sha256="299b35cf9a0749151b21a0a7d847bd54e2dceafbb223ad8ce1d31a4edca8bf6a",
        ),
        DatasetInfo(
            name="open-bandit-small",
            title="Open Bandit Dataset, small version: recommendations with click and propensity",
            users=None,
            items=34 + 46,
            interactions=40_000,
            time_stamps="seconds",
            homepage="https://github.com/st-tech/zr-obp/tree/master/obd",
            cite="Saito, Aihara, Matsutani, Narita, Open Bandit Dataset and Pipeline, arXiv 2008.07146",
            terms=_OPEN_BANDIT_TERMS,
            download="10 MB",
            files=_open_bandit_files(),
        ),
    )
}

WORLD = "adworld"  # simulated by reclib.world; always there
NAMES: tuple[str, ...] = (WORLD, *CATALOGUE)


def lookup(name: str) -> DatasetInfo:
    """The entry of a data set that can be downloaded; a mistyped name is told the nearest one."""
    if name == WORLD:
        raise UnknownDataset(f"name: {WORLD} is simulated by reclib.world; there is nothing to download")
    if name not in CATALOGUE:
        raise UnknownDataset(_unknown(name, tuple(CATALOGUE)))
    return CATALOGUE[name]


def _unknown(name: str, names: tuple[str, ...]) -> str:
    near = nearest(name, names)
    hint = f"did you mean {near!r}? " if near else ""
    return (
        f"name: there is no data set {name!r}; {hint}Known are {', '.join(names)}, "
        "and the path of any folder in our format"
    )


def nearest(name: str, names: tuple[str, ...] | list[str]) -> str | None:
    """The entry of `names` that a mistyped `name` most likely meant."""
    lower = {known.lower(): known for known in names}
    found = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.5)
    return lower[found[0]] if found else None


def repository_root() -> Path:
    """The clone this package runs from, or the current directory where it was installed without one."""
    clone = Path(__file__).resolve().parents[2]
    return clone if (clone / "pyproject.toml").exists() else Path.cwd()


def download_root() -> Path:
    """Where `fetch` puts data sets: `data/external` of the repository."""
    return repository_root() / "data" / "external"


def search_folders(root: Path | str | None = None) -> list[Path]:
    """Where to look: `root` (`--data-dir`), then `$RECLIB_DATA`, then `data/external`."""
    folders = []
    if root is not None:
        if not Path(root).is_dir():
            raise ValueError(f"root: the data folder {root} does not exist; make it, or name another one")
        folders.append(Path(root))
    # RECLIB_DATA may name several folders, like PATH. A relative one means the same from a notebook in chapters/
    # as from the repository's root.
    for name in filter(None, os.environ.get("RECLIB_DATA", "").split(os.pathsep)):
        here = Path(name).expanduser()
        folders.append(here if here.is_dir() else repository_root() / here)
    folders.append(download_root())
    return folders


def find_folder(name: str, root: Path | str | None = None) -> Path:
    """The folder of a data set, by its name or by the path of a folder in our format.

    Raises:
        UnknownDataset: no such name and no such folder; names the nearest known one.
        MissingDataset: known, but not on this machine; says both ways to get it.
    """
    if name == WORLD:
        lookup(name)
    searched = search_folders(root)
    if _is_single_name(name):
        for folder in searched:
            if (folder / name).is_dir():
                return folder / name
    if name in CATALOGUE:
        raise MissingDataset(_how_to_get(CATALOGUE[name], searched))
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if _is_single_name(name):
        raise UnknownDataset(_unknown(name, NAMES))
    raise UnknownDataset(f"name: the folder {name} does not exist; give a folder that holds sequences.txt.gz")


def _is_single_name(name: str) -> bool:
    return name not in ("", ".", "..") and Path(name).name == name


def _how_to_get(info: DatasetInfo, searched: list[Path]) -> str:
    return (
        f"name: the data set {info.name} is not here (looked in {', '.join(map(str, searched))}). "
        f"Two ways to get it: (1) with a network, `python -m reclib data fetch {info.name}` downloads it "
        f"({info.download}) from its official address and shows its terms first; (2) with a copy at hand, set "
        f"RECLIB_DATA (or pass --data-dir / root=) to the folder that holds {info.name}/"
    )
