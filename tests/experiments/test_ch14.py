"""The experiment of chapter 14: a board read back by hand, power that is known, and what a run records."""

import math

import numpy as np
import pandas as pd
import pytest

from reclib.agents.analyst import Dials
from reclib.agents.metrics import pass_at_k, pass_hat_k
from reclib.agents.task_sets import tasks
from reclib.experiments import agent_runs as ar
from reclib.experiments import board
from reclib.experiments import ch14_adbench as ch14
from reclib.experiments.results import load
from tests.records import check_record_is_whole

SMOKE = ch14.SCALES["smoke"]

# ------------------------------------------------------------------ the board


def test_whole_numbers_come_back():
    counts = {model: board.recovered(row) for model, row in board.BOARD.items()}
    assert counts["Gemini-3-Pro"][:2] == ((56, 105, 43), (22, 43, 18))  # the spec sheet's, checked by others
    assert counts["o3"][:2] == ((62, 107, 38), (22, 43, 17))
    assert counts["GPT-5.1"][:2] == ((64, 94, 36), (23, 39, 20))
    assert counts["HY-2.0"][:2] == ((61, 99, 37), (21, 43, 18))
    assert counts["GLM-4.7"][:2] == ((52, 102, 40), (21, 43, 17))
    assert counts["DeepSeek-V3"][:2] == ((59, 105, 41), (21, 41, 18))
    assert counts["Kimi-K2"][:2] == ((60, 94, 38), (22, 40, 17))
    assert counts["Qwen3-235B"][:2] == ((57, 75, 31), (21, 34, 13))
    assert counts["Qwen3-32B"][:2] == ((36, 59, 19), (17, 30, 12))
    assert counts["Qwen3-8B"][:2] == ((37, 59, 18), (19, 29, 10))
    assert max(found.error for found in counts.values()) < 0.05
    wrong = ((68.0, 83.0), (77.8, 91.7), (74.5, 91.5), (50.4, 62.1))  # no multiple of 1 / 87
    assert board.recovered(wrong).error > 0.05
    with pytest.raises(ValueError, match="row: 2 cells for 3 levels"):
        board.recovered(((68.0, 83.0), (77.8, 91.7)))


def test_bounds_are_those_of_all_ways_to_spread_successes():
    for tasks_ in (1, 3, 4):
        seen: dict[tuple[int, int], set[int]] = {}
        for counts in np.ndindex(*[4] * tasks_):
            seen.setdefault((sum(counts), sum(c > 0 for c in counts)), set()).add(sum(c == 3 for c in counts))
        for (successes, solved), always in seen.items():
            assert board.always_bounds(successes, solved) == (min(always), max(always))
    with pytest.raises(ValueError, match="successes: 10 in 3 solved tasks cannot be"):
        board.always_bounds(10, 3)
    with pytest.raises(ValueError, match="runs: "):
        board.always_bounds(3, 3, runs=5)


def test_spectra_have_the_sums_they_were_made_for():
    for always in range(38, 61):
        counts = board.spectrum(204, 83, always, 100)
        assert (counts.sum(), (counts > 0).sum(), (counts == 3).sum(), len(counts)) == (204, 83, always, 100)
    with pytest.raises(ValueError, match="always: 61 does not fit"):
        board.spectrum(204, 83, 61, 100)


def test_a_bootstrap_interval_has_the_width_of_the_normal_one():
    counts = board.spectrum(204, 83, 50, 100)
    low, high = board.bootstrap(counts, np.random.default_rng(0))
    spread = counts.std() / 3 / 10
    assert low == pytest.approx(0.68 - 1.96 * spread, abs=0.01)
    assert high == pytest.approx(0.68 + 1.96 * spread, abs=0.01)


def test_skill_has_the_rates_it_was_made_for():
    skill = board.Skill.of(0.68, 0.83)
    chance = skill.draw((400_000,), np.random.default_rng(0))
    assert chance.mean() == pytest.approx(0.68, abs=0.003)
    assert (1 - (1 - chance) ** 3).mean() == pytest.approx(0.83, abs=0.003)
    for third in (0.6, 0.99):
        with pytest.raises(ValueError, match="third: "):
            board.Skill.of(0.68, third)


def test_power_is_the_level_without_a_difference_and_one_with_a_large_one():
    skill, rng = board.Skill.of(0.68, 0.83), np.random.default_rng(0)
    assert board.power(skill, 1e-9, 100, 3, rng)["paired"] == pytest.approx(0.025, abs=0.015)
    assert board.power(skill, 0.25, 300, 3, rng, 200)["paired"] > 0.99
    by = board.shift_for(skill, 0.1, rng)
    chance = skill.draw((100_000,), rng)
    assert (board.shifted(chance, by) >= chance - 1e-6).all()
    assert (board.shifted(chance, by) - chance).mean() == pytest.approx(0.1, abs=0.01)


def test_the_plug_in_is_biased_and_ours_is_not():
    found = board.estimators(board.Skill.of(0.68, 0.83), 100, 3, 3, np.random.default_rng(0))
    assert abs(found["pass@k/bias"]) < 0.004
    assert abs(found["pass^k/bias"]) < 0.004
    assert found["plug-in/bias"] < -0.02


# ------------------------------------------------------------------ agents


@pytest.fixture(scope="module")
def noisy():
    return ar.run(ar.AGENTS["noisy, .7"], 0, runs=3, agent_seed=1)


@pytest.mark.slow
def test_every_task_is_run_and_numbers_are_those_of_the_table(noisy):
    assert len(noisy) == 300
    assert set(noisy.task) == {task.id for task in tasks(0)}
    found = ar.reliability(noisy)
    c = noisy.groupby("task").correct.sum().to_numpy()
    assert found["pass@1"] == pytest.approx(noisy.correct.mean())
    assert found["pass@3"] == pytest.approx(pass_at_k(3, c, 3).mean())
    assert found["pass^3"] == pytest.approx(pass_hat_k(3, c, 3).mean())
    corners = ("right, covered", "right, not covered", "wrong, covered", "wrong, not covered")
    assert sum(found[corner] for corner in corners) == pytest.approx(1)
    spread = math.sqrt(0.21 / 300)
    assert found["pass@1"] == pytest.approx(0.7, abs=3.5 * spread)


@pytest.mark.slow
def test_confusion_adds_up_and_a_wrong_diagnosis_shows(noisy):
    found = ar.confusion(noisy)
    for kind in set(noisy.designed) - {""}:
        assert sum(value for name, value in found.items() if name.startswith(f"{kind} → ")) == pytest.approx(1)
    spoilt = noisy.assign(code="E7", detail="")
    assert ar.confusion(spoilt)["diagnosed"] == 0
    assert ar.confusion(noisy.assign(designed="")) == {}


def test_freshness_by_hand():
    rows = pd.DataFrame(
        {
            "kind": ["number", "number", "set", "text"], "moves": ["daily", "daily", "never", "never"],
            "correct": [1.0, 0.0, 1.0, 0.0], "static": [0.0, 0.0, 1.0, 0.0],
        }
    )  # fmt: skip
    assert ar.freshness(rows) == {
        "replayed/daily": 0.5, "static/daily": 0.0, "replayed/never": 1.0, "static/never": 1.0,
    }  # fmt: skip


def test_agents_are_what_their_names_say():
    assert ar.only("unit_slip", 0.5).dials == {"unit_slip": 0.5}
    assert sum(ar.AGENTS["noisy, .4"].dials.values()) == pytest.approx(0.6)
    assert set(ch14.KINDS) == set(Dials().each())
    assert ch14.later(1) == "2025-11-30"


@pytest.mark.slow
def test_a_run_that_ends_badly_is_an_error():
    with pytest.raises(ValueError, match="there is no scripted/nobody"):
        ar.run(ar.Agent("nobody"), 0, runs=1)


# ------------------------------------------------------------------ what a run records


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("ch14")
    ch14.run(SMOKE, [0], root=root)
    return root


@pytest.mark.slow
def test_a_run_records_everything(smoke):
    rows = load(ch14.NAME, smoke)
    assert set(rows.dataset) == {"board", "design", "adbench"}
    assert set(rows[rows.dataset == "board"].arm) == {*board.BOARD, "board"}
    agents = rows[rows.dataset == "adbench"]
    assert set(agents.setting) == {"", "dials", "later"}
    oracle = agents[(agents.arm == "oracle") & (agents.setting == "")].set_index("metric").value
    assert oracle[["pass@1", "multiset", "ordered", "result"]].tolist() == [1, 1, 1, 1]
    later = agents[agents.setting == "later"].set_index(["arm", "metric"]).value
    assert later["oracle", "replayed/daily"] == 1
    assert later["stale", "static/daily"] == 1
    assert later["oracle", "static/daily"] < 0.05


@pytest.mark.slow
def test_the_same_run_again_repeats_nothing(smoke, capsys):
    before = load(ch14.NAME, smoke)
    ch14.run(SMOKE, [0], root=smoke)
    assert "numbers in" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(load(ch14.NAME, smoke), before)


def test_an_unknown_data_set_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"datasets: there is no \['tau'\]; choose from adbench"):
        ch14.run(SMOKE, [0], root=tmp_path, datasets=["tau"])


def test_the_record_is_whole():
    check_record_is_whole(14, ch14.NAME)
