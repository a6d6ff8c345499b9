"""A run of an agent as one linear text, the reward of such a text, and the tasks that it answers.

The format of STAR (Wu et al., 2026), its tags theirs, the words between them ours:

    <plan> profile history recent divergence </plan>
    <tool_call> profile </tool_call> <tool_response> woman likes durable </tool_response>
    wants durable C durable K durable . against men B men .
    <tool_call> item_cf tents_11 </tool_call> <tool_response> also chose tea_03 sofas_08 theme tea </tool_response>
    now tents C tents . also tea_03 . sofas_08 K
    <reflection> trust both </reflection>
    <recommend> K C A B … </recommend>

Words outside of tags are notes. All words and tags are separated by one space.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

PhaseName = Literal["plan", "tool_call", "tool_response", "reflection", "recommend"]
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
TAGS = tuple(tag for phase in PHASES for tag in (f"<{phase}>", f"</{phase}>"))
LETTERS = tuple(string.ascii_uppercase[:20])
NONE = "none"  # in place of an event that there is not
STOP = "."  # in place of a letter that there is not


class MalformedTrajectory(ValueError):
    """A text that is no trajectory; the message says where it goes wrong."""


# ------------------------------------------------------------------ tasks


class Candidate(NamedTuple):
    """An ad to rank."""

    letter: str  # how an answer names it
    ad: str  # its name, one word
    topic: str
    about: str  # its selling point, and behind a hyphen whom it addresses if not everybody: "durable-men"

    @property
    def selling(self) -> str:
        """The selling point."""
        return self.about.partition("-")[0]

    @property
    def audience(self) -> str:
        """Whom it addresses; "" for everybody."""
        return self.about.partition("-")[2]


class Task(NamedTuple):
    """Rank these candidates for this person."""

    user: str  # key of the person in a store
    prompt: str  # all that is read before anything is written
    target: str  # letter of the ad that was chosen
    name: str = ""  # of the task, unique among those that are solved together


class Question(NamedTuple):
    """A prompt, read."""

    recent: tuple[tuple[str, str], ...]  # ad and topic of the last events, oldest first
    candidates: tuple[Candidate, ...]

    @property
    def letters(self) -> tuple[str, ...]:
        """Of the candidates, in their order."""
        return tuple(candidate.letter for candidate in self.candidates)


def write_prompt(recent: Sequence[tuple[str, str]], candidates: Iterable[Candidate], shown: int = 0) -> str:
    """`recent ad topic … candidates A ad topic about B …`; `read_prompt` is the inverse.

    Args:
        recent: ad and topic of the last events, oldest first.
        candidates: the ads to rank.
        shown: fills up the recent events to so many pairs with `none`, so that every candidate always stands at the
            same place, which small models with absolute positions need (our choice).

    Raises:
        ValueError: an ad that is named like a letter; notes that name it would be read as votes for that candidate.
    """
    recent, candidates = list(recent), list(candidates)
    if mistaken := {*LETTERS, STOP} & {*(ad for ad, _ in recent), *(candidate.ad for candidate in candidates)}:
        raise ValueError(f"candidates, recent: ads are named {sorted(mistaken)}, like letters; use longer names")
    filled = [(NONE, NONE)] * (shown - len(recent)) + recent
    words = ["recent", *(word for pair in filled for word in pair), "candidates"]
    return " ".join([*words, *(word for candidate in candidates for word in candidate)])


def read_prompt(prompt: str) -> Question:
    """What `write_prompt` wrote, without what it filled up.

    Raises:
        ValueError: another text.
    """
    words = prompt.split()
    middle = words.index("candidates") if "candidates" in words else 0
    shown, listed = words[1:middle], words[middle + 1 :]
    if words[:1] != ["recent"] or len(shown) % 2 or not listed or len(listed) % 4:
        raise ValueError(
            "prompt: must read 'recent AD TOPIC … candidates LETTER AD TOPIC ABOUT …', "
            f"got {prompt[:60]!r}; write it with write_prompt"
        )
    recent = tuple(pair for pair in zip(shown[::2], shown[1::2], strict=True) if pair != (NONE, NONE))
    return Question(recent, tuple(Candidate(*listed[i : i + 4]) for i in range(0, len(listed), 4)))


# ------------------------------------------------------------------ text ⇄ steps


class Step(NamedTuple):
    """A tagged part of a trajectory, or a note."""

    kind: PhaseName | Literal["note"]
    text: str  # without its tags


def serialise(steps: Iterable[Step]) -> str:
    """Steps as one text."""
    return " ".join(s.text if s.kind == "note" else f"<{s.kind}> {s.text} </{s.kind}>" for s in steps)


def parse(text: str) -> list[Step]:
    """The steps of a text; the inverse of `serialise` for steps that are not empty.

    Raises:
        MalformedTrajectory: a tag that is opened twice, never closed, closed without being open, or empty.
    """
    steps: list[Step] = []
    inside: str | None = None
    words: list[str] = []
    for word in text.split():
        if word not in TAGS:
            words.append(word)
        elif word == f"</{inside}>":
            if not words:
                raise MalformedTrajectory(f"<{inside}> is empty")
            steps.append(Step(inside, " ".join(words)))  # type: ignore[arg-type]  # one of PHASES
            inside, words = None, []
        elif word.startswith("</") or inside is not None:
            where = "outside of any tag" if inside is None else f"inside of <{inside}>"
            raise MalformedTrajectory(f"{word} {where}")
        else:
            if words:
                steps.append(Step("note", " ".join(words)))
            inside, words = word[1:-1], []
    if inside is not None:
        raise MalformedTrajectory(f"<{inside}> is never closed")
    if words:
        steps.append(Step("note", " ".join(words)))
    return steps


def check_format(text: str, letters: Sequence[str], *, reflection: bool = True) -> list[str]:
    """The letters that a valid trajectory recommends, best first.

    Valid is (our choice of what "all phases present and valid" means): one plan, at the beginning; at least one tool
    call, each answered at once; a reflection behind the first answer; one recommendation, at the end, that names every
    candidate once.

    Args:
        text: a trajectory.
        letters: of the candidates.
        reflection: whether there has to be one.

    Raises:
        MalformedTrajectory: the first thing that is wrong.
    """
    steps = parse(text)
    kinds = [step.kind for step in steps]
    if kinds[:1] != ["plan"] or kinds.count("plan") != 1:
        raise MalformedTrajectory("there must be one plan, at the beginning")
    if kinds[-1:] != ["recommend"] or kinds.count("recommend") != 1:
        raise MalformedTrajectory("there must be one recommendation, at the end")
    calls = [after for before, after in itertools.pairwise(kinds) if before == "tool_call"]
    if not calls or set(calls) != {"tool_response"} or kinds.count("tool_response") != len(calls):
        raise MalformedTrajectory("there must be a tool call, and a response behind each call and nowhere else")
    if reflection and "reflection" not in kinds[kinds.index("tool_response") :]:
        raise MalformedTrajectory("there must be a reflection behind the first response")
    ranked = steps[-1].text.split()
    if sorted(ranked) != sorted(letters):
        raise MalformedTrajectory("the recommendation must name every candidate once")
    return ranked


# ------------------------------------------------------------------ reward


class Reward(NamedTuple):
    """Both parts, to be logged apart."""

    form: float  # R_fmt
    outcome: float  # R_out

    @property
    def total(self) -> float:
        """R = R_fmt + R_out, in [-1, 2]."""
        return self.form + self.outcome


def tier_reward(rank: int) -> float:
    """R_out: 1, 2/3, 1/3, 0 for rank 1, ≤ 3, ≤ 5, worse: the mean of HR@1, HR@3 and HR@5 of one answer."""
    if rank < 1:
        raise ValueError(f"rank: the best is 1, got {rank}")
    return ((rank <= 1) + (rank <= 3) + (rank <= 5)) / 3


def reward(text: str, target: str, letters: Sequence[str], *, reflection: bool = True) -> Reward:
    """R_fmt = ±1, and R_out, which does not count where the format is invalid (our choice; the notes are silent)."""
    try:
        ranked = check_format(text, letters, reflection=reflection)
    except MalformedTrajectory:
        return Reward(-1.0, 0.0)
    return Reward(1.0, tier_reward(ranked.index(target) + 1))
