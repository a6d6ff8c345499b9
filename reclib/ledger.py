"""The ledger: what papers claim, written down before the runs, and what came out of them.

A claim is data. It names the measured numbers (`Cell`), what is computed from them for each seed (a statistic: the
cell itself, `Difference`, `Ratio`, `Slope`, `Correlation`, `Least`), and the threshold it has to pass, fixed with a
date before its experiment ran:

    Claim(
        id="ch02-full-softmax",
        paper="Klenitskiy & Vasilev (2023)",
        chapter=2,
        claim="SASRec trained with full softmax beats SASRec trained with one negative.",
        paper_value=0.048,
        paper_setting="MovieLens-1M, NDCG@10: .1821 against .1341",
        experiment="02_sequential",
        statistic=Difference(
            Cell("sasrec", "test/ndcg@10", "movielens-1m"), Cell("sasrec_bce1", "test/ndcg@10", "movielens-1m")
        ),
        direction=">",
        threshold=0.03,
        seeds=3,
        fixed="2026-11-22",
    )

The claims of chapter NN are the tuple `CLAIMS` of `reclib/claims/chNN.py`. `check` computes a verdict from the recorded
results: the statistic of each seed (arms paired by seed), its mean and 95 % t-interval over seeds, then

| verdict | when |
| --- | --- |
| reproduced | the whole interval is beyond the threshold |
| partly | the mean is beyond the threshold, the interval reaches back over it |
| not reproduced | the mean is not beyond the threshold |
| not testable here | the claim says why |
| not run yet | fewer seeds are recorded than the claim asks for |

Nothing here needs torch.
"""

from __future__ import annotations

import difflib
import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from reclib.experiments.results import interval, load, prediction_interval, results_path

VerdictName = Literal["reproduced", "partly", "not reproduced", "not testable here", "not run yet"]


# Statistics: what a claim computes from the measurements, one value per seed.


@runtime_checkable
class Statistic(Protocol):
    """A `Cell`, or what is computed from cells: `str` describes it."""

    def per_seed(self, results: pd.DataFrame) -> pd.Series[float]:
        """The statistic of each seed that has all it needs, indexed by seed."""
        ...

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All measurements it reads."""
        ...


@dataclass(frozen=True)
class Cell:
    """One measured number per seed: the rows of an experiment with these five values. The simplest statistic."""

    arm: str
    metric: str
    dataset: str
    setting: str = ""
    x: float | int | None = None  # a value of the swept quantity; None: rows where nothing is swept

    def per_seed(self, results: pd.DataFrame) -> pd.Series[float]:
        """The measured values, indexed by seed; empty if nothing was measured."""
        rows = _rows(self, results)
        at_x = rows["x"].isna() if self.x is None else rows["x"] == self.x
        return rows[at_x].set_index("seed")["value"]

    def swept(self, results: pd.DataFrame) -> pd.DataFrame:
        """All values of the sweep: one row per seed, one column per x, complete seeds only."""
        rows = _rows(self, results)
        return rows[rows["x"].notna()].pivot(index="seed", columns="x", values="value").dropna()

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Itself."""
        return (self,)

    def __str__(self) -> str:
        where = self.dataset + (f", {self.setting}" if self.setting else "")
        return f"{self.metric} of {self.arm} ({where}{'' if self.x is None else f', x = {self.x:g}'})"


def _rows(cell: Cell, results: pd.DataFrame) -> pd.DataFrame:
    same = (results["arm"] == cell.arm) & (results["metric"] == cell.metric)
    return results[same & (results["dataset"] == cell.dataset) & (results["setting"] == cell.setting)]


@dataclass(frozen=True)
class Difference:
    """Left minus right, of the same seed."""

    left: Statistic
    right: Statistic

    def per_seed(self, results: pd.DataFrame) -> pd.Series[float]:
        """Difference for the seeds that both sides have."""
        return (self.left.per_seed(results) - self.right.per_seed(results)).dropna()

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of both sides."""
        return self.left.cells + self.right.cells

    def __str__(self) -> str:
        return f"{_bracketed(self.left)} − {_bracketed(self.right)}"


@dataclass(frozen=True)
class Ratio:
    """Left over right, of the same seed."""

    left: Statistic
    right: Statistic

    def per_seed(self, results: pd.DataFrame) -> pd.Series[float]:
        """Ratio for the seeds that both sides have."""
        return (self.left.per_seed(results) / self.right.per_seed(results)).dropna()

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of both sides."""
        return self.left.cells + self.right.cells

    def __str__(self) -> str:
        return f"{_bracketed(self.left)} / {_bracketed(self.right)}"


def _bracketed(statistic: Statistic) -> str:
    return str(statistic) if isinstance(statistic, Cell) else f"({statistic})"


@dataclass(frozen=True)
class Slope:
    """Least-squares slope of a swept measurement over x, or over log₂ x (per doubling), within each seed."""

    cell: Cell
    log2: bool = False

    def per_seed(self, results: pd.DataFrame) -> pd.Series[float]:
        """Slope of the seeds that have every x."""
        table = self.cell.swept(results)
        x = np.asarray(table.columns, dtype=float)
        if len(x) < 2:
            return pd.Series(dtype=float)
        x = np.log2(x) if self.log2 else x
        x = x - x.mean()
        return pd.Series(table.to_numpy() @ x / (x @ x), index=table.index)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The swept cell."""
        return (self.cell,)

    def __str__(self) -> str:
        return f"slope of {self.cell} over {'log₂ x' if self.log2 else 'x'}"


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation of two swept measurements over their common x, within each seed."""

    left: Cell
    right: Cell

    def per_seed(self, results: pd.DataFrame) -> pd.Series[float]:
        """Correlation of the seeds that have every x on both sides."""
        left, right = self.left.swept(results), self.right.swept(results)
        x, seeds = left.columns.intersection(right.columns), left.index.intersection(right.index)
        if len(x) < 3:
            return pd.Series(dtype=float)
        return left.loc[seeds, x].corrwith(right.loc[seeds, x], axis=1).dropna()

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Both sides."""
        return (self.left, self.right)

    def __str__(self) -> str:
        return f"correlation of {self.left} with {self.right} over x"


@dataclass(frozen=True)
class Least:
    """The smallest of several statistics, seed by seed: for claims that say several things at once."""

    parts: tuple[Statistic, ...]

    def per_seed(self, results: pd.DataFrame) -> pd.Series[float]:
        """Smallest part, for the seeds that have all parts."""
        return pd.concat([part.per_seed(results) for part in self.parts], axis=1).dropna().min(axis=1)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of all parts."""
        return tuple(cell for part in self.parts for cell in part.cells)

    def __str__(self) -> str:
        return "the least of: " + "; ".join(map(str, self.parts))


# Claims and verdicts.


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how we decide whether it holds here."""

    id: str  # "chNN-some-words", unique
    paper: str  # "Authors (year)", or the name of the method for the papers of the book
    chapter: int
    claim: str  # one sentence, in our words
    paper_value: float | None  # the paper's own value of the statistic; None: it gives none that compares
    paper_setting: str  # where the paper measured it, with its raw numbers
    experiment: str  # "NN_name" of the results
    statistic: Statistic | None  # None: not testable here
    direction: Literal[">", "<"]  # the side of the threshold on which the claim holds
    threshold: float
    fixed: str  # the day, YYYY-MM-DD, on which the threshold was fixed, before any run
    seeds: int = 5  # how many the verdict needs at least; 1: the number is exact, no seed enters
    not_testable: str = ""  # why not, if not

    def __post_init__(self) -> None:
        if (self.statistic is None) != bool(self.not_testable):
            raise ValueError(f"statistic: {self.id} needs either a statistic or a reason in not_testable")
        if self.seeds == 2 or self.seeds < 1:
            raise ValueError(f"seeds: {self.id} asks for {self.seeds}; take at least 3, or 1 for an exact number")

    def condition(self) -> str:
        """The test in words."""
        return self.not_testable or f"{self.statistic} {self.direction} {self.threshold:g}"


@dataclass(frozen=True)
class Verdict:
    """The outcome of one claim; `value`, `low` and `high` are NaN where nothing was computed."""

    claim: Claim
    value: float  # mean of the statistic over seeds
    low: float  # 95 % interval
    high: float
    seeds: int
    verdict: VerdictName

    def row(self) -> dict[str, Any]:
        """For JSON and tables; None where nothing was computed."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {
            "id": self.claim.id,
            "paper": self.claim.paper,
            "chapter": self.claim.chapter,
            "claim": self.claim.claim,
            "paper_value": self.claim.paper_value,
            "statistic": self.claim.condition(),
            **{name: None if math.isnan(number) else number for name, number in numbers.items()},
            "seeds": self.seeds,
            "verdict": self.verdict,
        }


def claims(paper: str | None = None, chapter: int | None = None) -> tuple[Claim, ...]:
    """All claims in the order of the book, or those of one paper or chapter. An unknown paper is a `ValueError`."""
    import reclib.claims as package

    modules = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    found: list[Claim] = []
    for module in modules:
        found += importlib.import_module(f"{package.__name__}.{module}").CLAIMS
    papers = list(dict.fromkeys(claim.paper for claim in found))
    if paper is not None and paper not in papers:
        raise ValueError(f"paper: {paper!r} has no claims{_nearest(paper, papers)}; there are {papers}")
    return tuple(c for c in found if paper in (None, c.paper) and chapter in (None, c.chapter))


def check(claim_id: str, results: pd.DataFrame | None = None) -> Verdict:
    """Verdict of one claim, from `results` or from what its experiment has recorded.

    Raises `ValueError` for an unknown id. Missing runs are no error: the verdict is "not run yet".
    """
    known = {claim.id: claim for claim in claims()}
    if claim_id not in known:
        raise ValueError(f"claim_id: there is no {claim_id!r}{_nearest(claim_id, list(known))}")
    return judge(known[claim_id], results)


def judge(claim: Claim, results: pd.DataFrame | None = None) -> Verdict:
    """Apply the rule at the top of this module to a claim, listed in the book or your own."""
    nan = math.nan
    if claim.statistic is None:
        return Verdict(claim, nan, nan, nan, 0, "not testable here")
    if results is None:
        if not results_path(claim.experiment).exists():
            return Verdict(claim, nan, nan, nan, 0, "not run yet")
        results = load(claim.experiment)
    values = claim.statistic.per_seed(results)
    if len(values) < claim.seeds:
        return Verdict(claim, nan, nan, nan, len(values), "not run yet")
    mean, low, high = interval(values.to_numpy())
    if claim.seeds == 1 and float(np.ptp(values.to_numpy())) == 0:
        low = high = mean  # exact
    sign = 1 if claim.direction == ">" else -1
    nearest, middle = min(sign * low, sign * high), sign * mean
    name: VerdictName = "not reproduced"
    if middle > sign * claim.threshold:
        name = "reproduced" if nearest > sign * claim.threshold else "partly"
    return Verdict(claim, mean, low, high, len(values), name)


def assert_within_record(
    experiment: str,
    arm: str,
    metric: str,
    value: float,
    *,
    dataset: str,
    setting: str = "",
    x: float | int | None = None,
    level: float = 0.995,
    results: pd.DataFrame | None = None,
) -> None:
    """Raise `AssertionError` if a live run with one seed leaves the interval that the recorded seeds predict for it.

    The interval is a prediction interval for one new run. The confidence interval of the verdicts would be wrong
    here: it says where the *mean* over seeds lies and shrinks towards a point as seeds are added, so most single runs
    lie outside it. A chapter makes ten such checks: at 95 % each, four honest runs in ten would fail one of them, at
    99.5 % one in twenty (Bonferroni). Numbers without any spread over seeds have to agree to 1e-5, relative.

    Raises `ValueError` if fewer than three seeds are recorded: then nothing is known about the spread.
    """
    cell = Cell(arm, metric, dataset, setting, x)
    recorded = cell.per_seed(load(experiment) if results is None else results)
    if len(recorded) < 3:
        raise ValueError(
            f"experiment: {experiment} has {len(recorded)} recorded seeds of {cell}, three are needed; "
            f"run `{_command(experiment)}`"
        )
    mean, low, high = prediction_interval(recorded.to_numpy(), level)
    slack = 1e-5 * abs(mean)
    if not low - slack <= value <= high + slack:
        raise AssertionError(
            f"{cell}: this run gives {value:.4f}; {len(recorded)} recorded seeds predict {low:.4f} … {high:.4f}"
        )


def _command(experiment: str) -> str:
    return f"python -m reclib experiments {experiment[:2]} --seeds 0-4"


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else ""


# For people and machines to read.


def to_rows(paper: str | None = None, chapter: int | None = None) -> list[dict[str, Any]]:
    """One dictionary per claim, ready for JSON: id, paper, chapter, claim, paper_value, statistic, value, low, high,
    seeds, verdict."""  # fmt: skip
    return [verdict.row() for verdict in verdicts(paper, chapter)]


def to_table(paper: str | None = None, chapter: int | None = None) -> pd.DataFrame:
    """The same as a table, for notebooks."""
    return pd.DataFrame(to_rows(paper, chapter))


def verdicts(paper: str | None = None, chapter: int | None = None) -> list[Verdict]:
    """Verdicts of all claims, of one paper or of one chapter, each results file read once."""
    chosen = claims(paper, chapter)
    recorded = {name: load(name) for name in {c.experiment for c in chosen} if results_path(name).exists()}
    return [judge(claim, recorded.get(claim.experiment)) for claim in chosen]


MARKS: Mapping[VerdictName, str] = {  # a sign as well as a word, never a colour alone
    "reproduced": "✔ reproduced",
    "partly": "◐ partly",
    "not reproduced": "✘ not reproduced",
    "not testable here": "○ not testable here",
    "not run yet": "… not run yet",
}


def to_markdown(chapters: Mapping[int, str] | None = None) -> str:
    """The ledger as a page of the book (MyST Markdown).

    `chapters` maps chapter numbers to link targets as seen from the page; by default the notebooks in `chapters/`
    of this checkout, as seen from `book/`.
    """
    links = _chapter_links() if chapters is None else chapters
    found = verdicts()
    counts = [(mark, sum(v.verdict == name for v in found)) for name, mark in MARKS.items()]
    lines = [
        "# The ledger of claims",
        "",
        "Every claim below was written down, with its test, before the experiment ran. The verdict is computed from",
        "the recorded runs, never typed.",
        "",
        "| verdict | when | claims |",
        "| --- | --- | ---: |",
    ]
    rules = {
        "reproduced": "the whole 95 % interval over seeds is beyond the threshold",
        "partly": "the mean is beyond the threshold, but the interval reaches back over it",
        "not reproduced": "the mean is not beyond the threshold",
        "not testable here": "the reason is given with the claim",
        "not run yet": "fewer seeds are recorded than the claim asks for",
    }
    lines += [f"| {mark} | {rule} | {n} |" for (mark, n), rule in zip(counts, rules.values(), strict=True)]
    lines += [
        "",
        "Arms of a comparison share their seeds and are paired by seed. The interval is Student's t over seeds.",
        "*Paper* is the paper's own value of the same statistic, a dash where it gives none that compares.",
        "As JSON: `python -m reclib ledger --json`.",
    ]
    for paper in dict.fromkeys(v.claim.paper for v in found):
        own = [v for v in found if v.claim.paper == paper]
        lines += ["", f"## {paper}", ""]
        lines += ["| claim | paper | here (95 % interval) | seeds | verdict | chapter |"]
        lines += ["| --- | ---: | ---: | ---: | --- | --- |"]
        lines += [_table_line(v, links) for v in own]
        lines += ["", "```{dropdown} How each is decided"]
        lines += [f"- `{v.claim.id}`. {_how(v)}" for v in own]
        lines += ["```"]
    return "\n".join(lines) + "\n"


def _table_line(v: Verdict, links: Mapping[int, str]) -> str:
    paper_value = "–" if v.claim.paper_value is None else _number(v.claim.paper_value)
    ours = "–" if math.isnan(v.value) else _number(v.value)
    if not math.isnan(v.value) and v.low != v.high:
        ours += f" ({_number(v.low)} … {_number(v.high)})"
    chapter = f"{v.claim.chapter:02d}"
    if v.claim.chapter in links:
        chapter = f"[{chapter}]({links[v.claim.chapter]})"
    claim = v.claim.claim.replace("|", "\\|")
    return f"| {claim} | {paper_value} | {ours} | {v.seeds or '–'} | {MARKS[v.verdict]} | {chapter} |"


def _how(v: Verdict) -> str:
    claim = v.claim
    paper = f"Source: {claim.paper_setting}." if claim.paper_setting else ""
    if claim.statistic is None:
        return f"Not testable here: {claim.not_testable}. {paper}".rstrip()
    needs = "exact" if claim.seeds == 1 else f"at least {claim.seeds} seeds"
    text = f"Test: {claim.condition()}; {needs}; fixed on {claim.fixed}. {paper}".rstrip()
    missing = v.verdict == "not run yet"
    return f"{text} To run it: `{_command(claim.experiment)}`." if missing else text


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.4f}".rstrip("0").rstrip(".")


def _chapter_links() -> dict[int, str]:
    folder = Path(__file__).resolve().parents[1] / "chapters"
    return {int(path.name[:2]): f"../chapters/{path.name}" for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
