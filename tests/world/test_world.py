"""The world as a whole: same seed, same bytes; a dial moves what it names; nothing is lost on disk."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from reclib.data.interactions import Interactions
from reclib.world import AdWorld, AdWorldConfig

pytestmark = pytest.mark.slow

FINGERPRINT = """
import hashlib
from reclib.world import AdWorld, AdWorldConfig
world = AdWorld(AdWorldConfig.preset("tiny", seed=3))
log = world.simulate()
digest = hashlib.sha256()
for array in [log.user, log.item, log.time, *(log.extra[k] for k in sorted(log.extra)), world.catalogue.image,
              world.catalogue.vector, world.users.taste, world.trace.weight, world.trace.final.strength]:
    digest.update(array.tobytes())
digest.update(log.items.to_csv().encode())
digest.update(" ".join(world.catalogue.summary).encode())
print(digest.hexdigest())
"""


def fingerprint():
    """The same in this process."""
    scope: dict = {}
    printed: list[str] = []
    exec(FINGERPRINT.replace("print(", "out("), {**scope, "out": printed.append})
    return printed[0]


def test_same_seed_same_bytes_also_in_a_fresh_process():
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    fresh = subprocess.run(
        [sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True, env=environment
    )
    assert fresh.stdout.strip() == fingerprint() == fingerprint()


def test_another_seed_is_another_world(tiny):
    other = AdWorld(AdWorldConfig.preset("tiny", seed=1))
    assert not np.array_equal(other.catalogue.vector, tiny.catalogue.vector)
    assert not np.array_equal(other.simulate().item[:100], tiny.simulate().item[:100])


def test_the_global_random_state_is_neither_used_nor_touched():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    a = AdWorld(AdWorldConfig.preset("tiny")).simulate().item
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert (AdWorld(AdWorldConfig.preset("tiny")).simulate().item == a).all()


def test_users_do_not_depend_on_how_many_there_are(tiny):
    """A smaller world of the same seed has the same ads."""
    small = AdWorld(AdWorldConfig.preset("tiny", n_users=50))
    assert small.catalogue.table.equals(tiny.catalogue.table)


def test_round_trip_through_parquet_loses_nothing(tiny, tmp_path):
    log = tiny.simulate()
    log.to_parquet(tmp_path / "log")
    back = Interactions.from_parquet(tmp_path / "log")
    for name in ("user", "item", "time", "user_ids"):
        a, b = getattr(log, name), getattr(back, name)
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    assert list(back.extra) == list(log.extra)
    for key in log.extra:
        assert back.extra[key].dtype == log.extra[key].dtype
        assert back.extra[key].tobytes() == log.extra[key].tobytes()
    pd.testing.assert_frame_equal(back.items, log.items)
    assert (back.n_items, back.name) == (log.n_items, log.name)
    digest = [hashlib.sha256(np.ascontiguousarray(s.leave_one_out().train.item)).hexdigest() for s in (log, back)]
    assert digest[0] == digest[1]


def test_a_log_without_times_or_names_survives_parquet_too(tmp_path):
    log = Interactions(
        user=np.array([0, 0, 1]), item=np.array([1, 2, 2]), time=None, n_items=2,
        items=pd.DataFrame({"title": ["a", None]}, index=pd.RangeIndex(1, 3, name="item_id")),
        user_ids=np.array(["ann", "bo"]),
    )  # fmt: skip
    log.to_parquet(tmp_path)
    back = Interactions.from_parquet(tmp_path)
    assert back.time is None
    assert back.extra == {}
    assert back.user_ids.tolist() == ["ann", "bo"]
    assert back.user_ids.dtype == log.user_ids.dtype
    assert back.items["title"].tolist()[0] == "a"
    with pytest.raises(ValueError, match=r"folder: .*events\.parquet does not exist"):
        Interactions.from_parquet(tmp_path / "elsewhere")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "events.parquet")
    with pytest.raises(ValueError, match="was not written by"):
        Interactions.from_parquet(tmp_path)


# ------------------------------------------------------------------------------------- a dial moves what it names


def same(a, b, names):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def test_the_noise_dial_moves_nothing_but_accidents():
    """Ads, people and lengths are the same bytes; the mix of genuine sources and the gaps have the same law."""
    quiet, noisy = (AdWorld(AdWorldConfig(n_users=600, n_items=4800, noise_rate=r)) for r in (0.05, 0.35))
    assert quiet.catalogue.table.equals(noisy.catalogue.table)
    assert same(quiet.catalogue, noisy.catalogue, ["vector", "image", "exposure", "persona", "bid"])
    assert same(quiet.users, noisy.users, ["gender", "age_band", "persona", "taste", "community", "interest_logits"])
    assert np.array_equal(quiet.offsets, noisy.offsets)
    shares = []
    for world in (quiet, noisy):
        source = world.trace.source[(world.trace.source != 4) & (world.trace.intent_before >= 0)]
        # own and returned together: how often an interest is used decides how often it is fresh from sleep
        shares.append(np.bincount(np.where(source == 3, 0, source), minlength=3)[:3] / len(source))
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    clicks = [w.simulate().extra["noise"].mean() for w in (quiet, noisy)]
    assert clicks == pytest.approx([0.05, 0.35], abs=0.015)


@pytest.mark.parametrize("change", [{"base_ctr": 0.02}, {"base_cvr": 0.2}, {"bid_median": 200}, {"bid_sigma": 0.1}])
def test_money_dials_leave_the_log_alone(tiny, change):
    world = AdWorld(AdWorldConfig.preset("tiny", **change))
    a, b = tiny.simulate(), world.simulate()
    assert (a.item == b.item).all()
    assert (a.time == b.time).all()
    assert (a.extra["source"] == b.extra["source"]).all()


def test_base_ctr_scales_all_odds(tiny):
    world = AdWorld(AdWorldConfig.preset("tiny", base_ctr=0.02))
    users, items = np.arange(100), np.arange(1, 101)
    p, q = tiny.click_probability(users, items), world.click_probability(users, items)
    assert q / (1 - q) == pytest.approx(4 * p / (1 - p))


def test_popularity_sigma_moves_inequality():
    share = []
    for sigma in (0.0, 0.7, 1.5):
        world = AdWorld(AdWorldConfig(n_users=200, popularity_sigma=sigma, quality_strength=0))
        count = np.sort(np.bincount(world.simulate().item, minlength=1201)[1:])[::-1]
        share.append(count[:120].sum() / count.sum())
    assert share[0] < share[1] < share[2]


@pytest.mark.parametrize("name", ["taste", "persona", "appeal", "community"])
def test_strengths_move_preferences_inside_topics_only(name):
    """Without any strength everybody likes the same ads; topics are drawn the same way."""
    off = dict.fromkeys(
        [
            f"{n}_strength"
            for n in ("taste", "persona", "appeal", "selling", "price", "audience", "quality", "community")
        ],
        0.0,
    )
    flat = AdWorld(AdWorldConfig.preset("tiny", **off))
    one = AdWorld(AdWorldConfig.preset("tiny", **{**off, f"{name}_strength": 2.0}))
    assert np.ptp(flat.affinity.rows(np.arange(300))[:, 1:]) == 0
    assert np.ptp(one.affinity.rows(np.arange(300))[:, 1:]) > 1
    state = flat.state(np.arange(5))
    assert flat.truth.topic_distribution(state) == pytest.approx(one.truth.topic_distribution(state))


# ------------------------------------------------------------------------------------------------------- presets


def test_presets_have_their_sizes(tiny, book, lifelong):
    assert len(tiny.simulate()) == pytest.approx(300 * 20, rel=0.05)
    assert len(book.simulate()) == pytest.approx(1000 * 50, rel=0.05)
    assert lifelong.simulate().lengths.min() >= 1000
    large = AdWorldConfig.preset("large")
    assert large.n_users * large.mean_events >= 1_000_000


def test_extra_arrays_are_small_and_typed(book):
    extra = book.simulate().extra
    assert {k: v.dtype.name for k, v in extra.items()} == {
        "source": "int8", "noise": "bool", "intent": "int16", "topic": "int16", "mission_start": "bool",
        "session_position": "int16", "click_probability": "float32",
    }  # fmt: skip


def test_the_world_introduces_itself(tiny):
    assert repr(tiny.catalogue) == "Catalogue(120 ads in 12 topics)"
    assert repr(tiny.users) == "Users(300)"
