"""Finding data sets by name, and what their loaders make of damaged files."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reclib.data import DataError, MissingDataset, UnknownDataset, load_dataset, load_open_bandit
from reclib.data.catalogue import CATALOGUE, find_folder, lookup, nearest, search_folders

MakeFolder = Callable[..., Path]


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any data set."""
    monkeypatch.delenv("RECLIB_DATA", raising=False)
    monkeypatch.setattr("reclib.data.catalogue.repository_root", lambda: tmp_path / "clone")
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("movielens-1n", "movielens-1m"), ("MovieLens-Small", "movielens-small"), ("beauty", "amazon2014-beauty")],
)
def test_a_mistyped_name_is_told_the_nearest(nowhere: Path, typed: str, meant: str) -> None:
    with pytest.raises(UnknownDataset, match=rf"no data set '{typed}'; did you mean '{meant}'\?"):
        load_dataset(typed)


def test_nothing_near_lists_what_there_is(nowhere: Path) -> None:
    with pytest.raises(UnknownDataset, match=r"no data set 'xyzzy'; Known are adworld, movielens-small"):
        load_dataset("xyzzy")
    assert nearest("xyzzy", ["movielens-1m"]) is None


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_a_missing_set_says_both_ways_to_get_it(nowhere: Path, name: str) -> None:
    with pytest.raises(MissingDataset, match=rf"data fetch {name}`.*\(2\).*RECLIB_DATA.*--data-dir"):
        load_open_bandit() if name == "open-bandit-small" else load_dataset(name)


def test_missing_paths_and_sets_without_download(nowhere: Path) -> None:
    with pytest.raises(UnknownDataset, match="the folder not/here does not exist"):
        load_dataset("not/here")
    with pytest.raises(ValueError, match=r"root: the data folder .*gone does not exist"):
        load_dataset("movielens-1m", root=nowhere / "gone")
    with pytest.raises(ValueError, match=r"use reclib\.data\.load_open_bandit"):
        load_dataset("open-bandit-small")
    with pytest.raises(UnknownDataset, match="simulated"):
        lookup("adworld")
    with pytest.raises(UnknownDataset, match="did you mean 'movielens-1m'"):
        lookup("movielens1m")


def test_search_order(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [nowhere / "root", nowhere / "variable", nowhere / "clone" / "data" / "external"]
    for place in places:
        (place / "movielens-1m").mkdir(parents=True)
    monkeypatch.setenv("RECLIB_DATA", str(places[1]))
    assert search_folders(places[0]) == places
    assert find_folder("movielens-1m", places[0]) == places[0] / "movielens-1m"
    assert find_folder("movielens-1m") == places[1] / "movielens-1m"
    # A relative RECLIB_DATA counts from the repository when the current folder has no such place.
    monkeypatch.setenv("RECLIB_DATA", "../variable")
    monkeypatch.chdir(places[0] / "movielens-1m")
    assert find_folder("movielens-1m").resolve() == places[1] / "movielens-1m"
    shutil.rmtree(places[1] / "movielens-1m")
    assert find_folder("movielens-1m") == places[2] / "movielens-1m"


def test_a_folder_here_does_not_hide_a_known_name(folder: MakeFolder, nowhere: Path) -> None:
    path = folder()
    shutil.copytree(path, nowhere / "clone" / "data" / "external" / "my-shop")
    assert load_dataset("my-shop").name == "my-shop"


def test_listing_needs_no_torch() -> None:
    code = (
        "import sys; from reclib.data import CATALOGUE; from reclib.data.catalogue import find_folder; "
        "print(len(CATALOGUE), {'torch', 'pandas'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["5", "set()"]


def test_unknown_attribute() -> None:
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from reclib.data import nothing  # noqa: F401


# ------------------------------------------------------------------------------------------ MovieLens small


@pytest.fixture
def movielens(tmp_path: Path) -> Path:
    """Three films, two users, equal times, ids with gaps."""
    path = tmp_path / "movielens-small"
    path.mkdir()
    tables = {
        "ratings": "userId,movieId,rating,timestamp\n"
        "5,30,4.0,100\n2,10,3.5,50\n5,10,1.0,90\n2,30,5.0,50\n5,20,2.0,100\n",
        "movies": 'movieId,title,genres\n10,"Comma, The (1990)",Drama\n20,None (1991),Comedy|Drama\n30,C,Action\n',
        "tags": "userId,movieId,tag,timestamp\n5,30,fun,1\n2,30,NA,2\n",
    }
    for name, text in tables.items():
        (path / f"{name}.csv.gz").write_bytes(gzip.compress(text.replace("\n", "\r\n").encode()))
    return path


def test_movielens_small_by_hand(movielens: Path) -> None:
    log = load_dataset("movielens-small", root=movielens.parent)
    assert log.user_ids is not None
    assert log.time is not None
    assert log.user_ids.tolist() == [2, 5]
    assert log.user.tolist() == [0, 0, 1, 1, 1]
    assert log.item.tolist() == [1, 3, 1, 3, 2]  # equal times keep the order of the file
    assert log.time.tolist() == [50, 50, 90, 100, 100]
    assert log.extra["rating"].tolist() == [3.5, 5, 1, 4, 2]
    assert log.items["title"].tolist() == ["Comma, The (1990)", "None (1991)", "C"]
    assert log.items["original_id"].tolist() == [10, 20, 30]
    assert log.items["tags"].tolist() == [[], [], ["fun", "NA"]]


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("ratings", "2,10,3.5,50", "2,11,3.5,50", r"ratings.csv.gz, line 3: movieId 11 is not in movies.csv.gz"),
        ("ratings", "2,10,3.5,50", "2,10,good,50", r"ratings.csv.gz, line 3: rating 'good' is not a number"),
        ("ratings", "2,10,3.5,50", "2,10,3.5,", r"ratings.csv.gz, line 3: timestamp '' is not a number"),
        ("ratings", "2,10,3.5,50", "2.5,10,3.5,50", r"ratings.csv.gz, line 3: userId .*2.5.* is not a whole number"),
        ("ratings", "timestamp", "when", r"ratings.csv.gz, line 1: the column 'timestamp' is missing"),
        ("movies", "20,None", "10,None", r"movies.csv.gz, line 3: movieId 10 stands there twice"),
        ("tags", "5,30,fun", "5,31,fun", r"tags.csv.gz, line 2: movieId 31 is not in movies.csv.gz"),
    ],
)
def test_movielens_small_names_file_and_line(movielens: Path, table: str, old: str, new: str, message: str) -> None:
    file = movielens / f"{table}.csv.gz"
    text = gzip.decompress(file.read_bytes()).decode()
    assert old in text
    file.write_bytes(gzip.compress(text.replace(old, new).encode()))
    with pytest.raises(DataError, match=message):
        load_dataset("movielens-small", root=movielens.parent)


# --------------------------------------------------------------------------------------------- open bandit


@pytest.fixture
def bandit(tmp_path: Path) -> Path:
    """Two items; the two logs know different values of the same user feature."""
    path = tmp_path / "open-bandit-small"
    head = (
        ",timestamp,item_id,position,click,propensity_score,user_feature_0,user-item_affinity_0,user-item_affinity_1\n"
    )
    rounds = {
        "random": "0,2019-11-24 00:00:01.5+00:00,1,3,0,0.5,aa,0.0,2.0\n"
        "1,2019-11-24 00:00:02+00:00,0,1,1,0.5,bb,1.0,0.0\n",
        "bts": "0,2019-11-24 00:00:03+00:00,0,2,1,0.9,cc,0.0,0.0\n",
    }
    for policy, text in rounds.items():
        (path / policy).mkdir(parents=True)
        for campaign in ("men", "women"):
            (path / policy / f"{campaign}.csv.gz").write_bytes(gzip.compress((head + text).encode()))
            items = b",item_id,item_feature_0,item_feature_1\n0,0,-0.5,x\n1,1,0.5,y\n"
            (path / policy / f"{campaign}_items.csv.gz").write_bytes(gzip.compress(items))
    return path


def test_open_bandit_by_hand(bandit: Path) -> None:
    log = load_open_bandit("men", "random", root=bandit.parent)
    assert log.action.tolist() == [1, 0]
    assert log.position.tolist() == [2, 0]
    assert log.reward.tolist() == [0, 1]
    assert log.propensity.tolist() == [0.5, 0.5]
    assert log.context_names == ("user_feature_0=aa", "user_feature_0=bb", "user_feature_0=cc")
    assert log.context.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert log.affinity.tolist() == [[0, 2], [1, 0]]
    assert (log.time - log.time[0]).tolist() == [0, 0.5]
    assert log.items["item_feature_0"].tolist() == [-0.5, 0.5]
    assert (log.n_actions, log.n_rounds, log.policy, log.campaign) == (2, 2, "random", "men")
    assert load_open_bandit("men", "bts", root=bandit.parent).context.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",1,3,0,0.5", ",2,3,0,0.5", r"line 2: item_id 2 is not one of the 2 items"),
        (",1,3,0,0.5", ",1,4,0,0.5", r"line 2: position 4 must be 1 … 3"),
        (",1,3,0,0.5", ",1,3,2,0.5", r"line 2: click 2 must be 0 or 1"),
        (",1,3,0,0.5", ",1,3,0,0.0", r"line 2: propensity_score 0.0 must lie in \(0, 1\]"),
        ("2019-11-24 00:00:02", "yesterday 00:00:02", r"line 3: timestamp .*yesterday.* is not a date"),
        ("user-item_affinity_1", "other", r"line 1: the column 'user-item_affinity_1' is missing"),
    ],
)
def test_open_bandit_names_file_and_line(bandit: Path, old: str, new: str, message: str) -> None:
    file = bandit / "random" / "men.csv.gz"
    text = gzip.decompress(file.read_bytes()).decode()
    assert old in text
    file.write_bytes(gzip.compress(text.replace(old, new).encode()))
    with pytest.raises(DataError, match=f"random/men.csv.gz, {message}"):
        load_open_bandit("men", "random", root=bandit.parent)


def test_open_bandit_arguments(bandit: Path) -> None:
    with pytest.raises(ValueError, match=r"campaign: 'all' is unknown"):
        load_open_bandit.__wrapped__("all")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"policy: 'ts' is unknown"):
        load_open_bandit.__wrapped__("men", "ts")  # type: ignore[attr-defined]
    (bandit / "bts" / "men.csv.gz").unlink()
    with pytest.raises(DataError, match=r"bts/men.csv.gz: is missing"):
        load_open_bandit("men", "random", root=bandit.parent)


# ------------------------------------------------------------------------------- the real sets, as their cards say

STATISTICS = {
    # users, items, interactions, shortest, longest, mean length, median length
    "movielens-small": (610, 9742, 100_836, 20, 2698, 165.3, 70.5),
    "movielens-1m": (6040, 3416, 999_611, 18, 2277, 165.5, 96),
    "amazon2014-beauty": (22_363, 12_101, 198_502, 5, 204, 8.88, 6),
    "amazon2018-scientific": (8317, 4344, 58_492, 5, 78, 7.03, 6),
}


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_statistics_of_the_real_sets(real: Callable[[str], Path], name: str) -> None:
    log = load_dataset(name, root=real(name).parent)
    users, items, interactions, shortest, longest, mean, median = STATISTICS[name]
    assert (log.n_users, log.n_items, len(log)) == (users, items, interactions)
    assert (log.lengths.min(), log.lengths.max(), np.median(log.lengths)) == (shortest, longest, median)
    assert log.lengths.mean() == pytest.approx(mean, abs=0.05)
    info = CATALOGUE[name]
    assert (info.users, info.items, info.interactions) == (users, items, interactions)
    if name.startswith("amazon"):  # no item twice per user
        assert len(np.unique(log.user * (items + 1) + log.item)) == interactions


def test_movielens_small_as_its_card_says(real: Callable[[str], Path]) -> None:
    log = load_dataset("movielens-small", root=real("movielens-small").parent)
    assert log.time is not None
    assert len(np.unique(log.item)) == 9724
    assert (log.extra["rating"] >= 4).mean() == pytest.approx(0.482, abs=5e-4)
    assert sum(map(len, log.items["tags"])) == 3683
    assert log.time.min() == 828124615  # 29 March 1996
    assert log.items.loc[1, "title"] == "Toy Story (1995)"
    split = log.temporal_split(1.4e9, 1.5e9)
    assert split.train.time is not None
    assert split.train.time.max() < 1.4e9


def test_movielens_1m_as_its_card_says(real: Callable[[str], Path]) -> None:
    log = load_dataset("movielens-1m", root=real("movielens-1m").parent)
    assert log.items["original_id"].max() == 3952
    assert log.items.loc[log.history(0)[0], "title"] == "Girl, Interrupted (1999)"  # user 1 begins with film 3186
    assert log.extra["liked"].mean() == pytest.approx(0.836, abs=5e-4)


def test_the_product_order_of_amazon_beauty(real: Callable[[str], Path]) -> None:
    log = load_dataset("amazon2014-beauty", root=real("amazon2014-beauty").parent)
    asin = log.items["asin"].to_numpy()[log.item - 1]
    inside = np.diff(log.user) == 0
    assert (asin[1:] > asin[:-1])[inside].mean() == pytest.approx(0.69, abs=0.005)
    last = log.offsets[1:] - 1
    assert (asin[last] > asin[last - 1]).mean() == pytest.approx(0.71, abs=0.005)
    assert (log.items["title"] == "").sum() == 7
    assert (log.items["brand"] != "").sum() == 9983


def test_amazon_scientific_as_its_card_says(real: Callable[[str], Path]) -> None:
    items = load_dataset("amazon2018-scientific", root=real("amazon2018-scientific").parent).items
    assert (items["brand"] != "").sum() == 4332
    assert (items["categories"].map(len) > 0).sum() == 4213


@pytest.mark.parametrize(
    ("campaign", "policy", "actions", "clicks"),
    [("men", "random", 34, 46), ("women", "random", 46, 46), ("men", "bts", 34, 69), ("women", "bts", 46, 46)],
)
def test_open_bandit_as_its_card_says(
    real: Callable[[str], Path], campaign: str, policy: str, actions: int, clicks: int
) -> None:
    root = real("open-bandit-small").parent
    log = load_open_bandit(campaign, policy, root)  # type: ignore[arg-type]
    assert (log.n_rounds, log.n_actions, log.reward.sum()) == (10_000, actions, clicks)
    if policy == "random":
        np.testing.assert_allclose(log.propensity, 1 / actions)
    assert log.time.min() >= np.datetime64("2019-11-24").astype("datetime64[s]").astype(float)
