"""`load_dataset`: one way in for every log, simulated, downloaded or your own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from reclib.data.catalogue import CATALOGUE, WORLD, find_folder
from reclib.data.files import SEQUENCES, DataError, number_column, read_csv, read_gzip
from reclib.data.folder import read_folder
from reclib.data.interactions import Interactions


def load_dataset(name: str, root: Path | str | None = None) -> Interactions:
    """Load a log by name, or any folder in our format by its path.

    Args:
        name: `adworld` (the simulated world; `adworld-tiny` and so on for another preset),
            `movielens-small`, `movielens-1m`, `amazon2014-beauty`, `amazon2018-scientific`, or a folder
            with `sequences.txt.gz` and `items.jsonl.gz` (or `items.csv.gz`).
        root: folder to look in first; then `$RECLIB_DATA`, then `data/external`.

    Returns:
        The log, sorted by user and time, checked.

    Raises:
        UnknownDataset: no such name; the message suggests the nearest.
        MissingDataset: known, but not here; the message says how to get it.
        DataError: a file is damaged or does not fit; the message names file and line.

    All three are `ValueError`.
    """
    if name == WORLD or name.startswith(f"{WORLD}-"):
        from reclib.world import AdWorld, AdWorldConfig  # simulated, so there is nothing to look for

        return AdWorld(AdWorldConfig.preset(name.removeprefix(WORLD).lstrip("-") or "book")).simulate()
    if name == "open-bandit-small":
        raise ValueError(
            "name: open-bandit-small is logged bandit feedback, not a log of user histories; "
            "use reclib.data.load_open_bandit(campaign, policy)"
        )
    folder = find_folder(name, root)
    if name == "movielens-small":
        return _movielens_small(folder)
    if not (folder / SEQUENCES).exists():
        known = "" if name in CATALOGUE else " See data/README.md for the format."
        raise DataError(folder, None, f"holds no {SEQUENCES}.{known}")
    return read_folder(folder)


def _movielens_small(folder: Path) -> Interactions:
    """Ratings as a log: films keep their MovieLens id in `original_id`, the stars are `extra["rating"]`.

    Many ratings of one user carry the same second; the stable sort leaves those in the order of the file.
    """
    ratings_path, movies_path, tags_path = (folder / f"{stem}.csv.gz" for stem in ("ratings", "movies", "tags"))
    movies = read_csv(movies_path, read_gzip(movies_path))
    movie_id = number_column(movies_path, movies, "movieId", whole=True)
    _no_doubles(movies_path, movie_id, "movieId")
    movies = movies.assign(movieId=movie_id).sort_values("movieId", ignore_index=True)
    catalogue = pd.Index(movies["movieId"])

    ratings = read_csv(ratings_path, read_gzip(ratings_path))
    user_id = number_column(ratings_path, ratings, "userId", whole=True)
    time = number_column(ratings_path, ratings, "timestamp")
    rating = number_column(ratings_path, ratings, "rating")
    item = _item_rows(ratings_path, ratings, catalogue)

    tags = read_csv(tags_path, read_gzip(tags_path))
    tagged = _item_rows(tags_path, tags, catalogue)
    words = tags["tag"].astype(str).groupby(tagged).agg(list)
    items = pd.DataFrame(
        {
            "original_id": movies["movieId"].to_numpy(),
            "title": movies["title"].to_numpy(),
            "genres": movies["genres"].to_numpy(),
            "tags": [words.get(row, []) for row in range(len(movies))],
        },
        index=pd.RangeIndex(1, len(movies) + 1, name="item_id"),
    )

    order = np.lexsort((time, user_id))  # stable: equal times keep the order of the file
    user_ids, user = np.unique(user_id[order], return_inverse=True)
    return Interactions(
        user=user.astype(np.int64),
        item=item[order] + 1,
        time=time[order],
        n_items=len(items),
        items=items,
        extra={"rating": rating[order]},
        user_ids=user_ids,
        name="movielens-small",
    )


def _item_rows(path: Path, frame: pd.DataFrame, catalogue: pd.Index) -> np.ndarray:
    """Row in the catalogue of each line's film."""
    movie_id = number_column(path, frame, "movieId", whole=True)
    row = catalogue.get_indexer(pd.Index(movie_id)).astype(np.int64)
    if len(unknown := np.flatnonzero(row < 0)):
        line = int(unknown[0])
        raise DataError(path, line + 2, f"movieId {movie_id[line]} is not in movies.csv.gz")
    return row


def _no_doubles(path: Path, ids: np.ndarray, column: str) -> None:
    if len(again := np.flatnonzero(pd.Series(ids).duplicated())):
        raise DataError(path, int(again[0]) + 2, f"{column} {ids[again[0]]} stands there twice; keep one row per id")
