"""The experiment of chapter 04: what a run records, and whether the record is whole."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from reclib.data import Interactions
from reclib.experiments import ch04_semantic_ids as ch04
from reclib.experiments.results import load
from tests.records import check_record_is_whole, check_world_cells

pytestmark = pytest.mark.slow

SMOKE = ch04.SCALES["smoke"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "results"
    ch04.run(SMOKE, [0, 1], root=root)
    return root


def codes_of(rows, arm):
    rows = rows[(rows.setting == "codes") & (rows.arm == arm) & (rows.seed == 0)]
    return rows.set_index("metric").value


def test_a_run_records_every_arm(smoke):
    rows = load(ch04.NAME, smoke)
    (study,) = SMOKE.studies
    generated = rows[rows.metric == "test/ndcg@10"]
    for arm, generator in study.arms:
        assert set(generated[(generated.arm == arm) & (generated.setting == generator)].seed) == {0, 1}
    for arm in ("popularity", "transitions"):
        assert set(generated[(generated.arm == arm) & (generated.setting == "")].seed) == {0, 1}
    codes = rows[(rows.setting == "codes") & (rows.metric == "collision_rate")]
    assert set(codes.arm) == set(ch04.OURS)
    left = codes_of(rows, "rqkmeans")
    assert 1 > left["distortion@1"] > left["distortion@2"] > 0
    assert codes_of(rows, "random")["distortion@2"] > left["distortion@2"]
    assert set(rows[rows.metric == "beam/ndcg@10"].x) == set(map(float, SMOKE.beams))


def test_a_second_run_repeats_nothing_and_leaves_no_checkpoint(smoke, capsys):
    before = load(ch04.NAME, smoke)
    ch04.run(SMOKE, [0, 1], root=smoke)
    assert "numbers in" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(load(ch04.NAME, smoke), before)
    assert not list((smoke.parent / "runs" / ch04.NAME).glob("*"))


def test_random_codes_repeat_with_the_seed_and_differ_between_seeds():
    (study,) = SMOKE.studies
    train = ch04.load_log(study, 0).leave_one_out().train
    first, again, other = (ch04.semantic_ids(study, "random", train, seed).codes for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_old_steps_by_hand():
    histories = [[1, 2, 3, 4, 5], [2, 1, 4, 3, 4], [5, 4, 1, 2, 3]]  # the last two of each are held out
    user, item = np.repeat(np.arange(3), 5), np.concatenate(histories)
    log = Interactions(user, item, None, 5, pd.DataFrame(index=pd.RangeIndex(1, 6, name="item_id")))
    split = log.leave_one_out()
    # Trained on 1→2→3, 2→1→4 and 5→4→1; from one user's end to the next one's start is no step (3→2, 4→5).
    assert ch04.is_old(split.test, split.train).tolist() == [False, False, True]  # 4→5, 3→4, 2→3
    assert ch04.is_old(split.valid, split.train).tolist() == [False, False, True]  # 3→4, 4→3, 1→2


def test_old_and_new_cases_make_up_the_test(smoke):
    rows = load(ch04.NAME, smoke)
    rows = rows[(rows.arm == "transitions") & (rows.seed == 0)].set_index("metric").value
    assert rows["old/share"] + rows["new/share"] == pytest.approx(1)
    whole = sum(rows[f"{part}/share"] * rows[f"{part}/ndcg@10"] for part in ("old", "new"))
    assert whole == pytest.approx(rows["test/ndcg@10"])


def test_a_run_records_every_world_cell_of_the_claims(smoke):
    check_world_cells(4, load(ch04.NAME, smoke), [0, 1])


def test_the_shipped_record_is_whole():
    check_record_is_whole(4, ch04.NAME)


@pytest.mark.parametrize(("arm", "setting"), ch04.KEPT)
def test_the_kept_weights_ship_and_are_small(arm, setting):
    path = ch04.kept_weights(arm, setting)
    assert path.stat().st_size < 4 * 2**20
    assert all(torch.isfinite(weight).all() for weight in load_file(path).values())
