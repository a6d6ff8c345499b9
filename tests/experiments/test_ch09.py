"""The experiment of chapter 9: texts that say what is true, a teacher that errs, and what a run records."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from reclib.experiments import ch09_reasoning_to_rank as ch09
from reclib.experiments import rank_training as rt
from reclib.experiments import rationales as ra
from reclib.experiments.results import load
from reclib.reasoning.plackett_luce import ndcg_of_scores
from reclib.reasoning.reasoning_to_rank import read_answer
from tests.records import check_record_is_whole, check_world_cells

SMOKE = ch09.SCALES["smoke"]


@pytest.fixture(scope="module")
def reading():
    return ra.make_reading(ra.ReadingConfig(users=300, items=160, size=8, train=40, test=30), 3)


@pytest.fixture(scope="module")
def pairs(reading):
    rng = np.random.default_rng(0)
    users, items = rng.integers(300, size=400), rng.integers(1, 161, size=400)
    return users, items, ra.true_findings(reading.world, users, items)


# ------------------------------------------------------------------ texts


def test_findings_follow_from_the_texts_alone(reading, pairs):
    """Read back by a rule that sees nothing of the world but what follows a topic."""
    for user, item, found in zip(*pairs, strict=True):
        gender, saves, likes, _, *rest = reading.users[user].split()
        wants, now = rest[: rest.index("now")], rest[rest.index("now") + 1]
        topic, price, audience, promise = reading.ads[item - 1].split()
        gap = abs(ra.words.PRICE_BANDS.index(price) - (2 - ra.words.PRICE_SENSITIVITY.index(saves)))
        assert found[0] == (audience != {"woman": "men", "man": "women"}[gender])
        assert found[1] == 2 - gap
        assert found[2] == (promise == likes)
        assert found[3] == (topic in wants)
        assert found[4] == (topic == now)
        assert found[5] == (topic == reading.after[user])


def test_each_finding_takes_all_its_values(pairs):
    for column, levels in zip(pairs[2].T, ra.LEVELS, strict=True):
        assert set(column.tolist()) == set(range(levels))


def test_rationales_are_read_back(reading, pairs):
    users, _, found = pairs
    for user, values in zip(users, found, strict=True):
        text = ra.rationale(values, reading.after[user])
        assert ra.read_rationale(text, reading.after[user]) == tuple(values)
        assert read_answer(text, ra.TAG) is bool(ra.verdict(values))
        assert len(ra.vocabulary().encode(text)) == rt.DUMMY - 1  # and the end


def test_broken_rationales_are_no_findings():
    assert ra.read_rationale("", "tea") == (None,) * 6
    assert ra.read_rationale("because audience audience price", "tea")[:2] == (None, None)
    assert ra.read_rationale("next coffee yes", "tea")[5] is None  # says yes of the wrong topic
    assert ra.read_rationale("next tea", "tea")[5] is None
    assert ra.read_rationale("next tea yes", "tea")[5] == 1


def test_a_teacher_errs_as_often_as_it_should(pairs):
    found = np.tile(pairs[2], (20, 1))
    noted = ra.mistaken(found, 0.2, np.random.default_rng(1))
    assert (noted != found).mean() == pytest.approx(0.2, abs=0.01)
    assert ((noted >= 0) & (noted < np.array(ra.LEVELS))).all()
    assert np.array_equal(ra.mistaken(found, 0.0, np.random.default_rng(1)), found)
    with pytest.raises(ValueError, match=r"noise: 1\.2 is no probability"):
        ra.mistaken(found, 1.2, np.random.default_rng(1))


def test_no_prompt_knows_a_place(reading):
    lists = reading.test.take(slice(0, 3))
    order = np.random.default_rng(0).permutation(lists.items.shape[1])
    moved = lists._replace(items=lists.items[:, order])
    assert [[row[k] for k in order] for row in reading.prompts(lists)] == reading.prompts(moved)


# ------------------------------------------------------------------ lists


def test_lists_hold_what_the_law_has_drawn(reading):
    lists = ra.draw_lists(reading.world, np.full(4000, 7), 5, np.random.default_rng(0))
    law = reading.world.next_item_distribution(np.array([7]))[0, 1:]
    target = lists.items[np.arange(4000), lists.positive] - 1
    drawn = np.bincount(target, minlength=160) / 4000
    assert np.abs(drawn - law).sum() < 0.2
    assert all(len(set(row)) == 5 for row in lists.items.tolist())
    assert (lists.law > 0).all()  # nobody is shown what they have clicked
    assert np.bincount(lists.positive, minlength=5).min() > 4000 / 5 * 0.85
    assert_close(lists.law, law[lists.items - 1])


def test_the_law_is_the_best_score(reading):
    rng = np.random.default_rng(1)
    lists = ra.draw_lists(reading.world, rng.integers(300, size=3000), 8, rng)
    best, flat = (
        float(ndcg_of_scores(torch.from_numpy(lists.law**power), torch.from_numpy(lists.positive), 10).mean())
        for power in (1.0, 0.0)
    )
    other = float(
        ndcg_of_scores(
            torch.from_numpy(lists.law * rng.lognormal(0, 0.7, lists.law.shape)), torch.from_numpy(lists.positive), 10
        ).mean()
    )
    assert best > other + 0.01 > flat + 0.05


def test_users_of_the_test_are_unknown(reading):
    assert not set(reading.test.user) & set(reading.train_users)
    assert set(reading.train.user) <= set(reading.train_users)


# ------------------------------------------------------------------ models


def test_every_kept_lesson_ends_with_what_happened(reading):
    lessons = rt.teach(reading, ch09.Config().thinker, 0)
    for row in lessons.kept.rows:
        assert read_answer(lessons.texts[row], ra.TAG) is lessons.clicked[row]
    assert (lessons.kept.yes, lessons.kept.no) == (1_000, 2_000)


def test_drills_learn_answers_only(reading):
    model = rt.TinyLM(ra.vocabulary(), SMOKE.thinker.model)
    for text in rt.drills(reading, SMOKE.thinker, model, 0)[:20]:
        said = [model.decode([token]) for token, learnt in zip(text.ids, text.learnt, strict=True) if learnt]
        assert len(said) in range(4, 6)  # four questions, one of which may have two words
        assert not set(said) & {*ra.FINDINGS, ":", "|"}


def test_shuffling_moves_a_listwise_score_and_no_pointwise_one(reading):
    some, rng = reading.test.take(slice(0, 6)), np.random.default_rng(0)
    by_place = rt.order_dependence(lambda u, i: torch.arange(8.0).flip(0).expand(i.shape), some, 5, rng)
    by_item = rt.order_dependence(lambda u, i: torch.from_numpy(i).double(), some, 5, rng)
    assert by_place["first place"] == 1
    assert by_place["first changes"] > 0.3
    assert by_place["ndcg deviation"] > 0.05
    assert by_item["ndcg deviation"] < 1e-12
    assert by_item["first changes"] == 0


def test_a_regression_on_true_findings_is_near_the_law(reading):
    rng = np.random.default_rng(2)
    lists = ra.draw_lists(reading.world, rng.choice(reading.train_users, 1500), 8, rng)
    found = rt.Regression(reading._replace(train=lists)).score(reading, reading.test)
    quality = rt.list_quality(found, reading.test)
    assert quality["ndcg@10"] > 0.8 * rt.list_quality(torch.from_numpy(reading.test.law).log(), reading.test)["ndcg@10"]


def test_true_chances_have_no_distance_from_themselves(reading):
    assert rt.list_quality(torch.from_numpy(reading.test.law).log(), reading.test)["law"] == pytest.approx(0, abs=1e-12)


def test_an_unknown_loss_is_named(reading):
    ranker = rt.build(rt.ARMS["head only"], rt.TinyLM(ra.vocabulary(), SMOKE.thinker.model), SMOKE.thinker, 0)
    lists = rt.encoded(ranker.model, reading, reading.train)
    with pytest.raises(ValueError, match="loss: there is no 'hinge'; choose from exact, softmax"):
        rt.train_by_loss(ranker, lists, SMOKE.thinker.training, 0, "hinge")


@pytest.mark.parametrize("arm", list(ch09.ESTIMATORS))
def test_estimates_are_unbiased(arm):
    config = ch09.Config(vectors=2, repeats=20_000)
    assert ch09._estimates(arm, config, 4, 0)["bias"] < {"reinforce": 0.2, "leave one out": 0.07, "pl-rank": 0.04}[arm]


# ------------------------------------------------------------------ the record


def test_a_run_records_what_the_claims_need_and_goes_on_where_it_stopped(tmp_path, capsys):
    root = tmp_path / "results"
    ch09.run(SMOKE, [0], root=root, datasets=["scores", "clicks"])
    before = len(load(ch09.NAME, root))
    ch09.run(SMOKE, [0], root=root)
    assert "bayes · adworld · all seeds: recorded before, skipped" in capsys.readouterr().out
    results = load(ch09.NAME, root)
    assert len(results) > before
    check_world_cells(9, results, [0])
    ranker = ch09.kept_ranker(SMOKE, root)
    reader = rt.TinyLM.load(ch09.kept_weights("reader", root))
    assert reader.encode("because") == ranker.model.encode("because")
    here = ch09.reading_of(SMOKE.reading, 0)
    value = rt.ranking_quality(ranker, here, here.test)["ndcg@10"]
    kept = results[(results["arm"] == "item credit") & (results["metric"] == "ndcg@10")]["value"]
    assert value == pytest.approx(float(kept.iloc[0]), abs=1e-6)


def test_unknown_data_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"datasets: there is no \['games'\]; choose from scores, clicks"):
        ch09.run(SMOKE, [0], root=tmp_path, datasets=["games"])


def test_the_record_is_whole():
    check_record_is_whole(9, ch09.NAME)
