"""Claims of chapter 9, *Reasoning to Rank*.

Experiment `09_reasoning_to_rank`; its module says what arms and settings are. The paper's numbers come from notes on
its text (Qwen2.5-3B, Amazon *Video Games*, 1 + 19 candidates). Without a setting, NDCG@10 on lists of 1 + 19 ads in a
world whose texts say nearly everything that moves a click.

What had been seen before the thresholds were fixed: one pilot in a world that is not recorded (seed 1000), whose
numbers stand in the experiment's module: Bayes .694, regression .627, yes / no after SFT .547, joint .562 (at other
rates .31 to .57), per-item credit .563, head only .563, no reasoning .240, with equal time .443, by softmax .539, by
the exact expectation .468; findings of the cold start .995 true. Not seen: no SFT, LM only, dummy tokens, temperatures,
list-wise models, models that see clicks, and variances of gradients beyond those of the sheet.
"""

from typing import Literal

from reclib.ledger import Cell, Claim, Difference, Least, Ratio

NAME, FIXED = "09_reasoning_to_rank", "2026-11-27"
WORLD, SCORES = "adworld", "scores"
SEEN = "a pilot had been seen, see the top of this file"

PAPER = "Reasoning to Rank (Zheng et al., 2026)"
SHEET = "The method's arithmetic"
BOOK = "This book: chapter 9"


def at(arm: str, metric: str = "ndcg@10", setting: str = "", x: float | None = None) -> Cell:
    """Of a ranker."""
    return Cell(arm, metric, WORLD, setting, x)


def gap(arm: str, other: str, metric: str = "ndcg@10", setting: str = "", other_setting: str = "") -> Difference:
    """Between two rankers."""
    return Difference(at(arm, metric, setting), at(other, metric, other_setting))


def drawn(arm: str, metric: str, rankings: float) -> Cell:
    """Of an estimator of the gradient."""
    return Cell(arm, metric, SCORES, "", rankings)


def claim(
    name: str,
    text: str,
    statistic: Cell | Difference | Ratio | Least | None,
    direction: Literal[">", "<"],
    threshold: float,
    *,
    paper: str = BOOK,
    value: float | None = None,
    setting: str = "",
    not_testable: str = "",
) -> Claim:
    """One of this chapter."""
    return Claim(
        id=f"ch09-{name}", paper=paper, chapter=9, claim=text, paper_value=value, paper_setting=setting,
        experiment=NAME, statistic=statistic, direction=direction, threshold=threshold, fixed=FIXED,
        not_testable=not_testable,
    )  # fmt: skip


CLAIMS = (
    claim(
        "games",
        "NDCG@10 is .596 with reasoning and .458 without on Amazon's Video Games.",
        None,
        ">",
        0.596,
        paper=PAPER,
        value=0.596,
        setting="Qwen2.5-3B, different prompts in the two runs",
        not_testable="no language model of that size runs here",
    ),
    claim(
        "industrial",
        "It beats its baselines on an industrial set.",
        None,
        ">",
        0.0,
        paper=PAPER,
        setting="numbers not known",
        not_testable="the set is not public",
    ),
    # ---------------------------------------------------------------- does thinking pay?
    claim(
        "reasoning",
        "With rationales NDCG@10 is higher than without, after as many lists (joint training).",
        gap("joint", "no reasoning"),
        ">",
        0.0,
        paper=PAPER,
        value=0.138,
        setting=f".596 against .458; {SEEN}",
    ),
    claim(
        "reasoning-large",
        "With rationales NDCG@10 is higher by at least .1.",
        gap("joint", "no reasoning"),
        ">",
        0.1,
        paper=PAPER,
        value=0.138,
        setting=SEEN,
    ),
    claim(
        "dummy",
        "It is not the additional tokens: dummy tokens do worse than rationales.",
        gap("joint", "dummy tokens"),
        ">",
        0.0,
    ),
    claim(
        "dummy-nothing",
        "Dummy tokens are worth less than .02 over scoring the prompt at once.",
        gap("dummy tokens", "no reasoning"),
        "<",
        0.02,
    ),
    claim(
        "equal-time",
        "Without rationales a ranker that sees eight times as many lists in that time is still behind.",
        gap("joint", "no reasoning, equal time"),
        ">",
        0.0,
        setting=SEEN,
    ),
    claim(
        "supervised",
        "Trained by softmax cross-entropy, the silent ranker comes within .05 of the thinking one.",
        gap("joint", "no reasoning, softmax", other_setting="by loss"),
        "<",
        0.05,
        setting=SEEN,
    ),
    claim(
        "shuffled",
        "It is what the rationale says: with that of another ad of the list, NDCG@10 is below .3.",
        at("joint", "ndcg@10/shuffled"),
        "<",
        0.3,
        setting=f"a random order has .227; {SEEN}",
    ),
    claim(
        "regression",
        "A regression on the true findings is ahead of the trained ranker: reading is not what it lacks.",
        gap("regression", "joint"),
        ">",
        0.0,
        setting=SEEN,
    ),
    claim(
        "clicks",
        "Who reads texts ranks better than who sees clicks only (SASRec, GRU4Rec, item-kNN).",
        Least(tuple(gap("joint", other) for other in ("sasrec", "gru4rec", "itemknn"))),
        ">",
        0.0,
        paper=PAPER,
        setting="baselines are named, numbers not known",
    ),
    # ---------------------------------------------------------------- cold start
    claim(
        "cold-start",
        "The cold start helps: without SFT the ranker is worse.",
        gap("joint", "no sft"),
        ">",
        0.0,
        paper=PAPER,
        setting="an ablation is named",
    ),
    claim(
        "cold-start-stuck",
        "Without it reinforcement is stuck: the reward of the last fifth is below .35.",
        at("no sft", "training/reward", x=5.0),
        "<",
        0.35,
        setting="a random order has .227",
    ),
    claim(
        "denoised",
        "A model taught by rationales of which a fifth of the findings are wrong states 95 % right.",
        at("sft, yes / no", "findings"),
        ">",
        0.95,
        setting=SEEN,
    ),
    claim(
        "filter",
        "Keeping only rationales whose answer is what happened raises the share of true findings.",
        Difference(at("sft, yes / no", "kept/findings"), at("sft, yes / no", "taught/findings")),
        ">",
        0.0,
        paper=PAPER,
        setting="why the filter is there",
    ),
    claim(
        "filter-little",
        "It raises it by less than .03 only: an answer can be right for wrong reasons.",
        Difference(at("sft, yes / no", "kept/findings"), at("sft, yes / no", "taught/findings")),
        "<",
        0.03,
    ),
    # ---------------------------------------------------------------- what reinforcement adds
    claim(
        "rl",
        "Reinforcement improves on the yes / no of the cold start.",
        gap("joint", "sft, yes / no"),
        ">",
        0.0,
        paper=PAPER,
        setting=SEEN,
    ),
    claim(
        "joint-head",
        "Training head and language model together beats training the head alone.",
        gap("joint", "head only"),
        ">",
        0.0,
        paper=PAPER,
        setting=f"an ablation is named; {SEEN}",
    ),
    claim(
        "joint-lm",
        "Joint training beats the language model alone under a random head.",
        gap("joint", "lm only"),
        ">",
        0.0,
        paper=PAPER,
        setting="an ablation is named",
    ),
    claim(
        "head-softmax",
        "A head trained by softmax cross-entropy on the same rationales is as good as the joint one (within .01).",
        gap("head, softmax", "joint", setting="by loss"),
        ">",
        -0.01,
        setting=SEEN,
    ),
    claim(
        "credit",
        "Credit for each item's own rationale earns more reward at the end of training than shared credit.",
        Difference(at("item credit", "training/reward", x=5.0), at("joint", "training/reward", x=5.0)),
        ">",
        0.0,
        setting=SEEN,
    ),
    claim(
        "credit-ndcg",
        "It also has a higher NDCG@10 on new users.",
        gap("item credit", "joint"),
        ">",
        0.0,
        setting=SEEN,
    ),
    claim(
        "entropy",
        "Without the entropy term the policy is surer of itself at the end.",
        Difference(at("no entropy", "training/entropy", x=5.0), at("joint", "training/entropy", x=5.0)),
        "<",
        0.0,
        paper=SHEET,
    ),
    claim(
        "entropy-ndcg",
        "Leaving the entropy term out does no harm to NDCG@10 (within .02).",
        gap("no entropy", "joint"),
        ">",
        -0.02,
    ),
    claim(
        "cold",
        "A low temperature (τ = .3) collapses: its last fifth has less than half the entropy of τ = 1.",
        Ratio(at("τ = .3", "training/entropy", x=5.0), at("joint", "training/entropy", x=5.0)),
        "<",
        0.5,
        paper=SHEET,
    ),
    claim(
        "warm",
        "A high temperature (τ = 3) is worse than τ = 1.",
        gap("joint", "τ = 3"),
        ">",
        0.0,
    ),
    claim(
        "calibration",
        "Scores learnt from NDCG are worse probabilities than those of a head trained by softmax.",
        gap("joint", "head, softmax", "law", other_setting="by loss"),
        ">",
        0.0,
        setting=SEEN,
    ),
    # ---------------------------------------------------------------- order of the candidates
    claim(
        "invariance",
        "Another order of the candidates changes no NDCG (deviation below 1e-9).",
        at("pointwise", "ndcg deviation", "shuffles"),
        "<",
        1e-9,
        paper=PAPER,
        setting="by construction",
    ),
    claim(
        "listwise",
        "A listwise model's NDCG@10 of a list deviates by more than .05 between orders.",
        at("listwise", "ndcg deviation", "shuffles"),
        ">",
        0.05,
        paper=PAPER,
        setting="position bias, as a problem",
    ),
    claim(
        "listwise-first",
        "In more than a fifth of the orders another ad comes first.",
        at("listwise", "first changes", "shuffles"),
        ">",
        0.2,
    ),
    claim(
        "listwise-worse",
        "The pointwise ranker is better than the listwise one of the same size.",
        gap("pointwise", "listwise", setting="shuffles", other_setting="shuffles"),
        ">",
        0.0,
        paper=PAPER,
    ),
    # ---------------------------------------------------------------- gradients
    claim(
        "loo-variance",
        "With four rankings the leave-one-out gradient has less than a fifth of REINFORCE's variance.",
        Ratio(drawn("leave one out", "variance", 4.0), drawn("reinforce", "variance", 4.0)),
        "<",
        0.2,
        paper=SHEET,
        value=0.09,
        setting="three items: .0037 to .0045 over .045",
    ),
    claim(
        "pl-rank-variance",
        "PL-Rank has less than half the variance of leave one out.",
        Ratio(drawn("pl-rank", "variance", 4.0), drawn("leave one out", "variance", 4.0)),
        "<",
        0.5,
        setting="not seen",
    ),
    claim(
        "direction",
        "With four rankings an estimate by leave one out has a cosine below .5 with the true gradient.",
        drawn("leave one out", "cosine", 4.0),
        "<",
        0.5,
    ),
)
