r"""Chapter 10: what does a small model gain from the written work of a team, and is it the team's?

Each seed is a world of its own, with its own teachers and students; only the reader that all students start from is the
same. Data set `adworld`, tasks of 1 + 19 ads (`reclib.experiments.ranking_tasks`). Of every arm that ranks: `hr@1`,
`hr@3`, `hr@5`, their mean `hr`, that in each scenario (`hr/classic`, ...), and by the target's rank under the true law
(`hr/likely`: 1, `hr/middling`: up to 5, `hr/unlikely`).

- without a language model: `random`, `popularity`, `item-kNN`, `logistic` (attributes and counts), `logistic, no
  counts`, `true law` (the ceiling);
- `teacher`, and with other tools or without a reflector `teacher, no CF`, `teacher, placebo CF`, `teacher, no
  reflection`; besides, per task, `calls` (of tools), `model calls`, `words` written, `words read`. Settings: `"noise"`
  (x = probability of a slip), `"votes"` (x = runs that vote), `"signal"` (x = logits by which one's own hidden
  community is preferred; here also for the regressions);
- `filter`: share of runs `kept`; `kept/...` and `dropped/...`: shares of targets by decile of popularity and of
  probability (x = decile), their means, and the shares of `likely`, `middling` and `unlikely` targets;
- `reader`: shares of the drills' words that are right, by skill;
- students: `sft all`, `sft filtered`, `star` (GRPO behind the latter), `grpo only` (behind the reader): besides,
  `valid`, `never ends`, `calls`, `words`, `sound` (runs whose notes their own responses do not contradict), `first
  quarter` (first places that go to the first five letters), hit rates with and without a call of `user_cf`, of valid
  runs alone (`hr/of valid`), and what the team's ranker would make of their notes (`hr/by rule`). Of `star`
  also `hr, no CF` and so on: the same weights with other texts; `seconds/...`; `training/...`: what the updates of GRPO
  have seen (x = tenth). `sft filtered, no CF` and so on: students of other teams, on the first seeds. Setting `"mix
  ..."`: GRPO in fewer updates, with other shares of easy, medium and hard tasks, on the first seeds;
- setting `"notes"`, measured when the rest was known, to explain it: of `sft filtered` `divergence` (share of its
  notes on divergence that are right; `sound` does not look at these), and what the team's rule makes of the notes of
  valid and of malformed runs; `teacher` without votes for ads that collaborative texts name.

**How the recipe came about.** In world 1000, which is not recorded, the reader's drills were chosen by what students
then could not do: copy the latest ad, keep three topics apart, count mentions. Fine-tuning in 300 to 1,000 steps of 32
ended at .00 to .21 while drills counted too little or the tag of a recommendation was unknown; 1,200 steps of 16 at
2e-3 had .255 on right runs and .278 on all (valid .76, notes sound .95 and .99). GRPO of 48 updates: at 3e-4 and
temperature 1 .209 from .213, at 4e-4 and .7 .243 from .251, at 1e-4 and .7 .314 from .251 (valid .97, sound .71), which
was taken, with 1,000 steps and 80 updates, for the time. Seen besides: team .398, without slips .416, no CF .361,
placebo .326, no reflection .363 (.418 without slips), item-kNN .297, logistic .452, without counts .427, true law .685.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from reclib.experiments.ranking_tasks import FROM_COUNTS, SCENARIOS, RankingTasks, TaskConfig, hit_rates
from reclib.experiments.reading_drills import ReaderConfig, reading_quality, train_reader
from reclib.experiments.results import Book, Measured, checkpoint_path, chosen_parts, config_json, results_root
from reclib.experiments.star_students import (
    TEAMS,
    Lessons,
    StudentConfig,
    Team,
    behaviour,
    by_rule,
    calls_of,
    divergence,
    fine_tune,
    ranks_of,
    reinforce,
    seconds_of_student,
    seconds_of_teacher,
    store_of,
    teach,
    teacher,
    votes,
)
from reclib.language import TinyLM, TinyLMConfig
from reclib.reasoning.mars import Mars, Run, Weights, recommendation
from reclib.reasoning.star import Star, StarGRPOConfig, Update, problems
from reclib.reasoning.trajectory import LETTERS, Task

NAME = "10_star"
WORLD = "adworld"
CONTROLS = ("random", "popularity", "item-kNN", "logistic", "logistic, no counts", "true law")
LEVELS = ("likely", "middling", "unlikely")  # rank of the target under the true law: 1, up to 5, beyond
TENTHS = 10
_TASKS, _READER, _STUDENT = TaskConfig(), ReaderConfig(), StudentConfig()


@dataclass(frozen=True)
class Config:
    """The recorded run."""

    tasks: TaskConfig = _TASKS
    reader: ReaderConfig = _READER
    student: StudentConfig = _STUDENT
    noises: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)  # of the teacher
    votes: tuple[int, ...] = (1, 3, 5, 9)  # runs of a teacher that vote
    signals: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0)  # logits by which one's own community is preferred
    signal_test: int = 100  # tasks per scenario there
    ablations: tuple[str, ...] = (", no CF", ", placebo CF", ", no reflection")
    ablation_seeds: int = 3  # how many of the first seeds train students for ablations and for mixes of difficulty
    mixes: tuple[str, ...] = ("3:4:3", "uniform", "hard only")
    mix_updates: int = 24
    blank_updates: int = 10  # of GRPO without SFT
    drills: int = 300  # that the reader is judged on
    timed: int = 40  # tasks, one after another


_TINY = StudentConfig(
    lessons=60, sft_steps=2, batch_size=4, max_new=40, grpo=StarGRPOConfig(group=2, tasks=3), updates=2
)
SCALES: dict[str, Config] = {
    "smoke": Config(
        TaskConfig(users=400, test=6),
        ReaderConfig(TinyLMConfig(24, 1, 2, 384), steps=2, batch_size=4),
        _TINY,
        noises=(0.0, 0.3),
        votes=(1, 3),
        signals=(0.0, 2.0),
        signal_test=6,
        mix_updates=2,
        blank_updates=1,
        drills=4,
        timed=2,
    ),
    "book": Config(
        student=StudentConfig(lessons=1_500, sft_steps=260, updates=6), signals=(2.0,), votes=(1, 3), ablations=(),
        mixes=(), drills=60, timed=10,
    ),
    "full": Config(),
}  # fmt: skip


def run(
    config: Config,
    seeds: Sequence[int],
    *,
    force: bool = False,
    root: Path | str | None = None,
    datasets: Sequence[str] | None = None,
) -> None:
    """Record all that is not recorded yet, part after part, each seed by seed.

    Args:
        datasets: only these parts: controls, teachers, filter, signal, reader, ladder, notes, blank, ablations,
            mixes.
    """
    known: dict[str, Callable[[Config, Book], None]] = {
        "controls": _controls, "teachers": _teachers, "filter": _filter, "signal": _signal, "reader": _reader,
        "ladder": _ladder, "notes": _notes, "blank": _blank, "ablations": _ablations, "mixes": _mixes,
    }  # fmt: skip
    for part in chosen_parts(known, datasets):
        for seed in seeds:
            part(config, Book(NAME, [seed], force, root))


# ------------------------------------------------------------------ what is measured


@lru_cache(maxsize=8)  # a seed's own world and those of the dial
def world(config: TaskConfig, seed: int) -> RankingTasks:
    """A seed's world and its tasks."""
    return RankingTasks(config, seed)


def measures(tasks: RankingTasks, index: Int[np.ndarray, "n"], rank: Int[np.ndarray, "n"]) -> dict[str, float]:
    """Hit rates of all, and their mean in each scenario and at each level of difficulty."""
    found = hit_rates(rank)
    for scenario in SCENARIOS:
        found[f"hr/{scenario}"] = hit_rates(rank[tasks.scenario[index] == scenario])["hr"]
    level = levels(tasks, index)
    for name in LEVELS:
        if (level == name).any():
            found[f"hr/{name}"] = hit_rates(rank[level == name])["hr"]
    return found


def levels(tasks: RankingTasks, index: Int[np.ndarray, "n"]) -> np.ndarray:
    """How hard each task is for somebody who knows all: one of `LEVELS`."""
    best = tasks.ranks(index, tasks.truth(index))
    return np.select([best == 1, best <= 5], LEVELS[:2], LEVELS[2])


def _rows(found: dict[str, float], x: float | None = None) -> Measured:
    return [(metric, value, x) for metric, value in found.items()]


def _about(config: Config, **more: Any) -> dict[str, Any]:
    """What a number depends on."""
    return {"tasks": asdict(config.tasks), **more}


# ------------------------------------------------------------------ rankers without a language model


def control(name: str, tasks: RankingTasks, index: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n letters"]:
    """Scores of one of `CONTROLS`."""
    if name == "random":
        return np.random.default_rng([tasks.seed, 15]).random((len(index), len(LETTERS)))
    if name == "popularity":
        return tasks.popularity(index)
    if name == "item-kNN":
        return tasks.item_knn(index)
    if name == "true law":
        return tasks.truth(index)
    return tasks.logistic(tasks.train, index, without=FROM_COUNTS if name == "logistic, no counts" else ())


def _controls(config: Config, book: Book) -> None:
    for arm in CONTROLS:

        def measure(seeds: list[int], arm: str = arm) -> list[Measured]:
            found = []
            for seed in seeds:
                tasks = world(config.tasks, seed)
                rank = tasks.ranks(tasks.test, control(arm, tasks, tasks.test))
                found.append(_rows(measures(tasks, tasks.test, rank)))
            return found

        book.write(arm, WORLD, _about(config, arm=arm), measure)


# ------------------------------------------------------------------ teachers


def _solved(mars: Mars, given: Sequence[Task]) -> tuple[list[Run], Int[np.ndarray, "n"]]:
    runs = [mars.solve(task) for task in given]
    return runs, ranks_of(given, [recommendation(run, LETTERS) for run in runs])


def _effort(runs: Sequence[Run]) -> dict[str, float]:
    """Calls of tools and of the model, and words, per task."""
    return {
        "calls": float(np.mean([calls_of(run.text) for run in runs])),
        "model calls": float(np.mean([len(run.calls) for run in runs])),
        "words": float(np.mean([sum(call.wrote for call in run.calls) for run in runs])),
        "words read": float(np.mean([sum(call.read for call in run.calls) for run in runs])),
    }


def _teachers(config: Config, book: Book) -> None:
    """All teams at the recorded noise; with and without reflection at others; several runs that vote."""
    noise = config.student.noise
    for name, team in TEAMS.items():

        def alone(seeds: list[int], team: Team = team) -> list[Measured]:
            found = []
            for seed in seeds:
                tasks = world(config.tasks, seed)
                runs, rank = _solved(teacher(tasks, team, noise), tasks.tasks(tasks.test))
                found.append(_rows({**measures(tasks, tasks.test, rank), **_effort(runs)}))
            return found

        book.write(f"teacher{name}", WORLD, _about(config, team=team._asdict(), noise=noise), alone)
    for name in ("", ", no reflection"):

        def noisy(seeds: list[int], team: Team = TEAMS[name]) -> list[Measured]:
            found = []
            for seed in seeds:
                tasks, numbers = world(config.tasks, seed), list[tuple[str, float, float | None]]()
                for x in config.noises:
                    runs, rank = _solved(teacher(tasks, team, x, draw=1), tasks.tasks(tasks.test))
                    numbers += _rows({**measures(tasks, tasks.test, rank), **_effort(runs)}, x)
                found.append(numbers)
            return found

        about = _about(config, team=TEAMS[name]._asdict(), noises=config.noises)
        book.write(f"teacher{name}", WORLD, about, noisy, setting="noise")

    def voting(seeds: list[int]) -> list[Measured]:
        found = []
        for seed in seeds:
            tasks, numbers = world(config.tasks, seed), list[tuple[str, float, float | None]]()
            given = tasks.tasks(tasks.test)
            several = [_solved(teacher(tasks, Team(), noise, draw=2 + n), given)[0] for n in range(max(config.votes))]
            for n in config.votes:
                rank = ranks_of(given, votes(list(zip(*several[:n], strict=True))))
                effort = {
                    name: n * value for name, value in _effort([run for runs in several[:n] for run in runs]).items()
                }
                numbers += _rows({**measures(tasks, tasks.test, rank), **effort}, n)
            found.append(numbers)
        return found

    book.write("teacher", WORLD, _about(config, noise=noise, votes=config.votes), voting, setting="votes")


@lru_cache(maxsize=2)
def lessons_of(config: TaskConfig, team: Team, noise: float, most: int | None, seed: int) -> Lessons:
    """A teacher's runs on a seed's training tasks."""
    return teach(world(config, seed), team, noise, most)


def filter_bias(tasks: RankingTasks, lessons: Lessons) -> dict[str, list[float]]:
    """Of the kept and of the dropped runs: shares of targets by decile of popularity and of true probability.

    Deciles are of all training tasks, so without bias every share is .1.
    """
    index = np.array([int(task.name) for task in lessons.tasks])
    place = (tasks.candidates[index] == tasks.target[index][:, None]).argmax(1)
    rows = np.arange(len(index))
    law = tasks.truth(index)
    quantities = {
        "popularity": tasks.popularity(index)[rows, place],
        "probability": (law / law.sum(1, keepdims=True))[rows, place],
    }
    found: dict[str, list[float]] = {}
    for name, values in quantities.items():
        order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
        decile = order * TENTHS // len(values)
        for group, chosen in (("kept", lessons.kept), ("dropped", ~lessons.kept)):
            found[f"{group}/{name}"] = (np.bincount(decile[chosen], minlength=TENTHS) / max(chosen.sum(), 1)).tolist()
            found[f"{group}/mean {name}"] = [float(values[chosen].mean())] if chosen.any() else []
    return found


def _filter(config: Config, book: Book) -> None:
    def measure(seeds: list[int]) -> list[Measured]:
        found = []
        for seed in seeds:
            tasks, given = world(config.tasks, seed), config.student
            lessons = lessons_of(config.tasks, Team(), given.noise, given.lessons, seed)
            numbers: Measured = [("kept", float(lessons.kept.mean()), None)]
            for name, values in filter_bias(tasks, lessons).items():
                points = [None] if "mean" in name else [float(x) for x in range(1, TENTHS + 1)]
                numbers += [(name, value, x) for value, x in zip(values, points, strict=False)]
            index = np.array([int(task.name) for task in lessons.tasks])
            for group, chosen in (("kept", lessons.kept), ("all", np.ones(len(index), dtype=bool))):
                level = levels(tasks, index[chosen])
                numbers += [(f"{group}/{name}", float((level == name).mean()), None) for name in LEVELS]
            found.append(numbers)
        return found

    about = _about(config, noise=config.student.noise, lessons=config.student.lessons)
    book.write("filter", WORLD, about, measure)


def _signal(config: Config, book: Book) -> None:
    """The share of what no text shows, by the dial of the hidden communities; x = logits."""
    arms = {f"teacher{name}": team for name, team in TEAMS.items() if team.reflect}
    for arm in (*arms, "logistic", "logistic, no counts", "true law"):

        def measure(seeds: list[int], arm: str = arm) -> list[Measured]:
            found = []
            for seed in seeds:
                numbers: Measured = []
                for x in config.signals:
                    tasks = world(replace(config.tasks, community=x, test=config.signal_test), seed)
                    if arm in arms:
                        _, rank = _solved(teacher(tasks, arms[arm], config.student.noise), tasks.tasks(tasks.test))
                    else:
                        rank = tasks.ranks(tasks.test, control(arm, tasks, tasks.test))
                    numbers += _rows(measures(tasks, tasks.test, rank), x)
                found.append(numbers)
            return found

        about = _about(config, arm=arm, signals=config.signals, test=config.signal_test, noise=config.student.noise)
        book.write(arm, WORLD, about, measure, setting="signal")


# ------------------------------------------------------------------ the reader

KEPT = ("reader", "sft", "student")  # weights that the chapter reads: where all begin; seed 0 after each stage


def kept_weights(name: str, root: Path | str | None = None) -> Path:
    """File with a model, written with the record; `name` is one of `KEPT`."""
    folder = Path(root) if root is not None else results_root()
    return folder.parent / "checkpoints" / f"{NAME}-{name}.safetensors"


def remembered(path: Path, about: dict[str, Any], train: Callable[[], TinyLM]) -> TinyLM:
    """The model at a path if it was trained as `about` says; else it is trained and written there."""
    note, said = path.with_suffix(".json"), config_json(about)
    if path.exists() and note.exists() and note.read_text(encoding="utf-8") == said:
        return TinyLM.load(path)
    model = train()
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    note.write_text(said, encoding="utf-8")
    return model


def reader_of(config: ReaderConfig, root: Path | str | None = None) -> TinyLM:
    """The reader that all students start from: the kept one, or if it is of another configuration a new one."""
    return remembered(kept_weights("reader", root), asdict(config), lambda: train_reader(config))


def _reader(config: Config, book: Book) -> None:
    def measure(seeds: list[int]) -> list[Measured]:
        model = reader_of(config.reader, book.root)
        return [_rows(reading_quality(model, config.reader, config.drills, seed)) for seed in seeds]

    book.write("reader", WORLD, {"reader": asdict(config.reader), "drills": config.drills}, measure)


# ------------------------------------------------------------------ students


def student(model: TinyLM, tasks: RankingTasks, team: Team, config: StudentConfig) -> Star:
    """A model with its tools."""
    return Star(model, store_of(tasks, team), config.bounds(team))


def judged(star: Star, tasks: RankingTasks) -> dict[str, float]:
    """All that is measured of a student on the test."""
    given = tasks.tasks(tasks.test)
    answers = star.answer(given)
    rank = ranks_of(given, [answer.ranking for answer in answers])
    wrong = problems(answers)
    found = {
        **measures(tasks, tasks.test, rank),
        **behaviour(given, answers, rank),
        "never ends": wrong["never ends"] / len(answers),
        "hr/by rule": hit_rates(by_rule(given, answers))["hr"],
    }
    if (rank > 0).any():
        found["hr/of valid"] = hit_rates(rank[rank > 0])["hr"]
    return found


def _curve(seen: Sequence[Update]) -> Measured:
    """Means over tenths of the training (fewer where there are fewer updates), and over all of it."""
    numbers = np.array(seen)
    parts = [*enumerate(np.array_split(numbers, min(TENTHS, len(numbers))), 1), (None, numbers)]
    return [
        (f"training/{name.replace('_', ' ')}", float(value), x)
        for x, part in parts
        for name, value in zip(Update._fields, part.mean(0), strict=True)
    ]


def _taught(config: Config, name: str, seed: int) -> tuple[RankingTasks, Team, Lessons]:
    given, team = config.student, TEAMS[name]
    return world(config.tasks, seed), team, lessons_of(config.tasks, team, given.noise, given.lessons, seed)


def _tuned(config: Config, name: str, filtered: bool, seed: int, root: Path | str | None) -> TinyLM:
    """A student after SFT."""

    def train() -> TinyLM:
        _, _, lessons = _taught(config, name, seed)
        return fine_tune(reader_of(config.reader, root), lessons, filtered, config.student, seed)

    what = f"sft {'filtered' if filtered else 'all'}{name} {seed}".replace(",", "")
    sft = replace(config.student, grpo=StarGRPOConfig(), updates=1)  # what comes behind does not matter
    about = _about(config, reader=asdict(config.reader), student=asdict(sft), team=TEAMS[name]._asdict(), seed=seed)
    return remembered(checkpoint_path(NAME, what, root), about, train)


def _parts(config: Config, **more: Any) -> dict[str, Any]:
    return _about(config, reader=asdict(config.reader), student=asdict(config.student), **more)


def _ladder(config: Config, book: Book) -> None:
    """SFT on all runs, on filtered runs, and GRPO behind the latter; what the last does without its texts; time."""
    for arm, filtered in (("sft all", False), ("sft filtered", True)):

        def tuned(seeds: list[int], filtered: bool = filtered) -> list[Measured]:
            found = []
            for seed in seeds:
                tasks, team, _ = _taught(config, "", seed)
                model = _tuned(config, "", filtered, seed, book.root)
                found.append(_rows(judged(student(model, tasks, team, config.student), tasks)))
            return found

        book.write(arm, WORLD, _parts(config, arm=arm), tuned)

    def reinforced(seeds: list[int]) -> list[Measured]:
        found = []
        for seed in seeds:
            tasks, team, lessons = _taught(config, "", seed)
            model = _tuned(config, "", True, seed, book.root)
            learner, seen = reinforce(model, store_of(tasks, team), team, lessons, "3:4:3", config.student, seed)
            star = student(learner, tasks, team, config.student)
            numbers = [*_rows(judged(star, tasks)), *_curve(seen)]
            for name in (", no CF", ", placebo CF"):  # the same weights, other texts
                star.store = store_of(tasks, TEAMS[name])
                numbers += [(f"{metric}{name}", value, None) for metric, value in judged(star, tasks).items()]
            found.append([*numbers, *_rows(_latency(config, learner, tasks, seed))])
            if seed == 0:
                model.save(kept_weights("sft", book.root))
                learner.save(kept_weights("student", book.root))
        return found

    book.write("star", WORLD, _parts(config, arm="star", timed=config.timed), reinforced)


def _latency(config: Config, model: TinyLM, tasks: RankingTasks, seed: int) -> dict[str, float]:
    """Seconds per task of the student, and of a teacher whose agents think with the same model."""
    given = tasks.tasks(tasks.test[:: max(len(tasks.test) // config.timed, 1)])
    runs, _ = _solved(teacher(tasks, Team(), config.student.noise), given)
    slow = seconds_of_teacher(model, runs, config.reader.model.context)
    fast = seconds_of_student(student(model, tasks, Team(), config.student), given)
    return {"seconds/teacher": slow, "seconds/student": fast, "seconds/ratio": slow / fast}


def _notes(config: Config, book: Book) -> None:
    """Where students lose what their notes are worth, and what a team loses without votes for named ads.

    Measured when the rest was known, to explain it; no claim rests on it.
    """

    def read(seeds: list[int]) -> list[Measured]:
        found = []
        for seed in seeds:
            tasks, team, _ = _taught(config, "", seed)
            given = tasks.tasks(tasks.test)
            answers = student(_tuned(config, "", True, seed, book.root), tasks, team, config.student).answer(given)
            valid, rank = np.array([answer.ranking is not None for answer in answers]), by_rule(given, answers)
            numbers: Measured = [("divergence", divergence(given, answers, tasks.store), None)]
            for group, chosen in (("valid", valid), ("malformed", ~valid)):
                if chosen.any():
                    numbers.append((f"hr/of {group}, by rule", hit_rates(rank[chosen])["hr"], None))
            found.append([(metric, value, x) for metric, value, x in numbers if not np.isnan(value)])
        return found

    book.write("sft filtered", WORLD, _parts(config), read, setting="notes")

    def themes(seeds: list[int]) -> list[Measured]:
        found = []
        for seed in seeds:
            tasks = world(config.tasks, seed)
            weights = Weights(similar=0.0, also=0.0)
            mars = teacher(tasks, Team(), config.student.noise, weights=weights)
            _, rank = _solved(mars, tasks.tasks(tasks.test))
            found.append(_rows(measures(tasks, tasks.test, rank)))
        return found

    book.write("teacher", WORLD, _about(config, noise=config.student.noise), themes, setting="notes")


def _blank(config: Config, book: Book) -> None:
    """GRPO on the reader, which has never seen a trajectory."""

    def measure(seeds: list[int]) -> list[Measured]:
        found = []
        for seed in seeds:
            tasks, team, lessons = _taught(config, "", seed)
            learner, seen = reinforce(
                reader_of(config.reader, book.root), store_of(tasks, team), team, lessons, "3:4:3", config.student,
                seed, updates=config.blank_updates,
            )  # fmt: skip
            found.append([*_rows(judged(student(learner, tasks, team, config.student), tasks)), *_curve(seen)])
        return found

    book.write("grpo only", WORLD, _parts(config, updates=config.blank_updates), measure)


def _ablations(config: Config, book: Book) -> None:
    """Students of other teams after SFT on filtered runs: those of the first seeds only."""
    if book.seeds[0] >= config.ablation_seeds:
        return
    for name in config.ablations:

        def measure(seeds: list[int], name: str = name) -> list[Measured]:
            found = []
            for seed in seeds:
                tasks, team, _ = _taught(config, name, seed)
                model = _tuned(config, name, True, seed, book.root)
                found.append(_rows(judged(student(model, tasks, team, config.student), tasks)))
            return found

        book.write(f"sft filtered{name}", WORLD, _parts(config, team=TEAMS[name]._asdict()), measure)


def _mixes(config: Config, book: Book) -> None:
    """Short GRPO with other mixes of difficulties: those of the first seeds only."""
    if book.seeds[0] >= config.ablation_seeds:
        return
    for mix in config.mixes:

        def measure(seeds: list[int], mix: str = mix) -> list[Measured]:
            found = []
            for seed in seeds:
                tasks, team, lessons = _taught(config, "", seed)
                model = _tuned(config, "", True, seed, book.root)
                learner, seen = reinforce(
                    model, store_of(tasks, team), team, lessons, mix, config.student, seed, updates=config.mix_updates
                )
                found.append([*_rows(judged(student(learner, tasks, team, config.student), tasks)), *_curve(seen)])
            return found

        book.write("star", WORLD, _parts(config, mix=mix, updates=config.mix_updates), measure, setting=f"mix {mix}")
