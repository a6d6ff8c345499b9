"""MARS, the teacher of STAR (Wu et al., 2026): several agents that plan, use tools, reflect, and rank.

    plan → {profile, history, recent, divergence} → reflect → (rework) → rank

Each agent reads everything written so far and adds a few words. Who thinks for them is left open: a `Reasoner` takes
text and returns text. `RuleReasoner` does it by rules, on a CPU, and can be made to slip;
`reclib.reasoning.endpoint` asks any language model behind an API. `Mars` runs the loop, and bounds it: whatever a
reasoner answers, a task ends, and what went wrong is counted.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from tqdm.auto import tqdm

from reclib.nn.sizes import check_at_least
from reclib.reasoning.collaborative_text import NO_ENTRY, TextStore
from reclib.reasoning.trajectory import (
    LETTERS,
    STOP,
    MalformedTrajectory,
    Question,
    Step,
    Task,
    parse,
    read_prompt,
    serialise,
)

ANALYSTS = ("profile", "history", "recent", "divergence")
TOOLS = ("profile", "history", "user_cf", "item_cf")
COLLABORATIVE = ("user_cf", "item_cf")
COLD = 2  # with at most so many events there is no history to speak of


@runtime_checkable
class Reasoner(Protocol):
    """What an agent thinks with."""

    def __call__(self, role: str, prompt: str, written: str) -> str:
        """What the agent of this role adds to a trajectory.

        Args:
            role: plan, one of `ANALYSTS`, reflect or rank.
            prompt: the task.
            written: the trajectory so far.
        """


def execute(store: TextStore, user: str, call: str) -> str:
    """Answer a tool call, `TOOL` about the person or `TOOL KEY` about something else. Never fails."""
    tool, *rest = call.split() or [""]
    return store(tool, " ".join(rest) if rest else user)


# ------------------------------------------------------------------ the loop


@dataclass(frozen=True)
class Limits:
    """What keeps a run short whatever a reasoner does. The paper gives no numbers; all are our choice."""

    rework: int = 1  # times that the reflector may send analysts back
    calls: int = 3  # tool calls of one analyst
    attempts: int = 2  # answers an agent may give until one is well-formed
    words: int = 64  # words of one answer; what is longer counts as malformed

    def __post_init__(self) -> None:
        check_at_least(0, rework=self.rework, calls=self.calls)
        check_at_least(1, attempts=self.attempts, words=self.words)


class Call(NamedTuple):
    """One question to a reasoner."""

    role: str
    read: int  # words of the prompt and of the trajectory so far
    wrote: int  # words of the answer


@dataclass(frozen=True)
class Run:
    """A solved task, or what there was of it when it failed."""

    name: str  # of the task
    text: str  # the trajectory; without a recommendation if the ranker failed
    calls: tuple[Call, ...]  # in their order
    errors: dict[str, int] = field(default_factory=dict)  # malformed answers by role; "tool": calls without an entry


class Mars:
    """The loop over the agents. Deterministic if the reasoner is."""

    def __init__(
        self, reasoner: Reasoner, store: TextStore, *, reflect: bool = True, limits: Limits | None = None
    ) -> None:
        """Take a reasoner and the tools' answers.

        Args:
            reflect: False leaves the reflector out.
            limits: of a run.
        """
        self.reasoner, self.store, self.reflect, self.limits = reasoner, store, reflect, limits or Limits()

    def solve(self, task: Task) -> Run:
        """Work on one task. What a reasoner raises is not caught; see `collect`, which can go on later."""
        work = _Work(self, task)
        plan = work.ask("plan", _a_plan)
        work.add(Step("plan", " ".join(ANALYSTS) if plan is None else plan))
        for role in work.steps[0].text.split():
            work.analyse(role)
        for done in range(self.limits.rework + 1 if self.reflect else 0):
            verdict = work.ask("reflect", _plain)
            if verdict is None:
                break
            work.add(Step("reflection", verdict))
            again = redo(verdict)
            if not again or done == self.limits.rework:
                break
            for role in again:
                work.analyse(role)
        letters = read_prompt(task.prompt).letters
        ranked = work.ask("rank", lambda words: sorted(words.split()) == sorted(letters))
        if ranked is not None:
            work.add(Step("recommend", ranked))
        return Run(task.name, serialise(work.steps), tuple(work.calls), dict(+work.errors))


def redo(reflection: str) -> tuple[str, ...]:
    """The analysts whom a reflection sends back: those named behind `redo`."""
    words = reflection.split()
    return tuple(word for word in words[1:] if word in ANALYSTS) if words[:1] == ["redo"] else ()


class _Work:
    """A task that is being worked on."""

    def __init__(self, mars: Mars, task: Task) -> None:
        self.mars, self.task = mars, task
        self.steps: list[Step] = []
        self.calls: list[Call] = []
        self.errors: Counter[str] = Counter()

    def add(self, step: Step) -> None:
        self.steps.append(step)

    def ask(self, role: str, fits: Callable[[str], bool]) -> str | None:
        """The first answer that fits, or None."""
        written = serialise(self.steps)
        read = len(self.task.prompt.split()) + len(written.split())
        for _ in range(self.mars.limits.attempts):
            words = self.mars.reasoner(role, self.task.prompt, written).split()
            self.calls.append(Call(role, read, len(words)))
            answer = " ".join(words)
            if 0 < len(words) <= self.mars.limits.words and fits(answer):
                return answer
            self.errors[role] += 1
        return None

    def analyse(self, role: str) -> None:
        """Let an analyst call tools until it writes a note."""
        for left in range(self.mars.limits.calls, -1, -1):
            answer = self.ask(role, lambda words: _plain(words) or _a_call(words) is not None)
            if answer is None:
                return
            call = _a_call(answer)
            if call is None:
                self.add(Step("note", answer))
                return
            if left == 0:  # it never comes to a note
                self.errors[role] += 1
                return
            response = execute(self.mars.store, self.task.user, call)
            self.errors["tool"] += response == NO_ENTRY
            self.steps += [Step("tool_call", call), Step("tool_response", response)]


def _a_plan(words: str) -> bool:
    return all(word in ANALYSTS for word in words.split()) and len(set(words.split())) == len(words.split())


def _plain(words: str) -> bool:
    return "<" not in words


def _a_call(words: str) -> str | None:
    """What is called, if these words are one tool call."""
    try:
        (step,) = parse(words)
    except ValueError:  # malformed, or not one step
        return None
    return step.text if step.kind == "tool_call" else None


# ------------------------------------------------------------------ the rules


class Weights(NamedTuple):
    """What a vote of a note is worth to the ranker: the utility of the spec, fitted to nothing. Our choice."""

    long: float = 1.5  # topic of a long interest
    now: float = 2.0  # topic of the moment
    wants: float = 0.8  # selling point the person likes
    against: float = -1.5  # addresses other people
    similar: float = 1.2  # chosen by similar people
    also: float = 1.2  # chosen with the latest ad


HALF = 0.5  # what long interests count where the reflector says "trust recent"
TOP = 5  # ranks that are decided by score; the metric sees no others, and the rest stays in the order of the letters
OTHERS = {"woman": "men", "man": "women"}  # whom an ad must not address


class RuleReasoner:
    """All agents of MARS by rules over the words they read.

    `noise` is the probability of a slip, drawn for each note and each reflection: a note that slips is about the wrong
    topics, people and candidates; a reflection that slips overlooks whatever is wrong.
    """

    def __init__(
        self,
        noise: float = 0.0,
        rng: np.random.Generator | None = None,
        *,
        tools: Sequence[str] = TOOLS,
        weights: Weights | None = None,
    ) -> None:
        """Choose how reliable the agents are.

        Args:
            noise: probability of a slip.
            rng: of the slips; needed if there are any.
            tools: those the analysts know of.
            weights: of the ranker.

        Raises:
            ValueError: a noise outside [0, 1], or one without an rng.
        """
        if not 0 <= noise <= 1:
            raise ValueError(f"noise: must lie in [0, 1], got {noise}")
        if noise and rng is None:
            raise ValueError("rng: slips are random, pass np.random.default_rng(seed)")
        self.noise, self.rng, self.tools, self.weights = noise, rng, tuple(tools), weights or Weights()

    def __call__(self, role: str, prompt: str, written: str) -> str:
        """See `Reasoner`."""
        question, steps = read_prompt(prompt), parse(written)
        if role == "plan":
            cold = len(question.recent) <= COLD
            return "profile recent" if cold else " ".join(ANALYSTS)
        if role == "rank":
            return " ".join(self._rank(question, steps))
        if role == "reflect":
            return self._reflect(question, steps)
        for call in self._calls(role, question):
            if call not in {step.text for step in steps if step.kind == "tool_call"}:
                return serialise([Step("tool_call", call)])
        facts = _facts(question, steps)
        slip = self._slips()
        if role == "profile":
            return self._profile(question, facts, slip)
        if role == "divergence":
            differ = facts.differ != slip
            return "differ" if differ else "agree"
        topics = facts.long if role == "history" else facts.now
        marker, people, named = ("long", "similar", facts.similar) if role == "history" else ("now", "also", facts.also)
        if slip:
            topics = self._draw(sorted({c.topic for c in question.candidates}), len(topics))
            wrong = iter(self._draw([c.letter for c in question.candidates], len(named)))
            named = [(ad, STOP if letter == STOP else next(wrong)) for ad, letter in named]
        note = [marker]
        for topic in topics:
            note += listing(topic, [c.letter for c in question.candidates if c.topic == topic])
        if {"similar": "user_cf", "also": "item_cf"}[people] in self.tools:
            note += [people, *(word for pair in named for word in pair)]
        return " ".join(note)

    def _calls(self, role: str, question: Question) -> list[str]:
        wanted = {
            "profile": ["profile"],
            "history": ["history", "user_cf"],
            "recent": [f"item_cf {question.recent[-1][0]}"] if question.recent else [],
            "divergence": [],
        }[role]
        return [call for call in wanted if call.split()[0] in self.tools]

    def _profile(self, question: Question, facts: _Facts, slip: bool) -> str:
        wants, gender = facts.wants, facts.gender
        if slip and wants:
            offered = sorted({c.selling for c in question.candidates} - {wants})
            wants = self._draw(offered, 1)[0] if offered else wants
            gender = next((g for g in OTHERS if g != gender), gender)
        fits = [c.letter for c in question.candidates if c.selling == wants]
        others = OTHERS.get(gender, "")
        against = [c.letter for c in question.candidates if others and c.audience == others]
        return " ".join(
            ["wants", *listing(wants or "nothing", fits), "against", *listing(others or "nothing", against)]
        )

    def _reflect(self, question: Question, steps: Sequence[Step]) -> str:
        facts, notes = _facts(question, steps), read_notes(steps)
        reworked = any(redo(step.text) for step in steps if step.kind == "reflection")
        if not self._slips() and not reworked:
            wrong = _inconsistent(notes, facts)
            if wrong:
                return " ".join(["redo", *wrong])
        return "trust recent" if notes.differ else "trust both"

    def _rank(self, question: Question, steps: Sequence[Step]) -> list[str]:
        notes, weights = read_notes(steps), self.weights._asdict()
        trust = [step.text for step in steps if step.kind == "reflection"][-1:]
        if trust == ["trust recent"]:
            weights["long"] *= HALF
        score = dict.fromkeys(question.letters, 0.0)
        for marker, letters in notes.votes.items():
            for letter in letters:
                if letter in score:
                    score[letter] += weights[marker]
        ranked = sorted(question.letters, key=lambda letter: -score[letter])  # stable: ties by letter
        return [*ranked[:TOP], *(letter for letter in question.letters if letter not in ranked[:TOP])]

    def _slips(self) -> bool:
        return self.rng is not None and bool(self.rng.random() < self.noise)

    def _draw(self, options: Sequence[str], n: int) -> list[str]:
        assert self.rng is not None
        return [options[i] for i in self.rng.permutation(len(options))[:n]]


# ------------------------------------------------------------------ reading what tools and analysts wrote


def listing(word: str, letters: Sequence[str]) -> list[str]:
    """Letters in a note, each behind what it is listed for, and a stop: `tents C tents K tents .`

    The word stands before every letter, so that a small reader finds it right where it has to look for the next one
    (our choice).
    """
    return [*(part for letter in letters for part in (word, letter)), word, STOP]


class Notes(NamedTuple):
    """What the analysts say; where one has written twice, the last note."""

    votes: dict[str, list[str]]  # marker, a field of `Weights` → letters
    topics: dict[str, list[str]]  # marker → the other words behind it
    differ: bool  # recent and long interests


def read_notes(steps: Iterable[Step]) -> Notes:
    """The notes of a trajectory. Words that mean nothing are passed over."""
    votes: dict[str, list[str]] = {}
    topics: dict[str, list[str]] = {}
    differ, marker = False, ""
    for word in (word for step in steps if step.kind == "note" for word in step.text.split()):
        if word in Weights._fields:
            marker = word
            votes[marker], topics[marker] = [], []
        elif word in ("differ", "agree"):
            differ, marker = word == "differ", ""
        elif marker and word in LETTERS:
            votes[marker].append(word)
        elif marker and word != STOP and word not in topics[marker]:
            topics[marker].append(word)
    return Notes(votes, topics, differ)


class _Facts(NamedTuple):
    """What follows from the prompt and the tools' responses."""

    wants: str
    gender: str
    long: list[str]  # topics
    now: list[str]
    similar: list[tuple[str, str]]  # what a collaborative text names: ad and letter, or ad and stop
    also: list[tuple[str, str]]
    differ: bool


def _facts(question: Question, steps: Sequence[Step]) -> _Facts:
    responses = {
        before.text.split()[0]: after.text.split()
        for before, after in itertools.pairwise(steps)
        if before.kind == "tool_call" and after.kind == "tool_response" and after.text != NO_ENTRY
    }
    gender, _, wants = (responses.get("profile", []) + [""] * 3)[:3]
    long = long_interests(responses.get("history", []))
    similar, _ = _listed(question, responses.get("user_cf", []))
    also, themes = _listed(question, responses.get("item_cf", []))
    latest = [question.recent[-1][1]] if question.recent else []
    now = latest + [topic for topic in themes if topic not in latest][:1]
    return _Facts(wants, gender, long, now, similar, also, bool(long) and bool(latest) and latest[0] not in long)


def long_interests(history: Sequence[str]) -> list[str]:
    """The two topics that the words of a history, `long topic count …`, name first."""
    return list(history[1::2][:2])


def _listed(question: Question, words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Each ad that a collaborative text names, with its letter if it is a candidate, and the text's themes."""
    letter = {candidate.ad: candidate.letter for candidate in question.candidates}
    end = words.index("theme") if "theme" in words else len(words)
    return [(word, letter.get(word, STOP)) for word in words[2:end]], words[end + 1 :]


def _letters(named: Sequence[tuple[str, str]]) -> list[str]:
    return [letter for _, letter in named if letter != STOP]


def _inconsistent(notes: Notes, facts: _Facts) -> list[str]:
    """Analysts whose notes the responses contradict."""
    checks = {
        "profile": "wants" in notes.topics and notes.topics["wants"] != [facts.wants or "nothing"],
        "history": "long" in notes.topics
        and (notes.topics["long"] != facts.long or notes.votes.get("similar", []) != _letters(facts.similar)),
        "recent": "now" in notes.topics
        and (notes.topics["now"] != facts.now or notes.votes.get("also", []) != _letters(facts.also)),
    }
    return [role for role, wrong in checks.items() if wrong]


def contradicted(prompt: str, text: str) -> list[str]:
    """Analysts whose last note the responses of a trajectory contradict.

    Raises:
        MalformedTrajectory: a text that cannot be parsed.
    """
    steps = parse(text)
    return _inconsistent(read_notes(steps), _facts(read_prompt(prompt), steps))


# ------------------------------------------------------------------ many tasks


def collect(
    solve: Callable[[Task], Run], tasks: Iterable[Task], path: str | Path | None = None, *, progress: bool = True
) -> list[Run]:
    """Solve tasks one after another, and lose nothing: each run is written as soon as it is there.

    Args:
        solve: such as `Mars(…).solve`.
        tasks: with names, all different.
        path: a file of one JSON object per line. Tasks that it holds already are not solved again.
        progress: show a bar.

    Raises:
        ValueError: tasks that share a name, or a file with lines that are no runs.
    """
    tasks = list(tasks)
    if len({task.name for task in tasks}) < len(tasks):
        raise ValueError("tasks: two share a name; give each its own, or what is recorded cannot be told apart")
    done = {} if path is None else {run.name: run for run in _recorded(Path(path))}
    with tqdm(tasks, desc="tasks", disable=not progress, leave=False) as bar:
        for task in bar:
            if task.name in done:
                continue
            run = done[task.name] = solve(task)
            if path is not None:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                with Path(path).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(run)) + "\n")
    return [done[task.name] for task in tasks]


def _recorded(path: Path) -> Iterator[Run]:
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):  # an interrupt cut the last line short: that task is solved again
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            about = json.loads(line)
            yield Run(about["name"], about["text"], tuple(Call(*call) for call in about["calls"]), about["errors"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"path: line {number} of {path} is no run ({error}); mend it or name another file"
            ) from None


def vote(rankings: Sequence[Sequence[str]], letters: Sequence[str]) -> list[str]:
    """Borda count: the ranking that several runs agree on; ties in the order of the letters. No truth is used.

    Raises:
        ValueError: no ranking.
    """
    if not rankings:
        raise ValueError("rankings: is empty; give at least one")
    place = {letter: sum(ranking.index(letter) for ranking in rankings) for letter in letters}
    return sorted(letters, key=place.__getitem__)


def recommendation(run: Run, letters: Sequence[str]) -> list[str] | None:
    """What a run recommends; None if it failed. Unlike `check_format` it does not ask how the run got there."""
    try:
        last = parse(run.text)[-1:]
    except MalformedTrajectory:
        return None
    ranked = last[0].text.split() if last and last[0].kind == "recommend" else []
    return ranked if sorted(ranked) == sorted(letters) else None
