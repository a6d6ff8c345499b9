r"""AD-Bench's public leaderboard, and what three runs of 100 tasks can say.

The board shows Pass@1 and Pass@3 in percent, in all and by level. Every cell fits three runs of every task: Pass@1 is
successes / 3N, Pass@3 the share of tasks with at least one. So whole numbers can be read back, and from them follow
bounds on what the board does not show, pass^3, and how far two rows have to be apart before they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq
from scipy.special import expit, logit

from reclib.agents.metrics import pass_at_k, pass_hat_k

LEVELS = (24, 47, 29)  # tasks of level 1, 2, 3
RUNS = 3
# Pass@1 and Pass@3 in percent: all tasks, then by level. The board's first version, read in 2026.
BOARD: dict[str, tuple[tuple[float, float], ...]] = {
    "Gemini-3-Pro": ((68.0, 83.0), (77.8, 91.7), (74.5, 91.5), (49.4, 62.1)),
    "o3": ((69.0, 82.0), (86.1, 91.7), (75.9, 91.5), (43.7, 58.6)),
    "GPT-5.1": ((64.7, 82.0), (88.9, 95.8), (66.7, 83.0), (41.4, 69.0)),
    "HY-2.0": ((65.7, 82.0), (84.7, 87.5), (70.2, 91.5), (42.5, 62.1)),
    "GLM-4.7": ((64.7, 81.0), (72.2, 87.5), (72.3, 91.5), (46.0, 58.6)),
    "DeepSeek-V3": ((68.3, 80.0), (81.9, 87.5), (74.5, 87.2), (47.1, 62.1)),
    "Kimi-K2": ((64.0, 79.0), (83.3, 91.7), (66.7, 85.1), (43.7, 58.6)),
    "Qwen3-235B": ((54.3, 68.0), (79.2, 87.5), (53.2, 72.3), (35.6, 44.8)),
    "Qwen3-32B": ((38.0, 59.0), (50.0, 70.8), (41.8, 63.8), (21.8, 41.4)),
    "Qwen3-8B": ((38.0, 58.0), (51.4, 79.2), (41.8, 61.7), (20.7, 34.5)),
}


class Counts(NamedTuple):
    """Whole numbers behind a row of the board, level by level."""

    successes: tuple[int, ...]  # of RUNS · N runs
    solved: tuple[int, ...]  # tasks with at least one
    error: float  # largest distance, in percentage points, of a cell from what these numbers give


def recovered(row: tuple[tuple[float, float], ...], levels: tuple[int, ...] = LEVELS, runs: int = RUNS) -> Counts:
    """Read whole numbers back from percentages with one decimal.

    Raises:
        ValueError: not one cell per level and one for all.
    """
    if len(row) != len(levels) + 1:
        raise ValueError(f"row: {len(row)} cells for {len(levels)} levels; give the one for all tasks first")
    successes = tuple(round(first * n * runs / 100) for (first, _), n in zip(row[1:], levels, strict=True))
    solved = tuple(round(third * n / 100) for (_, third), n in zip(row[1:], levels, strict=True))
    made = [(s / (runs * n), t / n) for s, t, n in zip(successes, solved, levels, strict=True)]
    made.insert(0, (sum(successes) / (runs * sum(levels)), sum(solved) / sum(levels)))
    error = max(abs(100 * x - y) for pair, cell in zip(made, row, strict=True) for x, y in zip(pair, cell, strict=True))
    return Counts(successes, solved, error)


def always_bounds(successes: int, solved: int, runs: int = RUNS) -> tuple[int, int]:
    """How many tasks may have succeeded in all three runs: at least, at most.

    With n₁, n₂, n₃ tasks that succeeded once, twice, three times: n₁ + n₂ + n₃ = solved, n₁ + 2n₂ + 3n₃ = successes.

    Raises:
        ValueError: numbers that cannot be, or another number of runs than three.
    """
    if runs != RUNS:
        raise ValueError(f"runs: the two sums leave one number open with {RUNS} runs; {runs} were given")
    if not solved <= successes <= runs * solved:
        raise ValueError(f"successes: {successes} in {solved} solved tasks cannot be; between one and {runs} in each")
    return max(0, successes - 2 * solved), (successes - solved) // 2


def spectrum(successes: int, solved: int, always: int, tasks: int) -> Int[np.ndarray, "tasks"]:
    """Successes of each task, given how many succeeded in all runs."""
    twice = successes - solved - 2 * always
    once = solved - always - twice
    if min(once, twice, tasks - solved) < 0:
        raise ValueError(f"always: {always} does not fit {successes} successes in {solved} of {tasks} tasks")
    return np.repeat([0, 1, 2, 3], [tasks - solved, once, twice, always])


def bootstrap(
    successes: Int[np.ndarray, "tasks"], rng: np.random.Generator, runs: int = RUNS, draws: int = 20_000
) -> tuple[float, float]:
    """95 % interval of Pass@1 over tasks that might have been asked."""
    drawn = rng.choice(successes, size=(draws, len(successes)))
    low, high = np.quantile(drawn.mean(1) / runs, [0.025, 0.975])
    return float(low), float(high)


# ------------------------------------------------------------------ agents whose tasks differ in difficulty


@dataclass(frozen=True)
class Skill:
    """An agent's chance of success differs from task to task: Beta(a, b)."""

    a: float
    b: float

    @staticmethod
    def of(first: float, third: float) -> Skill:
        """The one with this Pass@1 and Pass@3, as shares.

        Raises:
            ValueError: no Beta has them: Pass@3 lies between Pass@1 and 1 - (1 - Pass@1)³.
        """
        if not 0 < first < third < 1 - (1 - first) ** 3:
            raise ValueError(
                f"third: {third} cannot be with Pass@1 {first}; it lies above that and below 1 - (1 - p)^3"
            )

        def excess(log_size: float) -> float:
            n = np.exp(log_size)
            b = (1 - first) * n
            return float(1 - b * (b + 1) * (b + 2) / (n * (n + 1) * (n + 2)) - third)  # 1 - E(1 - p)³

        size = float(np.exp(brentq(excess, -12, 12)))
        return Skill(first * size, (1 - first) * size)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Float[np.ndarray, "*shape"]:
        """Chances of success of some tasks."""
        return rng.beta(self.a, self.b, size=shape)


def shifted(chance: Float[np.ndarray, "*shape"], by: float) -> Float[np.ndarray, "*shape"]:
    """The same tasks for an agent that is better by so much, in logits: hard tasks stay the harder ones."""
    out: np.ndarray = expit(logit(np.clip(chance, 1e-9, 1 - 1e-9)) + by)
    return out


def shift_for(skill: Skill, gain: float, rng: np.random.Generator) -> float:
    """By how many logits an agent has to be better so that its Pass@1 is higher by `gain`."""
    chance = skill.draw((20_000,), rng)
    return float(brentq(lambda by: shifted(chance, by).mean() - chance.mean() - gain, 0, 20))


def power(
    skill: Skill, gain: float, tasks: int, runs: int, rng: np.random.Generator, repeats: int = 1000
) -> dict[str, float]:
    """How often two agents, one better by `gain` in Pass@1, are told apart on the same tasks.

    `paired`: a t-test of differences task by task at 5 %. `unpaired`: of the two means, as one has to when only a board
    is known. `order`: how often the better one has the higher mean.
    """
    chance = skill.draw((repeats, tasks), rng)
    better = shifted(chance, shift_for(skill, gain, rng))
    one, other = (rng.binomial(runs, p) / runs for p in (chance, better))
    found = {"order": float((other.mean(1) > one.mean(1)).mean())}
    mean = (other - one).mean(1)
    for name, variance in (
        ("paired", (other - one).var(1, ddof=1)),
        ("unpaired", one.var(1, ddof=1) + other.var(1, ddof=1)),
    ):
        found[name] = float((mean > 1.96 * np.sqrt(variance / tasks)).mean())
    return found


def estimators(
    skill: Skill, tasks: int, runs: int, k: int, rng: np.random.Generator, repeats: int = 2000
) -> dict[str, float]:
    """Bias and spread of pass@k from `runs` runs of each task, of the plug-in 1 - (1 - c/n)^k, and of pass^k."""
    chance = skill.draw((repeats, tasks), rng)
    c = rng.binomial(runs, chance)
    truth, always = 1 - (1 - chance) ** k, chance**k
    ours, plug = pass_at_k(runs, c, k).mean(1) - truth.mean(1), (1 - (1 - c / runs) ** k).mean(1) - truth.mean(1)
    hat = pass_hat_k(runs, c, k).mean(1) - always.mean(1)
    return {
        "pass@k/bias": float(ours.mean()), "pass@k/spread": float(ours.std()),
        "plug-in/bias": float(plug.mean()), "plug-in/spread": float(plug.std()),
        "pass^k/bias": float(hat.mean()), "pass^k/spread": float(hat.std()),
    }  # fmt: skip
