"""Open Bandit Dataset (small): what a real shop showed, with what probability, and whether it was clicked.

Saito, Aihara, Matsutani, Narita: Open Bandit Dataset and Pipeline, arXiv 2008.07146.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from reclib.data.catalogue import find_folder
from reclib.data.files import DataError, number_column, read_csv, read_gzip

Campaign = Literal["men", "women"]
Policy = Literal["random", "bts"]
N_POSITIONS = 3


@dataclass(frozen=True)
class LoggedFeedback:
    """Rounds of a logging policy: in `context` it showed `action` with probability `propensity`."""

    context: Float[np.ndarray, "rounds features"]  # one column per value of each hashed user feature: 0 or 1
    affinity: Float[np.ndarray, "rounds actions"]  # past clicks of this user on each item, scaled by the shop
    action: Int[np.ndarray, "rounds"]  # item shown, 0-based as in the source
    position: Int[np.ndarray, "rounds"]  # 0, 1, 2: left, middle, right (the source counts from 1)
    reward: Float[np.ndarray, "rounds"]  # 1 clicked, 0 not
    propensity: Float[np.ndarray, "rounds"]  # probability that the policy shows this item at this position
    time: Float[np.ndarray, "rounds"]  # seconds since 1970
    items: pd.DataFrame  # one row per action: a number and three hashed features
    context_names: tuple[str, ...]  # what the columns of `context` stand for
    policy: str  # random or bts (Bernoulli Thompson sampling)
    campaign: str  # men or women

    @property
    def n_actions(self) -> int:
        """Number of items the policy could choose from."""
        return len(self.items)

    @property
    def n_rounds(self) -> int:
        """Number of logged decisions."""
        return len(self.action)


def load_open_bandit(
    campaign: Campaign = "men", policy: Policy = "random", root: Path | str | None = None
) -> LoggedFeedback:
    """Load one campaign as logged by one policy: 10,000 rounds, 34 (men) or 46 (women) items.

    The columns of `context` are the same for both policies, so a model of one log fits the other.
    There are few clicks (46 to 69 per log): estimates are noisy.

    Args:
        campaign: `men` or `women`.
        policy: `random` (uniform) or `bts` (Bernoulli Thompson sampling).
        root: folder to look in first; then `$RECLIB_DATA`, then `data/external`.

    Raises:
        ValueError: unknown campaign or policy; MissingDataset; DataError with file and line.
    """
    if campaign not in ("men", "women"):
        raise ValueError(f"campaign: {campaign!r} is unknown; choose 'men' or 'women'")
    if policy not in ("random", "bts"):
        raise ValueError(f"policy: {policy!r} is unknown; choose 'random' or 'bts'")
    folder = find_folder("open-bandit-small", root)
    rounds = {name: _read(folder / name / f"{campaign}.csv.gz") for name in ("random", "bts")}
    features = sorted(column for column in rounds[policy].columns if column.startswith("user_feature_"))
    if not features:
        raise DataError(folder / policy / f"{campaign}.csv.gz", 1, "has no user_feature_ columns")
    values = {name: sorted(set(rounds["random"][name]) | set(rounds["bts"][name])) for name in features}

    path, frame = folder / policy / f"{campaign}.csv.gz", rounds[policy]
    items = _read_items(folder / policy / f"{campaign}_items.csv.gz")
    action = number_column(path, frame, "item_id", whole=True)
    position = number_column(path, frame, "position", whole=True)
    click = number_column(path, frame, "click", whole=True)
    propensity = number_column(path, frame, "propensity_score")
    time = pd.to_datetime(frame["timestamp"], utc=True, errors="coerce", format="ISO8601")
    _check(path, frame["item_id"], (action < 0) | (action >= len(items)), f"is not one of the {len(items)} items")
    _check(path, frame["position"], (position < 1) | (position > N_POSITIONS), f"must be 1 … {N_POSITIONS}")
    _check(path, frame["click"], (click != 0) & (click != 1), "must be 0 or 1")
    _check(path, frame["propensity_score"], (propensity <= 0) | (propensity > 1), "must lie in (0, 1]")
    _check(path, frame["timestamp"], time.isna().to_numpy(), "is not a date")
    affinity = [number_column(path, frame, f"user-item_affinity_{item}") for item in range(len(items))]
    return LoggedFeedback(
        context=np.concatenate(
            [frame[name].to_numpy()[:, None] == np.array(values[name], dtype=object) for name in features],
            axis=1,
        ).astype(np.float64),
        affinity=np.stack(affinity, axis=1),
        action=action,
        position=position - 1,
        reward=click.astype(np.float64),
        propensity=propensity,
        time=(time - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(dtype=np.float64),
        items=items,
        context_names=tuple(f"{name}={value}" for name in features for value in values[name]),
        policy=policy,
        campaign=campaign,
    )


def _read(path: Path) -> pd.DataFrame:
    frame = read_csv(path, read_gzip(path))
    return frame.loc[:, [column for column in frame.columns if not str(column).startswith("Unnamed")]]


def _read_items(path: Path) -> pd.DataFrame:
    items = _read(path)
    item_id = number_column(path, items, "item_id", whole=True)
    _check(path, items["item_id"], item_id != np.arange(len(items)), "breaks the order 0, 1, 2 …")
    return items.assign(item_id=item_id).set_index("item_id")


def _check(path: Path, column: pd.Series, bad: np.ndarray, problem: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(path, row + 2, f"{column.name} {column.tolist()[row]!r} {problem}")
