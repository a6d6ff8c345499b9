"""The experiment of chapter 10: tasks that leak nothing, drills, teachers and students by hand, what a run records."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from reclib.data import Interactions
from reclib.experiments import ch10_star as ch10
from reclib.experiments import ranking_tasks as rt
from reclib.experiments import reading_drills as rd
from reclib.experiments import star_students as ss
from reclib.experiments.results import load
from reclib.language import TinyLM
from reclib.reasoning.collaborative_text import NO_ENTRY
from reclib.reasoning.mars import COLLABORATIVE, Call, Mars, RuleReasoner, Run, recommendation
from reclib.reasoning.star import Answer, Star, StarConfig, Update, sft_example
from reclib.reasoning.trajectory import LETTERS, check_format, read_prompt, tier_reward
from tests.records import check_record_is_whole

SMOKE = ch10.SCALES["smoke"]


@pytest.fixture(scope="module")
def tasks():
    return rt.RankingTasks(SMOKE.tasks, 3)


@pytest.fixture(scope="module")
def lessons(tasks):
    return ss.teach(tasks, ss.Team(), 0.2, 80)


# ------------------------------------------------------------------ tasks


def test_no_text_knows_a_target(tasks):
    """Oracle 5: without all that the tasks ask for, the log and every text of the tools are the same."""
    events, held = tasks.events, np.zeros(len(tasks.events), dtype=bool)
    held[tasks.event] = True
    kept = np.flatnonzero(~held)
    shorter = Interactions(
        user=events.user[kept], item=events.item[kept], time=None, n_items=events.n_items, items=events.items
    )
    without = copy.copy(tasks)
    for name in ("store", "counts", "topic_counts", "long", "features"):
        without.__dict__.pop(name, None)
    without.events, without.known = shorter, tasks.known[kept]
    without.log = without._log()
    without.chosen = rt.choices(without.log, tasks.config.users)
    without.events = tasks.events  # the catalogue's texts are read from there
    assert without.store.entries == tasks.store.entries
    leaking = copy.copy(without)
    for name in ("store", "counts", "topic_counts", "long"):
        leaking.__dict__.pop(name, None)
    leaking.chosen = rt.choices(tasks.events, tasks.config.users)
    assert leaking.store.entries != tasks.store.entries  # so the comparison can fail


def test_every_task_has_its_target_once_and_nothing_clicked_before(tasks):
    assert (np.sort(tasks.candidates, 1)[:, 1:] != np.sort(tasks.candidates, 1)[:, :-1]).all()
    assert ((tasks.candidates == tasks.target[:, None]).sum(1) == 1).all()
    place = (tasks.candidates == tasks.target[:, None]).argmax(1)
    assert np.bincount(place, minlength=20).min() > 0
    for i in range(0, len(tasks.event), 97):
        before = tasks.events.item[tasks.events.offsets[tasks.user[i]] : tasks.event[i]]
        assert not set(before.tolist()) & set(tasks.candidates[i].tolist())
    for task, i in zip(tasks.tasks(tasks.test), tasks.test, strict=True):
        candidate = read_prompt(task.prompt).candidates[LETTERS.index(task.target)]
        assert candidate.ad == tasks.names[tasks.target[i]]


def test_scenarios_are_what_they_say(tasks):
    for i in range(len(tasks.event)):
        shown = [item for item in tasks.recent[i] if item]
        scenario = tasks.scenario[i]
        assert not tasks.cold_item[shown].any()
        latest = tasks.world.catalogue.topic[tasks.recent[i, -1]]
        drifted = latest not in tasks.long[tasks.user[i]][:2]
        if scenario == "cold user":
            assert len(shown) <= 2
            assert tasks.chosen[tasks.user[i]].sum() <= 2
        elif scenario == "cold item":
            assert tasks.cold_item[tasks.target[i]]
            assert tasks.store("item_cf", tasks.names[tasks.target[i]]) == NO_ENTRY
        elif scenario in ("classic", "drift, long", "drift, short"):
            assert drifted == (scenario != "classic")
            assert not tasks.cold_item[tasks.target[i]]
    test_users, train_users = tasks.user[tasks.test], tasks.user[tasks.train]
    assert not set(test_users.tolist()) & set(train_users.tolist())


def test_the_metric_knows_right_wrong_and_random(tasks):
    """Oracle 9."""
    index = np.arange(len(tasks.target))
    truth = (tasks.candidates == tasks.target[:, None]).astype(float)
    assert rt.hit_rates(tasks.ranks(index, truth)) == {"hr@1": 1, "hr@3": 1, "hr@5": 1, "hr": 1}
    assert rt.hit_rates(tasks.ranks(index, -truth))["hr"] == 0
    rank = np.random.default_rng(0).integers(1, 21, 40_000)
    per_task = np.array([tier_reward(r) for r in rank.tolist()])
    assert rt.hit_rates(rank)["hr"] == pytest.approx(per_task.mean())
    assert per_task.mean() == pytest.approx(0.15, abs=3 * per_task.std() / 200)
    assert rt.hit_rates(np.array([0, 0, 1]))["hr@5"] == pytest.approx(1 / 3)  # 0: no answer


def test_the_order_of_candidates_does_not_matter_to_who_reads_only_texts(tasks):
    """Oracle 9: the score of a text is the same under any letter; ties aside, so is the ranking."""
    one = tasks.tasks(tasks.test)
    other = tasks.tasks(tasks.test, np.random.default_rng(5))
    mars = ss.teacher(tasks, ss.Team(), 0.0)
    rates = []
    for given in (one, other):
        rankings = [recommendation(mars.solve(task), LETTERS) for task in given]
        rates.append([tier_reward(r) for r in ss.ranks_of(given, rankings).tolist()])
    assert [task.prompt for task in one] != [task.prompt for task in other]
    difference = np.array(rates[0]) - np.array(rates[1])
    assert abs(difference.mean()) <= 3 * difference.std() / len(difference) ** 0.5
    firsts = [
        {
            c.ad
            for c in read_prompt(task.prompt).candidates
            if c.letter == (recommendation(mars.solve(task), LETTERS) or "")[0]
        }
        for given in (one, other)
        for task in given
    ]
    same = np.mean([a == b for a, b in zip(firsts[: len(one)], firsts[len(one) :], strict=True)])
    assert same > 0.5


def test_the_true_law_is_the_best_and_counts_help_the_regression():
    tasks = rt.RankingTasks(replace(rt.TaskConfig(), users=1500, test=60), 5)
    rates = {
        name: rt.hit_rates(tasks.ranks(tasks.test, ch10.control(name, tasks, tasks.test)))["hr"]
        for name in ch10.CONTROLS
    }
    assert max(rates, key=rates.get) == "true law"
    assert rates["random"] == pytest.approx(0.15, abs=0.06)
    assert rates["logistic"] > rates["logistic, no counts"] > rates["random"]
    assert tasks.features.shape == (len(tasks.target), 20, len(rt.FEATURES))
    assert set(rt.FROM_COUNTS) < set(rt.FEATURES)


def test_too_few_tasks_are_named():
    with pytest.raises(ValueError, match="test: 500 tasks of 'classic' are wanted, but there are"):
        rt.RankingTasks(replace(SMOKE.tasks, test=500), 0)


def test_one_vocabulary_serves_every_world():
    model = rd.new_reader(SMOKE.reader)
    for seed in (0, 1):
        tasks = rt.RankingTasks(SMOKE.tasks, seed)
        for text in tasks.store.entries.values():
            model.encode(text)
        lessons = ss.teach(tasks, ss.Team(), 0.3, 40)
        for task, text in zip(lessons.tasks, lessons.texts, strict=True):
            assert len(sft_example(model, task, text).ids) <= ch10.SCALES["full"].reader.model.context
    with pytest.raises(ValueError, match="is not in the vocabulary"):
        model.encode("sofas_99")


# ------------------------------------------------------------------ drills


@pytest.mark.parametrize("skill", rd.SKILLS)
def test_drills_are_answered_right(skill, tasks):
    candidates = read_prompt(tasks.tasks([0])[0].prompt).candidates
    others = [name for name in tasks.names[1:] if name not in {c.ad for c in candidates}][:6]
    rng, recent = np.random.default_rng(0), [("tea_03", "tea"), ("sofas_12", "sofas")]
    for _ in range(40):
        line = rd.drill_line(skill, recent, candidates, others, 6, rng)
        question, answer = line.question.split()[1:], line.answer.split()
        letters = [word for word in answer if word in LETTERS]
        if skill in ("in", "has", "for"):
            value = {"in": "topic", "has": "selling", "for": "audience"}[skill]
            assert letters == [c.letter for c in candidates if getattr(c, value) == question[0]]
            assert answer[-1] == "."
        elif skill == "among":
            letter = {c.ad: c.letter for c in candidates}
            assert answer == [word for ad in question[:-1] for word in (ad, letter.get(ad, "."))]
            assert len(question) == 7
        elif skill == "last":
            assert answer == ["sofas_12", "sofas"]
        elif skill == "long":
            first, second = question[0], question[2]
            assert letters == [c.letter for topic in (first, second) for c in candidates if c.topic == topic]
            assert " ".join(answer).startswith(first)
            assert answer[-2:] == [second, "."]
        else:
            asked = [word for word in question if word in LETTERS]
            assert sorted(letters) == sorted(LETTERS)
            counts = [asked.count(letter) for letter in letters]
            assert counts[:5] == sorted((asked.count(letter) for letter in LETTERS), reverse=True)[:5]
            assert letters[5:] == sorted(letters[5:])
    with pytest.raises(ValueError, match="skill: 'sing' is unknown"):
        rd.drill_line("sing", recent, candidates, others, 6, rng)


def test_drills_teach_answers_only_and_nothing_of_a_trajectory():
    model = rd.new_reader(SMOKE.reader)
    text, skills = rd.drill(model, SMOKE.reader, np.random.default_rng(0))
    assert [skill != "" for skill in skills] == text.learnt
    assert len(text.ids) <= SMOKE.reader.model.context
    said = model.decode(text.ids)
    assert "<" not in said
    assert said.startswith("recent ")
    again, _ = rd.drill(model, SMOKE.reader, np.random.default_rng(0))
    assert again == text


def test_a_new_reader_looks_for_equal_words_and_the_word_before():
    config = rd.ReaderConfig(steps=1)
    model = rd.new_reader(config)
    block, heads = model.blocks[0], config.model.heads
    words = "sofas coffee jackets sofas lipsticks among last has coffee in for women men sneakers durable fast"
    x = block.attention_norm(model._embed(torch.tensor([model.encode(words)])))
    q, k, _ = block.qkv(x).view(len(words.split()), 3, heads, -1).permute(1, 2, 0, 3)
    score = q @ k.transpose(-1, -2)
    assert score[1:, 3, 0].min() > score[1:, 3, 1:3].max()  # sofas finds sofas
    before = score[0].masked_fill(torch.ones_like(score[0]).triu(1).bool(), -torch.inf).argmax(-1)
    assert before[1:].tolist() == list(range(len(words.split()) - 1))
    assert sum(p.numel() for p in model.parameters()) * 4 < 2_000_000  # two of them fit the 4 MB of checkpoints


def test_a_tag_starts_as_the_word_in_its_place():
    model = rd.new_reader(SMOKE.reader)
    row = {word: model.encode(word)[0] for word in ("<recommend>", "are", "<plan>")}
    before = model.tokens.weight.detach().clone()
    rd.name_tags(model)
    assert torch.equal(model.tokens.weight[row["<recommend>"]], before[row["are"]])
    changed = (model.tokens.weight != before).any(1).nonzero()[:, 0].tolist()
    assert changed == [row["<recommend>"]]


def test_quality_of_a_reader_who_knows_nothing_is_low_and_by_skill():
    found = rd.reading_quality(rd.new_reader(SMOKE.reader), SMOKE.reader, 4)
    assert set(found) == {*rd.SKILLS, "drills"}
    assert found["drills"] < 0.1


# ------------------------------------------------------------------ teachers and students


def test_teams_read_what_they_should(tasks):
    assert not any(key[0] in COLLABORATIVE for key in ss.store_of(tasks, ss.TEAMS[", no CF"]).entries)
    placebo = ss.store_of(tasks, ss.TEAMS[", placebo CF"])
    same = [placebo.entries[key] == text for key, text in tasks.store.entries.items() if key[0] == "user_cf"]
    assert np.mean(same) < 0.3
    assert all(placebo.entries[key] == text for key, text in tasks.store.entries.items() if key[0] == "profile")
    task = tasks.tasks(tasks.test[:1])[0]
    assert "_cf" not in ss.teacher(tasks, ss.TEAMS[", no CF"], 0.0).solve(task).text
    assert "reflection" not in ss.teacher(tasks, ss.TEAMS[", no reflection"], 0.0).solve(task).text


def test_the_filter_keeps_runs_whose_first_is_the_target(lessons):
    for task, text, kept in zip(lessons.tasks, lessons.texts, lessons.kept, strict=True):
        assert kept == (check_format(text, LETTERS)[0] == task.target)
    assert 0 < lessons.kept.mean() < 0.6
    expected = {"easy": lessons.rank == 1, "medium": (lessons.rank > 1) & (lessons.rank <= 5), "hard": lessons.rank > 5}
    for level, rows in expected.items():
        assert [d == level for d in lessons.difficulty] == rows.tolist()


def test_ranks_and_votes_by_hand():
    task = rt.Task("1", "", "C", "0")
    abc, bca = [*LETTERS], ["C", "B", "A", *LETTERS[3:]]
    assert ss.ranks_of([task] * 3, [abc, bca, None]).tolist() == [3, 1, 0]
    run = lambda letters: Run("0", f"<recommend> {' '.join(letters)} </recommend>", ())  # noqa: E731
    broken = Run("0", "<plan> x", ())
    assert ss.votes([[run(abc), run(bca), run(bca)], [broken, run(bca)], [broken]]) == [bca, bca, None]


def test_behaviour_by_hand(tasks):
    given = tasks.tasks(tasks.test[:3])
    texts = [Mars(RuleReasoner(), tasks.store).solve(task).text for task in given]
    answers = [
        Answer(list(LETTERS), texts[0], "", 4, 50),
        Answer(["T", *LETTERS[:-1]], texts[1], "", 2, 30),
        Answer(None, "<plan>", "never ends", 0, 10),
    ]
    found = ss.behaviour(given, answers, np.array([1, 4, 0]))
    assert found["valid"] == pytest.approx(2 / 3)
    assert found["calls"] == 2
    assert found["words"] == 30
    assert found["sound"] == 1
    assert found["first quarter"] == 0.5
    assert found["hr/without user_cf"] < 1
    profile = texts[0].split("likes ")[1].split()[0]
    other = next(word for word in rt.words.SELLING_POINTS if word != profile)
    liar = answers[0]._replace(text=texts[0].replace(f"wants {profile}", f"wants {other}"))
    assert ss.behaviour(given[:1], [liar], np.array([1]))["sound"] == 0


def test_filtered_or_not_students_take_as_many_steps_and_leave_the_reader_alone(lessons):
    reader = rd.new_reader(SMOKE.reader)
    before = [weight.clone() for weight in reader.parameters()]
    models = [ss.fine_tune(reader, lessons, filtered, SMOKE.student, 0, progress=False) for filtered in (True, False)]
    assert all(torch.equal(a, b) for a, b in zip(before, reader.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    again = ss.fine_tune(reader, lessons, True, SMOKE.student, 0, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), again.parameters(), strict=True))


def test_reinforcement_draws_the_mix_and_leaves_the_reference_alone(tasks, lessons, monkeypatch):
    reader, drawn = rd.new_reader(SMOKE.reader), []

    def update(self, given, generator=None):
        drawn.append([lessons.difficulty[lessons.tasks.index(task)] for task in given])
        assert self.reference is reader
        assert self.star.model is not reader
        return Update(*range(len(Update._fields)))

    monkeypatch.setattr(ss.StarGRPO, "update", update)
    config = replace(SMOKE.student, grpo=replace(SMOKE.student.grpo, tasks=10))
    for mix, expected in (("3:4:3", (3, 4, 3)), ("hard only", (0, 0, 10))):
        drawn.clear()
        _, seen = ss.reinforce(reader, tasks.store, ss.Team(), lessons, mix, config, 0, updates=3, progress=False)
        assert len(seen) == 3
        for levels in drawn:
            assert tuple(levels.count(level) for level in ("easy", "medium", "hard")) == expected


def test_curves_are_means_of_tenths_and_of_all():
    seen = [Update(*[float(i)] * len(Update._fields)) for i in range(20)]
    found = {x: value for name, value, x in ch10._curve(seen) if name == "training/zero variance"}
    assert found[1.0] == 0.5
    assert found[10.0] == 18.5
    assert found[None] == 9.5
    assert len({x for _, _, x in ch10._curve(seen[:3])}) == 4


def test_bias_of_the_filter_by_hand(tasks, lessons):
    bias = ch10.filter_bias(tasks, lessons)
    for name in ("kept/popularity", "dropped/probability"):
        assert sum(bias[name]) == pytest.approx(1)
        assert len(bias[name]) == ch10.TENTHS
    everything = lessons._replace(rank=np.ones(80, dtype=np.int64))
    assert ch10.filter_bias(tasks, everything)["kept/popularity"] == pytest.approx([0.1] * 10)


def test_the_rule_ranks_by_notes_and_not_by_the_recommendation(tasks):
    given = tasks.tasks(tasks.test[:10])
    sure = ss.teacher(tasks, ss.Team(), 0.0)
    texts = [sure.solve(task).text for task in given]
    rank = ss.ranks_of(given, [check_format(text, LETTERS) for text in texts])
    for change in (lambda text: text, lambda text: text[: text.index("<recommend>")]):
        answers = [Answer(None, change(text), "", 3, 100) for text in texts]
        assert ss.by_rule(given, answers).tolist() == rank.tolist()
    wrong = [text.replace("now ", "now . long ") for text in texts]  # votes for the moment become votes for the past
    assert ss.by_rule(given, [Answer(None, text, "", 3, 100) for text in wrong]).tolist() != rank.tolist()
    assert ss.by_rule(given[:1], [Answer(None, "<plan> x", "never ends", 0, 2)]).tolist() == [0]


def test_divergence_is_read_off_prompt_and_history(tasks):
    index = tasks.test[np.isin(tasks.scenario[tasks.test], ("classic", "drift, long"))]
    given = tasks.tasks(index)
    texts = [ss.teacher(tasks, ss.Team(), 0.0).solve(task).text for task in given]
    assert {"differ", "agree"} <= set(" ".join(texts).split())
    answers = [Answer(None, text, "", 3, 100) for text in texts]
    assert ss.divergence(given, answers, tasks.store) == 1
    turned = [answer._replace(text=answer.text.replace(" differ ", " agree ")) for answer in answers]
    share = np.mean([" agree " in text for text in texts])
    assert ss.divergence(given, turned, tasks.store) == pytest.approx(share)
    assert np.isnan(ss.divergence(given[:1], [Answer(None, "<plan> x", "never ends", 0, 2)], tasks.store))


def test_time_counts_every_call_of_a_teacher():
    asked = []

    class Watch(TinyLM):
        def generate(self, ids, *_, max_new, **__):
            asked.append((ids.shape[1], max_new))

    runs = [Run("0", "", (Call("plan", 90, 4), Call("rank", 999, 20)))]
    assert ss.seconds_of_teacher(Watch(rt.vocabulary(), SMOKE.reader.model), runs, 320) > 0
    assert asked == [(90, 4), (300, 20)]
    star = Star(rd.new_reader(SMOKE.reader), rt.TextStore({}), StarConfig(max_new=5))
    assert ss.seconds_of_student(star, [rt.Task("0", "recent candidates A", "A", "0")]) > 0


# ------------------------------------------------------------------ what a run records


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("ch10") / "results"
    ch10.run(SMOKE, [0, 1], root=root)
    return root


@pytest.mark.slow
def test_a_run_records_every_arm(smoke):
    rows = load(ch10.NAME, smoke)
    assert rows.groupby(["arm", "dataset", "setting", "metric", "x"], dropna=False).seed.nunique().max() == 2
    main = set(rows[rows.setting == ""].arm)
    assert main == {
        *ch10.CONTROLS, *(f"teacher{name}" for name in ss.TEAMS), "filter", "reader", "sft all", "sft filtered", "star",
        "grpo only", "sft filtered, no CF", "sft filtered, placebo CF", "sft filtered, no reflection",
    }  # fmt: skip
    assert set(rows.setting) == {"", "noise", "votes", "signal", "notes", *(f"mix {mix}" for mix in ss.MIXES)}
    one = rows[(rows.arm == "star") & (rows.setting == "")]
    for metric in (
        "hr",
        "hr@1",
        "hr/cold item",
        "valid",
        "calls",
        "words",
        "training/form",
        "seconds/ratio",
        "hr, placebo CF",
    ):
        assert metric in set(one.metric), metric
    assert rows.value.map(np.isfinite).all()


@pytest.mark.slow
def test_the_same_run_again_repeats_nothing(smoke, capsys):
    before = load(ch10.NAME, smoke)
    ch10.run(SMOKE, [0, 1], root=smoke)
    assert "numbers in" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(load(ch10.NAME, smoke), before)


@pytest.mark.slow
def test_models_are_kept_and_used_again(smoke, monkeypatch):
    for name in ch10.KEPT:
        assert TinyLM.load(ch10.kept_weights(name, smoke)).config == SMOKE.reader.model
    monkeypatch.setattr(ch10, "train_reader", lambda _: pytest.fail("trained again"))
    kept = ch10.reader_of(SMOKE.reader, smoke)
    assert kept.config == SMOKE.reader.model
    other = rd.new_reader(SMOKE.reader)
    monkeypatch.setattr(ch10, "train_reader", lambda _: other)
    assert ch10.reader_of(replace(SMOKE.reader, steps=3), smoke.parent / "elsewhere" / "results") is other


@pytest.mark.slow
def test_a_recorded_number_is_that_of_a_run_alone(smoke):
    tasks = ch10.world(SMOKE.tasks, 1)
    mars, given = ss.teacher(tasks, ss.Team(), SMOKE.student.noise), tasks.tasks(tasks.test)
    rank = ss.ranks_of(given, [recommendation(mars.solve(task), LETTERS) for task in given])
    rows = load(ch10.NAME, smoke)
    rows = rows[(rows.arm == "teacher") & (rows.setting == "") & (rows.seed == 1)].set_index("metric").value
    for metric, value in ch10.measures(tasks, tasks.test, rank).items():
        assert rows[metric] == pytest.approx(value)


def test_unknown_parts_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"datasets: there is no \['goodreads'\]; choose from controls"):
        ch10.run(SMOKE, [0], root=tmp_path, datasets=["goodreads"])


def test_the_record_is_whole():
    check_record_is_whole(10, ch10.NAME)
