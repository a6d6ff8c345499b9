"""The experiments of chapter 01: statistics of logs by hand, sampled ranks against drawing, splits that do not leak."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from reclib.data import Interactions
from reclib.evaluation import evaluate
from reclib.experiments import ch01_ad_world as ch01
from reclib.experiments.log_statistics import ascends, drift, first_seen, gini, item_labels, lorenz
from reclib.experiments.results import load
from reclib.world import AdWorldConfig
from tests.records import check_record_is_whole, check_world_cells

pytestmark = pytest.mark.slow

YEAR = 365.25 * 86400


def log_of(*histories, time=None, n_items=6, name="toy", **columns):
    """A log from lists of item ids; `columns` make the item table."""
    items = pd.DataFrame(columns, index=pd.RangeIndex(1, n_items + 1, name="item_id"))
    return Interactions(
        user=np.repeat(np.arange(len(histories)), [len(h) for h in histories]),
        item=np.array([i for h in histories for i in h]),
        time=None if time is None else np.array([t for row in time for t in row], dtype=float),
        n_items=n_items,
        items=items,
        name=name,
    )


def test_lorenz_by_hand():
    counts = np.array([1, 0, 6, 3])  # ranked 6, 3, 1, 0: after 1 item .6, after 2 .9
    np.testing.assert_allclose(lorenz(counts, np.array([0, 0.125, 0.25, 0.5, 0.75, 1.0])), [0, 0.3, 0.6, 0.9, 1, 1])


def test_gini_by_hand_and_at_the_ends():
    assert gini(np.array([5, 5, 5, 5])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)  # (n - 1) / n
    counts = np.random.default_rng(0).poisson(3, 50)
    pairs = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())  # the definition by differences
    assert gini(counts) == pytest.approx(pairs)
    with pytest.raises(ValueError, match="counts"):
        gini(np.zeros(3, dtype=int))


def test_gini_is_twice_the_area_above_the_diagonal():
    counts = np.random.default_rng(1).poisson(4, 200)
    at = np.linspace(0, 1, 20_001)
    assert gini(counts) == pytest.approx(2 * (np.trapezoid(lorenz(counts, at), at) - 0.5), abs=1e-6)


@pytest.mark.parametrize(
    "columns",
    [
        {"genres": ["Drama|War", "Drama", "War"]},
        {"categories": [["Drama", "War"], ["Drama"], ["War"]]},
    ],
)
def test_labels(columns):
    labels = item_labels(log_of([1, 2], n_items=3, **columns))
    np.testing.assert_array_equal(labels.toarray(), [[0, 0], [1, 1], [1, 0], [0, 1]])


def test_labels_of_a_log_without_any():
    with pytest.raises(ValueError, match="no topic, genres or categories"):
        item_labels(log_of([1, 2], n_items=2, title=["a", "b"]))


def test_drift_of_users_who_never_change_and_of_one_who_does():
    genres = ["A", "A", "A", "B", "B", "B"]
    rng = np.random.default_rng(0)
    faithful = log_of(*[[1, 2, 3, 1, 2, 3], [4, 5, 6, 4, 5, 6]] * 5, genres=genres)
    np.testing.assert_allclose(drift(faithful, np.array([1, 2, 5]), rng), 1.0)
    changes = log_of(*[[1, 2, 3, 4, 5, 6], [4, 5, 6, 1, 2, 3]] * 5, genres=genres)
    found = drift(changes, np.array([1, 3, 7]), rng)
    assert found[0] == 1
    # J(1) = 4/5, J(3) = 0, by chance J₀ = 1/2: (0 - .5) / (.8 - .5)
    assert found[1] == pytest.approx(-5 / 3, abs=0.05)
    assert np.isnan(found[2])  # nobody has eight events


def test_ascends_by_hand():
    log = log_of([1, 2, 3], [3, 1], n_items=3, asin=["B2", "B1", "B9"])
    np.testing.assert_array_equal(ascends(log), [False, False, True, False, False])
    with pytest.raises(ValueError, match="no 'sku'"):
        ascends(log, "sku")


def test_first_seen():
    log = log_of([1, 2], [2, 1], time=[[5, 9], [1, 3]], n_items=3, genres=list("abc"))
    np.testing.assert_array_equal(first_seen(log)[1:], [3, 1, np.inf])
    with pytest.raises(ValueError, match="time"):
        first_seen(log_of([1, 2], n_items=2, genres=list("ab")))


def test_lists_with_items_of_the_future():
    log = log_of([1, 2, 3], [1, 2, 4], time=[[0, 1, 5], [2, 3, 9]], n_items=5, genres=list("abcde"))
    cases = log.leave_one_out().test  # at times 5 and 9; items 3 and 4 appear just then, item 5 never
    top = torch.tensor([[1, 2], [1, 3]])
    np.testing.assert_array_equal(ch01.future_lists(top, cases), [0, 0])
    np.testing.assert_array_equal(ch01.future_lists(torch.tensor([[1, 3], [4, 2]]), cases), [1, 1])
    np.testing.assert_array_equal(ch01.future_lists(torch.tensor([[5, 1], [0, 0]]), cases), [1, 0])


# ----------------------------------------------------------------------------------------------- sampled ranks


def test_sampled_rank_at_the_ends():
    rng = np.random.default_rng(0)
    others = np.array([9, 9, 9])
    ranks = torch.tensor([1, 10, 4])
    assert ch01.sampled_ranks(ranks, others, 5, rng)[:2].tolist() == [1, 6]  # the best stays first, the worst last
    for x in (9, 1000):  # all that compete are drawn
        assert ch01.sampled_ranks(ranks, others, x, rng).tolist() == [1, 10, 4]


@pytest.mark.parametrize("rank", [2, 40, 150])
def test_sampled_ranks_have_the_law_of_drawing(rank):
    n, x, repeats = 199, 20, 4000
    formula = ch01.sampled_ranks(torch.full((repeats,), rank), np.full(repeats, n), x, np.random.default_rng(1)).numpy()
    rng = np.random.default_rng(2)
    drawn = np.array([1 + (rng.choice(n, x, replace=False) < rank - 1).sum() for _ in range(repeats)])
    spread = np.sqrt((formula.var() + drawn.var()) / repeats)
    assert abs(formula.mean() - drawn.mean()) < 4 * spread
    hit = (formula <= 5).mean() - (drawn <= 5).mean()
    assert abs(hit) < 4 * np.sqrt(0.5 / repeats)


def test_knowing_the_order_prefers_larger_codes():
    log = log_of([1, 2, 1, 3], [1, 2], [1, 3], n_items=3, asin=["B5", "B1", "B9"])
    model = ch01.KnowsTheOrder().fit(log)
    assert model.p == pytest.approx(3 / 5)  # ascending: 2→1, 1→3, 1→3; descending: 1→2 twice
    plain, told = model.counting.score(torch.tensor([[1]])), model.score(torch.tensor([[1]]))
    assert torch.isneginf(told[0, 0])
    torch.testing.assert_close(told[0, 2], plain[0, 2] * (1 - model.p))  # smaller code
    torch.testing.assert_close(told[0, 3], plain[0, 3] * model.p)


# --------------------------------------------------------------------------------------------------- the split


def test_yearly_cuts_do_not_leak():
    rng = np.random.default_rng(0)
    time = [np.sort(rng.uniform(0, 4 * YEAR, rng.integers(2, 9))) for _ in range(60)]
    log = log_of(
        *[rng.integers(1, 31, len(t)) for t in time], time=time, n_items=30, genres=[str(i) for i in range(30)]
    )
    assert log.time is not None
    cuts = ch01.by_year(log)
    assert len(cuts) == 3
    seen = []
    for year, (before, leaky, cases) in enumerate(cuts, start=1):
        cut = pd.Timestamp(1970 + year, 1, 1).timestamp()
        when = log.time[cases.target]
        assert before.time is not None
        assert leaky.time is not None
        assert before.time.max() < cut <= when.min()
        assert len(before) == (log.time < cut).sum()
        assert year == 3 or leaky.time.max() > when.min()  # the leak is there, unless nobody comes after the tested …
        own = [(log.user == u) & (np.arange(len(log)) >= t) for u, t in zip(cases.user, cases.target, strict=True)]
        kept = ~np.any(own, axis=0)
        np.testing.assert_array_equal(leaky.time, log.time[kept])  # … but no user's own future
        seen += cases.target.tolist()
    assert len(seen) == len(set(seen))  # no event is a test case twice


# ------------------------------------------------------------------------------------------------- the records


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    ch01.run(ch01.SCALES["smoke"], [0, 1], root=root)
    return root


def test_a_run_records_every_world_cell_of_the_claims(smoke):
    check_world_cells(1, load(ch01.NAME, smoke), (0, 1))


def test_a_second_run_repeats_nothing(smoke, capsys):
    before = load(ch01.NAME, smoke)
    ch01.run(ch01.SCALES["smoke"], [0, 1], root=smoke)
    assert "numbers in" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(load(ch01.NAME, smoke), before)


def test_recorded_numbers_are_those_of_evaluate(smoke):
    results = load(ch01.NAME, smoke)
    split = ch01.world(ch01.SCALES["smoke"], 1).simulate().leave_one_out()
    found = evaluate(ch01.count("itemknn", split.train), split.test, tie_seed=1).metrics()
    rows = results[(results.arm == "itemknn") & (results.seed == 1) & (results.setting == "") & results.x.isna()]
    recorded = rows.set_index("metric")["value"]
    for metric, value in found.items():
        assert recorded[f"test/{metric}"] == pytest.approx(value)


def test_worlds_that_differ_in_a_dial_are_measured_anew(smoke, monkeypatch, capsys):
    preset = AdWorldConfig.preset

    def quieter(name, **changes):
        return preset(name, **{"noise_rate": 0.01, **changes})

    monkeypatch.setattr(AdWorldConfig, "preset", quieter)
    config = ch01.Config(world="tiny", real=(), negatives=(), noise=(), sigma=())
    ch01.run(config, [0], root=smoke)
    assert "oracle · adworld · seed 0: " in capsys.readouterr().out


def test_the_record_holds_every_cell_of_the_claims():
    check_record_is_whole(1, ch01.NAME)


def test_the_record_is_of_the_world_as_it_is():
    """A dial of the world was moved and chapter 01 was not recorded again."""
    rows = load(ch01.NAME)
    for text in rows[rows.dataset == "adworld"].config.unique():
        then = json.loads(text)["world"]
        changes = {dial: then[dial] for dial in ("popularity_sigma", "noise_rate")}
        now = asdict(AdWorldConfig.preset(ch01.Config().world, **changes))
        assert then == now, "record it anew: make experiments CH=01"
