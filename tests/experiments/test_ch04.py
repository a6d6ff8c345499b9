"""The experiment of chapter 04: what a run records, and whether the record is whole."""

import pandas as pd
import pytest
import torch

from reclib.experiments import ch04_semantic_ids as ch04
from reclib.experiments.results import load
from reclib.tokenizers import RQKMeans, RQKMeansConfig

pytestmark = pytest.mark.slow

SMOKE = ch04.SCALES["smoke"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "results"
    ch04.run(SMOKE, [0, 1], root=root)
    return root


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
    left = rows[(rows.metric == "left") & (rows.seed == 0)].sort_values("x").value.tolist()
    assert 1 > left[0] > left[1] > 0
    assert set(rows[rows.metric == "beam/ndcg@10"].x) == set(map(float, SMOKE.beams))


def test_a_second_run_repeats_nothing_and_leaves_no_checkpoint(smoke, capsys):
    before = load(ch04.NAME, smoke)
    ch04.run(SMOKE, [0, 1], root=smoke)
    assert "numbers in" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(load(ch04.NAME, smoke), before)
    assert not list((smoke.parent / "runs" / ch04.NAME).glob("*"))


def test_what_is_left_after_each_level_by_hand():
    """Two well-parted pairs: the first level finds the pairs, the second what is inside them."""
    vectors = torch.tensor([[0.0, 1], [0, -1], [10, 1], [10, -1]])
    tokenizer = RQKMeans(RQKMeansConfig(levels=2, codes=2)).fit(vectors)
    assert ch04.left_after(vectors, tokenizer) == pytest.approx([4 / 104, 0], abs=1e-6)


def test_random_codes_repeat_with_the_seed_and_differ_between_seeds():
    (study,) = SMOKE.studies
    train = ch04.load_log(study, 0).leave_one_out().train
    first, again, other = (ch04.semantic_ids(study, "random", train, seed).codes for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
