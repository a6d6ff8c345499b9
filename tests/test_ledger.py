"""The ledger: the rule of the verdicts on results made by hand, and the claims of the book as data."""

import datetime
import json
import math
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reclib import ledger
from reclib.experiments.results import append, load, results_path
from reclib.ledger import Cell, Claim, Correlation, Difference, Least, Ratio, Slope, assert_within_record, judge

pytestmark = pytest.mark.slow

A, B = Cell("a", "m", "d"), Cell("b", "m", "d")


def rows(arm, values, *, metric="m", setting="", x=math.nan, seeds=None):
    """Results of one arm, one value per seed."""
    base = {"experiment": "97_test", "arm": arm, "dataset": "d", "setting": setting, "x": x, "metric": metric}
    base |= {"seconds": 0.0, "config": "{}", "versions": "{}", "date": "2026-01-01"}
    seeds = range(len(values)) if seeds is None else seeds
    return [{**base, "seed": seed, "value": float(value)} for seed, value in zip(seeds, values, strict=True)]


def claim(statistic=A, direction=">", threshold=0.0, seeds=5, **changes):
    fields = {
        "id": "ch97-test", "paper": "P", "chapter": 97, "claim": "a.", "paper_value": 1.0, "paper_setting": "there",
        "experiment": "97_test", "statistic": statistic, "direction": direction, "threshold": threshold,
        "fixed": "2026-01-01", "seeds": seeds,
    }  # fmt: skip
    return Claim(**(fields | changes))


VALUES = [0.9, 1.0, 1.0, 1.1, 1.2]  # mean 1.04, 95 % interval 0.898 … 1.182


@pytest.mark.parametrize(
    ("direction", "threshold", "verdict"),
    [
        (">", 0.89, "reproduced"),
        (">", 0.91, "partly"),
        (">", 1.03, "partly"),
        (">", 1.05, "not reproduced"),
        ("<", 1.19, "reproduced"),
        ("<", 1.17, "partly"),
        ("<", 1.05, "partly"),
        ("<", 1.03, "not reproduced"),
    ],
)
def test_the_rule(direction, threshold, verdict):
    found = judge(claim(A, direction, threshold), pd.DataFrame(rows("a", VALUES)))
    assert found.verdict == verdict
    assert found.seeds == 5
    low, high = stats.t.interval(0.95, 4, loc=np.mean(VALUES), scale=stats.sem(VALUES))
    assert (found.value, found.low, found.high) == pytest.approx((1.04, low, high))


def test_not_testable_and_not_run_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("RECLIB_RESULTS", str(tmp_path))
    none = judge(claim(None, not_testable="no dates"))
    assert none.verdict == "not testable here"
    missing = judge(claim())
    assert missing.verdict == "not run yet"
    few = judge(claim(), pd.DataFrame(rows("a", [1, 1, 1, 1])))
    assert (few.verdict, few.seeds) == ("not run yet", 4)
    for verdict in (none, missing, few):
        assert math.isnan(verdict.value)
        assert verdict.row()["value"] is verdict.row()["low"] is verdict.row()["high"] is None


def test_a_verdict_reads_the_recorded_file(tmp_path, monkeypatch):
    monkeypatch.setenv("RECLIB_RESULTS", str(tmp_path))
    append(tmp_path / "97_test.parquet", rows("a", VALUES))
    assert judge(claim()).verdict == "reproduced"


def test_an_exact_number_needs_one_seed():
    found = judge(claim(A, ">", 0.6, seeds=1), pd.DataFrame(rows("a", [0.71])))
    assert (found.verdict, found.value, found.low, found.high, found.seeds) == ("reproduced", 0.71, 0.71, 0.71, 1)
    assert judge(claim(A, ">", 0.71, seeds=1), pd.DataFrame(rows("a", [0.71]))).verdict == "not reproduced"


def test_arms_are_paired_by_seed():
    base = np.array([1.0, 2.0, 3.0, 4.0, 5.0])  # seeds differ far more than the arms do
    results = pd.DataFrame(rows("a", base + 0.1 + 0.01 * np.arange(5)) + rows("b", base))
    found = judge(claim(Difference(A, B)), results)
    assert found.verdict == "reproduced"
    assert found.value == pytest.approx(0.12)
    shuffled = pd.DataFrame(rows("a", base + 0.12) + rows("b", base[::-1]))
    assert judge(claim(Difference(A, B)), shuffled).verdict == "partly"


def test_only_shared_seeds_count():
    results = pd.DataFrame(rows("a", [2, 2, 2, 9], seeds=[0, 1, 2, 7]) + rows("b", [1, 1, 1, 1]))
    assert Difference(A, B).per_seed(results).to_dict() == {0: 1.0, 1: 1.0, 2: 1.0}
    assert judge(claim(Difference(A, B), seeds=3), results).verdict == "reproduced"
    assert judge(claim(Difference(A, B), seeds=5), results).verdict == "not run yet"


def test_statistics_by_hand():
    sweep = [(x, seed) for x in (1, 2, 4) for seed in (0, 1, 2)]
    table = []
    for x, seed in sweep:
        table += rows("a", [3 * x + seed], x=float(x), seeds=[seed])
        table += rows("b", [10 - x**2], x=float(x), seeds=[seed])
        table += rows("c", [5 * math.log2(x) + seed], x=float(x), seeds=[seed])
    table += rows("a", [6, 6, 6]) + rows("b", [2, 3, 4])
    results = pd.DataFrame(table)
    c = Cell("c", "m", "d")
    assert A.per_seed(results).tolist() == [6, 6, 6]  # rows with an x belong to other cells
    assert Cell("a", "m", "d", x=2).per_seed(results).tolist() == [6, 7, 8]
    assert Difference(A, B).per_seed(results).tolist() == [4, 3, 2]
    assert Ratio(A, B).per_seed(results).tolist() == [3, 2, 1.5]
    assert Slope(A).per_seed(results).tolist() == pytest.approx([3, 3, 3])
    assert Slope(c, log2=True).per_seed(results).tolist() == pytest.approx([5, 5, 5])
    expected = np.corrcoef([3, 6, 12], [9, 6, -6])[0, 1]
    assert Correlation(A, B).per_seed(results).tolist() == pytest.approx([expected] * 3)
    assert Least((Ratio(A, B), Difference(A, B))).per_seed(results).tolist() == [3, 2, 1.5]
    assert Ratio(Difference(A, B), B).per_seed(results).tolist() == [2, 1, 0.5]


def test_settings_and_metrics_are_kept_apart():
    results = pd.DataFrame(rows("a", [1] * 3) + rows("a", [2] * 3, setting="s") + rows("a", [3] * 3, metric="n"))
    assert Cell("a", "m", "d", "s").per_seed(results).tolist() == [2, 2, 2]
    assert Cell("a", "n", "d").per_seed(results).tolist() == [3, 3, 3]
    assert Cell("a", "m", "elsewhere").per_seed(results).empty


def test_nothing_measured_gives_no_value():
    empty = pd.DataFrame(rows("z", [1]))
    for statistic in (A, Difference(A, B), Ratio(A, B), Slope(A), Correlation(A, B), Least((A, B))):
        assert judge(claim(statistic), empty).verdict == "not run yet"


def test_an_ill_formed_claim_is_an_error():
    with pytest.raises(ValueError, match="statistic: ch97-test"):
        claim(None)
    with pytest.raises(ValueError, match="statistic: ch97-test"):
        claim(A, not_testable="why?")
    with pytest.raises(ValueError, match="seeds: ch97-test"):
        claim(seeds=2)


def test_a_live_run_inside_the_record_passes_and_one_outside_raises():
    results = pd.DataFrame(rows("a", VALUES))
    half = stats.t.ppf(0.9975, 4) * np.std(VALUES, ddof=1) * math.sqrt(1 + 1 / 5)
    for value in (1.04, 1.04 + 0.99 * half, 1.04 - 0.99 * half):
        assert_within_record("97_test", "a", "m", value, dataset="d", results=results)
    for value in (1.04 + 1.01 * half, 1.04 - 1.01 * half, math.nan):
        with pytest.raises(AssertionError, match="5 recorded seeds predict"):
            assert_within_record("97_test", "a", "m", value, dataset="d", results=results)


def test_a_number_without_spread_must_agree():
    results = pd.DataFrame(rows("a", [0.25] * 5))
    assert_within_record("97_test", "a", "m", 0.25 + 1e-6, dataset="d", results=results)
    with pytest.raises(AssertionError):
        assert_within_record("97_test", "a", "m", 0.2501, dataset="d", results=results)


def test_a_record_of_two_seeds_predicts_nothing():
    with pytest.raises(ValueError, match="python -m reclib experiments 97 --seeds 0-4"):
        assert_within_record("97_test", "a", "m", 1.0, dataset="d", results=pd.DataFrame(rows("a", [1, 2])))


# The claims of the book.


def test_claims_are_well_formed():
    every = ledger.claims()
    assert len({c.id for c in every}) == len(every) > 0
    for c in every:
        assert re.fullmatch(rf"ch{c.chapter:02d}-[a-z0-9-]+", c.id)
        assert c.experiment.startswith(f"{c.chapter:02d}_")
        assert datetime.date.fromisoformat(c.fixed) <= datetime.date.today()
        assert c.direction in (">", "<")
        assert c.claim.endswith((".", ").")), c.id
        assert not c.paper_setting.endswith("."), c.id
        if c.statistic is not None:
            assert c.statistic.cells


@pytest.mark.parametrize("name", sorted({c.experiment for c in ledger.claims()}))
def test_what_a_claim_reads_is_what_its_experiment_records(name):
    """A mistyped arm or metric would stay "not run yet" for ever. Holds as soon as the experiment has recorded."""
    if not results_path(name).exists():
        assert {v.verdict for v in ledger.verdicts() if v.claim.experiment == name} <= {
            "not run yet",
            "not testable here",
        }
        return
    results = load(name)
    undecided = {}
    for c in (c for c in ledger.claims() if c.experiment == name and c.statistic is not None):
        if judge(c, results).verdict == "not run yet":
            cells = {cell: cell.per_seed(results).index.union(cell.swept(results).index) for cell in c.statistic.cells}
            undecided[c.id] = {str(cell): len(seeds) for cell, seeds in cells.items() if len(seeds) < c.seeds}
    assert not undecided, "seeds recorded of what these claims read: finish the experiment, or correct the name"


def test_one_paper_one_chapter():
    paper = ledger.claims()[0].paper
    assert {c.paper for c in ledger.claims(paper)} == {paper}
    assert {c.chapter for c in ledger.claims(chapter=2)} == {2}
    with pytest.raises(ValueError, match=r"paper: .*did you mean"):
        ledger.claims(paper + "x")
    with pytest.raises(ValueError, match=r"claim_id: .*did you mean"):
        ledger.check(ledger.claims()[0].id + "x")
    assert ledger.check(ledger.claims()[0].id).claim == ledger.claims()[0]


def test_rows_are_json_with_the_documented_keys():
    found = json.loads(json.dumps(ledger.to_rows(), allow_nan=False))
    keys = ["id", "paper", "chapter", "claim", "paper_value", "statistic", "value", "low", "high", "seeds", "verdict"]
    assert [list(row) for row in found] == [keys] * len(ledger.claims())
    assert {row["verdict"] for row in found} <= set(ledger.MARKS)
    assert ledger.to_table()["id"].tolist() == [c.id for c in ledger.claims()]


def test_the_page_names_every_claim_and_counts_the_verdicts():
    page = ledger.to_markdown({2: "../chapters/02_x.ipynb"})
    for verdict in ledger.verdicts():
        assert f"`{verdict.claim.id}`" in page
        assert f"| {verdict.claim.claim} |" in page
    counted = sum(int(n) for n in re.findall(r"^\| [✔◐✘○…] .* \| (\d+) \|$", page, flags=re.M))
    assert counted == len(ledger.claims())
    assert "[02](../chapters/02_x.ipynb)" in page
    widths = {line.count("|") for line in page.splitlines() if line.startswith("| ")}
    assert widths <= {4, 7}


def test_the_page_shows_value_and_interval(tmp_path, monkeypatch):
    monkeypatch.setenv("RECLIB_RESULTS", str(tmp_path))
    first = next(c for c in ledger.claims() if isinstance(c.statistic, Cell) and c.seeds > 1)
    cell = first.statistic
    table = rows(cell.arm, [0.05, 0.06, 0.07, 0.08, 0.09], metric=cell.metric)
    append(tmp_path / f"{first.experiment}.parquet", [{**r, "dataset": cell.dataset} for r in table])
    line = next(line for line in ledger.to_markdown({}).splitlines() if line.startswith(f"| {first.claim} |"))
    assert "0.07 (0.0504 … 0.0896) | 5 |" in line


NO_TORCH = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is blocked")

sys.meta_path.insert(0, Block())
from reclib import ledger
print(len(ledger.to_markdown()))
"""


@pytest.mark.slow
def test_the_ledger_needs_no_torch():
    done = subprocess.run([sys.executable, "-c", NO_TORCH], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 1000
