"""The store of measurements: one long-format Parquet file per experiment, one row per measured number.

    for arm in config.arms:
        for seed in seeds:
            with record(NAME, arm=arm, dataset="movielens-1m", seed=seed, config=config, root=root) as run:
                if run.finished:  # recorded before with this configuration
                    continue
                ...
                run.log("test/ndcg@10", value)

A run is written when its block ends, whole or not at all, so an interrupted experiment continues where it
stopped. `COLUMNS` lists the columns. Where something is swept, `x` holds its value; elsewhere `x` is NaN.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import importlib.metadata
import json
import math
import os
import pkgutil
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import ArrayLike

from reclib.intervals import Interval, seed_interval

COLUMNS = pa.schema(
    [
        ("experiment", pa.string()),  # "NN_name", also the name of the file
        ("arm", pa.string()),  # the method, or its ablation
        ("dataset", pa.string()),  # "adworld" or the name of a real data set
        ("setting", pa.string()),  # what else was varied, in words; "" for the main setting
        ("x", pa.float64()),  # the swept quantity, NaN where nothing is swept
        ("seed", pa.int64()),
        ("metric", pa.string()),  # "test/ndcg@10", "valid/recall@10", "reward", ...
        ("value", pa.float64()),
        ("seconds", pa.float64()),  # wall clock of the whole run this row belongs to
        ("config", pa.string()),  # JSON
        ("versions", pa.string()),  # JSON
        ("date", pa.string()),  # ISO 8601, UTC
    ]
)
RUN = ["experiment", "arm", "dataset", "setting", "seed"]  # one training run
KEY = ["experiment", "arm", "dataset", "setting", "x", "seed", "metric"]  # one measurement


# Where the files are.


def results_root() -> Path:
    """`RECLIB_RESULTS` if it is set, else `data/results` of this checkout."""
    if "RECLIB_RESULTS" in os.environ:
        return Path(os.environ["RECLIB_RESULTS"])
    return Path(__file__).resolve().parents[2] / "data" / "results"


def results_path(name: str, root: Path | str | None = None) -> Path:
    """Path of experiment `name`, for example "02_sequential"."""
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", name):
        raise ValueError(f"name: {name!r} is no experiment name; write it like '02_sequential'")
    return (results_root() if root is None else Path(root)) / f"{name}.parquet"


# Reading and writing.


def checkpoint_path(name: str, run: str, root: Path | str | None = None) -> Path:
    """Where an interrupted training of an experiment goes on: beside the results, ignored by git."""
    folder = Path(root) if root is not None else results_root()
    return folder.parent / "runs" / name / f"{run.replace(' ', '-')}.safetensors"


def load(name: str, root: Path | str | None = None) -> pd.DataFrame:
    """All rows of experiment `name`; if there are none, `FileNotFoundError` names the command to run."""
    path = results_path(name, root)
    if not path.exists():
        command = f"python -m reclib experiments {name[:2]} --seeds 0-4"
        raise FileNotFoundError(f"no results at {path}: record them by `{command}`, or set RECLIB_RESULTS")
    return _read(path)


def _read(path: Path) -> pd.DataFrame:
    frame: pd.DataFrame = pq.read_table(path, schema=COLUMNS).to_pandas()
    return frame


def append(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add `rows` (mappings with the fields of `COLUMNS`) to the Parquet file `path`.

    A row replaces an older one with the same `KEY`. The file is replaced in one step, under a lock: a reader
    or an interruption finds the old file or the new one, and two processes may write to one experiment.
    """
    _write(Path(path), _frame(rows), drop=KEY)


def _frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    rows = list(rows)
    if not rows:
        raise ValueError("rows: nothing to append; pass at least one measurement")
    for row in rows:
        if set(row) != set(COLUMNS.names):
            wrong = sorted(set(row) ^ set(COLUMNS.names))
            raise ValueError(f"rows: each needs exactly the columns {COLUMNS.names}; check {wrong}")
        if not math.isfinite(row["value"]):
            raise ValueError(f"rows: {row['metric']!r} of {row['arm']!r} is {row['value']}; record finite numbers only")
    frame = pd.DataFrame(rows, columns=COLUMNS.names)
    if frame.duplicated(KEY).any():
        twice = frame.loc[frame.duplicated(KEY), KEY].iloc[0].to_dict()
        raise ValueError(f"rows: the same measurement twice, {twice}; give each its own metric, setting or x")
    return frame


def _write(path: Path, new: pd.DataFrame, drop: list[str]) -> None:
    """Append `new`; older rows equal to one of the new in all columns of `drop` go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            old = _read(path)
            replaced = pd.MultiIndex.from_frame(old[drop]).isin(pd.MultiIndex.from_frame(new[drop]))
            new = pd.concat([old[~replaced], new]) if not replaced.all() else new
        table = pa.Table.from_pandas(new, schema=COLUMNS, preserve_index=False)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                pq.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp made it private
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


# One run.


class Run:
    """What `record` hands out: `finished` says whether the run is recorded already, `log` notes a number."""

    def __init__(self, finished: bool, x: float) -> None:
        self.finished = finished
        self.x = x
        self.measurements: list[tuple[str, float, float]] = []  # metric, value, x

    def log(self, metric: str, value: SupportsFloat, x: SupportsFloat | None = None) -> None:
        """Note one number; `x` is for a run that measures along something, as a learning curve does."""
        if x is not None and not math.isnan(self.x):
            raise ValueError(f"x: this run was opened at x = {self.x:g}; give x to record or to log, not both")
        self.measurements.append((metric, float(value), self.x if x is None else float(x)))


@contextlib.contextmanager
def record(
    name: str,
    *,
    arm: str,
    dataset: str,
    seed: int,
    config: Any,
    setting: str = "",
    x: SupportsFloat = math.nan,
    seconds: SupportsFloat | None = None,
    force: bool = False,
    root: Path | str | None = None,
) -> Iterator[Run]:
    """Measure one run and write it when the block ends without an error; an error writes nothing.

    `config` is a dataclass or a mapping with everything this run depends on, and no more (not the list of all
    arms): a run recorded under another configuration does not count as finished, and its rows are replaced.
    Give `x` where every swept value is a run of its own, `run.log(..., x=...)` where one run measures many.
    `seconds` replaces the block's wall clock where seeds are trained together; `force` repeats finished runs.
    """
    key: dict[str, Any] = {"arm": arm, "dataset": dataset, "setting": setting, "seed": seed}
    x = float(x)
    run = Run(not force and finished(name, **key, x=x, config=config, root=root), x)
    parts = [arm, dataset, setting, "" if math.isnan(x) else f"x = {x:g}", f"seed {seed}"]
    label = " · ".join(filter(None, parts))
    start = time.perf_counter()
    yield run
    if not run.measurements:
        if not run.finished:
            raise ValueError(f"record: {label} logged nothing; call run.log(metric, value) inside the block")
        print(f"{name}: {label}: recorded before, skipped", flush=True)
        return
    elapsed = time.perf_counter() - start if seconds is None else float(seconds)
    common = {
        "experiment": name,
        **key,
        "seconds": elapsed,
        "config": config_json(config),
        "versions": versions_json(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    rows = _frame({**common, "metric": metric, "value": value, "x": x_} for metric, value, x_ in run.measurements)
    _write(results_path(name, root), rows, drop=RUN if math.isnan(x) else [*RUN, "x"])
    print(f"{name}: {label}: {len(rows)} numbers in {elapsed:.1f} s", flush=True)


def finished(
    name: str,
    *,
    arm: str,
    dataset: str,
    seed: int,
    config: Any,
    setting: str = "",
    x: SupportsFloat = math.nan,
    root: Path | str | None = None,
) -> bool:
    """Whether this run is recorded under this very configuration (arguments as for `record`)."""
    path = results_path(name, root)
    if not path.exists():
        return False
    old = _read(path)
    same = (old["arm"] == arm) & (old["dataset"] == dataset) & (old["setting"] == setting) & (old["seed"] == seed)
    if not math.isnan(float(x)):
        same &= old["x"] == float(x)
    return bool(same.any() and (old.loc[same, "config"] == config_json(config)).all())


def config_json(config: Any) -> str:
    """A dataclass or a mapping as JSON with sorted keys, so that equal configurations are equal strings."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    if not isinstance(config, Mapping):
        raise ValueError(f"config: a {type(config).__name__} cannot be recorded; pass a dataclass or a mapping")
    return json.dumps(dict(config), sort_keys=True, default=str)


def versions_json() -> str:
    """Versions of Python and of the packages a number may depend on, read without importing any of them."""
    versions = {"python": platform.python_version()}
    for package in ("reclib", "numpy", "scipy", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return json.dumps(versions, sort_keys=True)


Part = TypeVar("Part")


def chosen_parts(known: Mapping[str, Part], names: Sequence[str] | None) -> list[Part]:
    """The named parts of an experiment, in its own order; all if there are no names.

    Raises:
        ValueError: a name that is not known.
    """
    if unknown := set(names or ()) - set(known):
        raise ValueError(f"datasets: there is no {sorted(unknown)}; choose from {', '.join(known)}")
    return [part for name, part in known.items() if names is None or name in names]


Measured = list[tuple[str, float, float | None]]  # metric, value, x


@dataclasses.dataclass(frozen=True)
class Book:
    """Where the measurements of an experiment go that trains all seeds of an arm at once."""

    name: str
    seeds: Sequence[int]
    force: bool = False
    root: Path | str | None = None
    retuned: set[tuple[str, str]] = dataclasses.field(default_factory=set)  # what `force` has tuned once more

    def write(
        self,
        arm: str,
        dataset: str,
        config: Any,
        measure: Callable[[list[int]], list[Measured]],
        *,
        setting: str = "",
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Measure the seeds that are not recorded yet, all at once, and write a run for each.

        Args:
            measure: of some seeds; returns what was measured of each.
            seeds: default: those of the book.
        """
        chosen = self.seeds if seeds is None else seeds
        key: dict[str, Any] = {"arm": arm, "dataset": dataset, "setting": setting, "config": config, "root": self.root}
        missing = [seed for seed in chosen if self.force or not finished(self.name, **key, seed=seed)]
        if not missing:
            print(f"{self.name}: {arm} · {dataset} · {setting or 'all seeds'}: recorded before, skipped", flush=True)
            return
        start = time.perf_counter()
        measured = measure(missing)
        seconds = (time.perf_counter() - start) / len(missing)
        for seed, numbers in zip(missing, measured, strict=True):
            with record(self.name, **key, seed=seed, seconds=seconds, force=True) as run:
                for metric, value, x in numbers:
                    run.log(metric, value, x=x)


# From rows to intervals.


def interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of `values` (one per seed) and its t-interval; for a single value the bounds are NaN, unknown."""
    array = np.asarray(values, dtype=float)
    if array.shape == (1,):
        return Interval(float(array[0]), math.nan, math.nan)
    return seed_interval(array, level=level)


def prediction_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of `values` (one per seed) and the interval one further run falls into with probability `level`.

    √(n + 1) times as wide as `interval`: a new run has its own noise, s², and the sample mean it is compared
    with has s²/n, so their difference has variance s²(1 + 1/n), s estimated on n − 1 degrees of freedom (Hahn
    & Meeker, *Statistical Intervals*, 1991, ch. 4). For a single value the bounds are NaN, unknown.
    """
    mean, low, high = interval(values, level)
    scale = math.sqrt(np.size(values) + 1)
    return Interval(mean, mean - scale * (mean - low), mean + scale * (high - mean))


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """One row per (arm, dataset, setting, x, metric): mean, 95 % interval (low, high) and number of seeds."""
    groups = results.groupby(["arm", "dataset", "setting", "x", "metric"], dropna=False, sort=False)["value"]
    rows = [(*key, *interval(values.to_numpy()), len(values)) for key, values in groups]
    return pd.DataFrame(rows, columns=["arm", "dataset", "setting", "x", "metric", "mean", "low", "high", "seeds"])


# Running an experiment.


def seeds(text: str) -> list[int]:
    """Seeds from the command line: "0-4" is 0, 1, 2, 3, 4; "0,3,7" and "0-2,7" work too."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise ValueError(f"seeds: cannot read {part!r} in {text!r}; write '0-4' or '0,3,7'")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"seeds: {part!r} counts down; write '{last}-{first}'")
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def experiment_module(number: int | str) -> Any:
    """The module `reclib.experiments.chNN_*` of chapter `number`."""
    import reclib.experiments as package

    known = {m.name[2:4]: m.name for m in pkgutil.iter_modules(package.__path__) if re.match(r"ch\d\d_", m.name)}
    digits = str(number).zfill(2)
    if digits not in known:
        raise ValueError(
            f"number: chapter {number} has no experiment; there are {', '.join(sorted(known)) or 'none yet'}"
        )
    return importlib.import_module(f"{package.__name__}.{known[digits]}")


def run_experiment(
    number: int | str,
    seeds: Sequence[int],
    *,
    force: bool = False,
    scale: str = "full",
    config: Any = None,
    root: Path | str | None = None,
) -> Path:
    """Run chapter `number`'s experiment and return the path of its results.

    `scale` picks the module's `SCALES[scale]`; `config` replaces it. Only `full` is the record: results of
    another scale go to a folder of that name below the root, so a smoke run never mixes with it.
    """
    module = experiment_module(number)
    if scale not in module.SCALES:
        raise ValueError(f"scale: {scale!r} is unknown to chapter {number}; choose from {', '.join(module.SCALES)}")
    if not seeds:
        raise ValueError("seeds: none given; pass for example range(5)")
    folder = results_root() if root is None else Path(root)
    folder = folder if scale == "full" else folder / scale
    path = results_path(module.NAME, folder)
    print(f"chapter {int(number):02d}, seeds {', '.join(map(str, seeds))}, scale {scale} → {path}", flush=True)
    module.run(module.SCALES[scale] if config is None else config, list(seeds), force=force, root=folder)
    return path
