"""Claims of chapter 14, *AD-Bench*.

Experiment `14_adbench`; its module says what agents, settings and data sets are. The paper's data, tools, matching rule
and judge are private, so nothing here repeats its scores: what is tested is its arithmetic, its method (replayed truth,
coverage of trajectories), and what 100 tasks with three runs each can tell, on agents whose faults are known.

What had been seen before the thresholds were fixed: the counts behind the board and bounds on pass^3 (the spec sheet
has the counts, a first run of `board` the bounds); power for gains of .02, .05 and .1 from one stream (paired .12, .47,
.98 with 100 tasks, .56, 1, 1 with 823; unpaired .00, .01, .48); and one set of tasks (seed 0) with the oracle (all
right) and with noise .7 (pass@1 .71, pass@3 .98, pass^3 .37; every diagnosis as designed). Claims say so.
"""

from reclib.ledger import Cell, Claim, Difference, Least

NAME, FIXED = "14_adbench", "2026-11-27"
SEEN = "a pilot had been seen, see the top of this file"

ADBENCH = "AD-Bench (Hu et al., 2026)"
SHEET = "Notes on AD-Bench's board"
BOOK = "This book: chapter 14"


def agent(name: str, metric: str, setting: str = "", x: float | None = None) -> Cell:
    """Of a scripted agent."""
    return Cell(name, metric, "adbench", setting, x)


def row(model: str, metric: str) -> Cell:
    """Of the public board."""
    return Cell(model, metric, "board")


def power(design: str, metric: str, gain: float) -> Cell:
    """How often two agents are told apart."""
    return Cell("leader", metric, "design", f"power, {design}", gain)


def spread(metric: str, runs: int) -> Cell:
    """Of an estimator over 100 tasks."""
    return Cell("leader", metric, "design", "estimators", runs)


NOISY, ORACLE = "noisy, .7", "oracle"

CLAIMS = (
    Claim(
        id="ch14-gemini",
        paper=ADBENCH,
        chapter=14,
        claim="Gemini-3-Pro solves 68.0 % of the runs (Pass@1), and 83.0 % of the tasks in one of three (Pass@3).",
        paper_value=0.68,
        paper_setting="their 100 tasks",
        experiment=NAME,
        statistic=None,
        direction=">",
        threshold=0.68,
        fixed=FIXED,
        not_testable="their tasks, tools and judge are private; no language model was run here",
    ),
    Claim(
        id="ch14-coverage",
        paper=ADBENCH,
        chapter=14,
        claim="It covers 70.1 % of the experts' trajectories.",
        paper_value=0.701,
        paper_setting="their tasks",
        experiment=NAME,
        statistic=None,
        direction=">",
        threshold=0.701,
        fixed=FIXED,
        not_testable="their tasks and matching rule are private",
    ),
    # ---------------------------------------------------------------- the board's arithmetic
    Claim(
        id="ch14-board-exact",
        paper=SHEET,
        chapter=14,
        claim="Every cell of the board fits three runs of each of 100 tasks, to its last digit.",
        paper_value=None,
        paper_setting="checked by others for all ten models",
        experiment=NAME,
        statistic=row("board", "error"),
        direction="<",
        threshold=0.05,
        fixed=FIXED,
        seeds=1,
    ),
    Claim(
        id="ch14-levels",
        paper=ADBENCH,
        chapter=14,
        claim="The levels get harder: for most models Pass@1 falls from level 1 to 2 to 3.",
        paper_value=None,
        paper_setting="seen in their table",
        experiment=NAME,
        statistic=row("board", "levels in order"),
        direction=">",
        threshold=0.5,
        fixed=FIXED,
        seeds=1,
    ),
    Claim(
        id="ch14-bounds",
        paper=BOOK,
        chapter=14,
        claim="The board hides reliability: for its leader in Pass@3, the share of tasks solved three "
        "times out of three may lie anywhere in a range of at least .2.",
        paper_value=None,
        paper_setting=f"in tasks of 100; {SEEN}",
        experiment=NAME,
        statistic=Difference(row("Gemini-3-Pro", "always/most"), row("Gemini-3-Pro", "always/least")),
        direction=">",
        threshold=20,
        fixed=FIXED,
        seeds=1,
    ),
    Claim(
        id="ch14-overlap",
        paper=SHEET,
        chapter=14,
        claim="At least half of the rows cannot be told from the best by their intervals over tasks.",
        paper_value=None,
        paper_setting="ranks 1 to 7 overlap",
        experiment=NAME,
        statistic=row("board", "overlapping"),
        direction=">",
        threshold=0.5,
        fixed=FIXED,
        seeds=1,
    ),
    # ---------------------------------------------------------------- how many tasks, how many runs
    Claim(
        id="ch14-power-small",
        paper=BOOK,
        chapter=14,
        claim="100 tasks with three runs each do not tell agents apart that differ by .05 in Pass@1, even "
        "task by task: power below .8.",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=power("100 × 3", "paired", 0.05),
        direction="<",
        threshold=0.8,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-power-board",
        paper=BOOK,
        chapter=14,
        claim="From a board alone, without results task by task, the power at .1 is below .8 too.",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=power("100 × 3", "unpaired", 0.1),
        direction="<",
        threshold=0.8,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-power-large",
        paper=BOOK,
        chapter=14,
        claim="The 823 tasks that the paper speaks of would do for .05.",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=power("823 × 3", "paired", 0.05),
        direction=">",
        threshold=0.8,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-more-tasks",
        paper=BOOK,
        chapter=14,
        claim="Tasks are worth more than runs: 300 tasks with three runs have more power at .05 than 100 with ten.",
        paper_value=None,
        paper_setting="",
        experiment=NAME,
        statistic=Difference(power("300 × 3", "paired", 0.05), power("100 × 10", "paired", 0.05)),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-plug-in",
        paper=SHEET,
        chapter=14,
        claim="The plug-in 1 - (1 - c/n)^k is biased: by more than -.03 for pass@3 from three runs.",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=spread("plug-in/bias", 3),
        direction="<",
        threshold=-0.03,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-hat-spread",
        paper=BOOK,
        chapter=14,
        claim="Reliability is harder to measure: from three runs pass^3 has a larger spread than pass@3.",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=Difference(spread("pass^k/spread", 3), spread("pass@k/spread", 3)),
        direction=">",
        threshold=0.0,
        fixed=FIXED,
    ),
    # ---------------------------------------------------------------- the benchmark on agents that are known
    Claim(
        id="ch14-oracle",
        paper=ADBENCH,
        chapter=14,
        claim="Replayed truth is consistent: the expert's trajectory answers every task, with full coverage.",
        paper_value=None,
        paper_setting=SEEN,
        experiment=NAME,
        statistic=Least(
            (agent(ORACLE, "pass@1"), agent(ORACLE, "multiset"), agent(ORACLE, "ordered"), agent(ORACLE, "result"))
        ),
        direction=">",
        threshold=0.999,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-recovers-low",
        paper=BOOK,
        chapter=14,
        claim="The harness recovers what an agent is: one that succeeds with probability .7 gets a Pass@1 above .65.",
        paper_value=0.7,
        paper_setting=f"by construction; {SEEN}",
        experiment=NAME,
        statistic=agent(NOISY, "pass@1"),
        direction=">",
        threshold=0.65,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-recovers-high",
        paper=BOOK,
        chapter=14,
        claim="And one below .75.",
        paper_value=0.7,
        paper_setting=f"by construction; {SEEN}",
        experiment=NAME,
        statistic=agent(NOISY, "pass@1"),
        direction="<",
        threshold=0.75,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-gap",
        paper=ADBENCH,
        chapter=14,
        claim="Pass@3 flatters: the same agent has a Pass@3 above its pass^3 by more than .5.",
        paper_value=0.63,
        paper_setting=f"theory: 1 - .3³ and .7³; {SEEN}",
        experiment=NAME,
        statistic=Difference(agent(NOISY, "pass@3"), agent(NOISY, "pass^3")),
        direction=">",
        threshold=0.5,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-lucky",
        paper=ADBENCH,
        chapter=14,
        claim="A right answer is no trajectory: an agent that knows the answers and calls nothing passes, "
        "and covers nothing.",
        paper_value=None,
        paper_setting="",
        experiment=NAME,
        statistic=Difference(agent("lucky", "pass@1"), agent("lucky", "multiset")),
        direction=">",
        threshold=0.95,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-covered-wrong",
        paper=ADBENCH,
        chapter=14,
        claim="And full coverage is no right answer: of an analyst that slips in units, more than a tenth "
        "of the runs cover everything and are wrong.",
        paper_value=None,
        paper_setting="",
        experiment=NAME,
        statistic=agent("only unit_slip", "wrong, covered", "dials"),
        direction=">",
        threshold=0.1,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-order",
        paper=BOOK,
        chapter=14,
        claim="One call per message or all at once: coverage is the same.",
        paper_value=None,
        paper_setting="",
        experiment=NAME,
        statistic=Least(
            (agent("sequential", "multiset"), agent("sequential", "ordered"), agent("sequential", "result"))
        ),
        direction=">",
        threshold=0.999,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-diagnosis",
        paper=BOOK,
        chapter=14,
        claim="A taxonomy finds the fault: at least 95 % of the failures get the diagnosis they were designed for.",
        paper_value=None,
        paper_setting=f"one fault per run, and the rules know which faults there are; {SEEN}",
        experiment=NAME,
        statistic=agent(NOISY, "diagnosed"),
        direction=">",
        threshold=0.95,
        fixed=FIXED,
    ),
    # ---------------------------------------------------------------- answers go stale
    Claim(
        id="ch14-stale-static",
        paper=ADBENCH,
        chapter=14,
        claim="After one day, fixed answers are wrong: on tasks whose truth moves daily they mark fewer "
        "than 5 % of an expert's right answers as right.",
        paper_value=None,
        paper_setting="",
        experiment=NAME,
        statistic=agent(ORACLE, "static/daily", "later", 1),
        direction="<",
        threshold=0.05,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-stale-replayed",
        paper=ADBENCH,
        chapter=14,
        claim="Replayed ones are not: they mark all of them as right.",
        paper_value=None,
        paper_setting="",
        experiment=NAME,
        statistic=agent(ORACLE, "replayed/daily", "later", 1),
        direction=">",
        threshold=0.999,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-stale-agent",
        paper=ADBENCH,
        chapter=14,
        claim="An agent with yesterday's answers fails by replayed truth, on the same tasks, and passes by fixed ones.",
        paper_value=None,
        paper_setting="",
        experiment=NAME,
        statistic=Difference(agent("stale", "static/daily", "later", 1), agent("stale", "replayed/daily", "later", 1)),
        direction=">",
        threshold=0.9,
        fixed=FIXED,
    ),
    Claim(
        id="ch14-stale-never",
        paper=BOOK,
        chapter=14,
        claim="Tasks whose truth never moves do not go stale: fixed answers are as good after two weeks.",
        paper_value=None,
        paper_setting="",
        experiment=NAME,
        statistic=agent(ORACLE, "static/never", "later", 14),
        direction=">",
        threshold=0.999,
        fixed=FIXED,
    ),
)
