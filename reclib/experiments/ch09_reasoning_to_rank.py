r"""Chapter 9: does it pay to think about each pair before it is scored?

Each seed is a world of its own. Data set `adworld`, lists of 1 + 19 ads, of users that no list to learn from has:

- arms without a language model: `bayes` (the true law, the ceiling), `regression` (handed the true findings),
  `popularity`, `itemknn`, `gru4rec`, `sasrec` (which see clicks and no text): `ndcg@10`, `hr@1`.
- `reader` (before the cold start): `drills`, the share of its answers that are right. `sft, yes / no` (after it, ranked
  by log π(yes) - log π(no)): the same metrics, and of its rationales `findings` (share that is true),
  `findings/next`, `answered`, `right`, `length`, `runaway`, `ndcg@10/shuffled` (each ad with another's rationale);
  and `taught/findings`, `kept/yes`, `kept/no`, `kept/findings` of what it was taught from.
- the rankers of `rank_training.ARMS`, trained by reinforcement on the same lists in as many steps; besides, x = fifth
  of the training: `training/reward`, `training/entropy`; and `train seconds`.
- setting `"by loss"`: the same without a draw of rankings: arms `head, softmax`, `no reasoning, softmax`,
  `no reasoning, exact`.
- setting `"shuffles"`: `pointwise` (SFT, yes / no) and `listwise` under 20 orders of the same candidates:
  `ndcg deviation`, `first changes`, `first place` and `ndcg@10`.

Data set `scores`: estimates of ∇E[NDCG@10] for random scores of 20 items, arms `reinforce`, `leave one out`,
`pl-rank`; x = rankings drawn per list: `variance` (per component), `bias` (norm of the mean error over the norm of the
gradient), `cosine` (of one estimate with the true gradient).

**How the recipe came about.** In world 1000, which is not recorded, rates of the language model of 1e-3, 3e-4, 1e-4 and
3e-5 were tried for thinking (150 steps) and for silent rankers (1,200 steps), once each, and rates of the head of 1e-3
and 3e-3. Seen there, NDCG@10 on 200 lists (Bayes .694, regression .627, yes / no .547): joint .359, .313, .513, .562;
with per-item credit 1e-4 .560, 3e-5 .555, and .563 with a penalty of .02; head only .563; no reasoning, equal time
.238, .357, .443; by softmax .539, by the exact expectation .468. At 3e-4 and above the joint ranker forgot how to
end a rationale. 1e-4 and the penalty serve all arms since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from reclib.experiments import protocol
from reclib.experiments.rank_training import (
    ARMS,
    Regression,
    ThinkerConfig,
    build,
    cold_start,
    drills,
    encoded,
    list_quality,
    list_scores,
    order_dependence,
    pair_scores,
    ranking_quality,
    teach,
    train_by_loss,
    train_lister,
    train_ranker,
    train_reader,
    yes_or_no,
)
from reclib.experiments.rationales import Candidates, Reading, ReadingConfig, make_reading, read_rationale
from reclib.experiments.results import Book, Measured, chosen_parts, results_root
from reclib.language import TinyLM, TinyLMConfig, pad
from reclib.reasoning.plackett_luce import (
    draw_rankings,
    exact_ranking_loss,
    leave_one_out_ranking_loss,
    ndcg,
    pl_rank_gradient,
    reinforce_ranking_loss,
)
from reclib.reasoning.reasoning_to_rank import RankTraining, ReasoningToRank, ReasoningToRankConfig

NAME = "09_reasoning_to_rank"
WORLD, SCORES = "adworld", "scores"
CLICKS = ("popularity", "itemknn", "gru4rec", "sasrec")
BY_LOSS = {
    "head, softmax": ("head only", "softmax", 1),
    "no reasoning, softmax": ("no reasoning", "softmax", 8),
    "no reasoning, exact": ("no reasoning", "exact", 8),
}  # arm, loss, times as many steps
FIFTHS = 5
_READING, _THINKER, _RECIPE = ReadingConfig(test=300), ThinkerConfig(), protocol.Recipe(epochs=20, patience=4)


@dataclass(frozen=True)
class Config:
    """The recorded run."""

    reading: ReadingConfig = _READING
    thinker: ThinkerConfig = _THINKER
    recipe: protocol.Recipe = _RECIPE  # of rankers that see clicks
    clicks: tuple[str, ...] = CLICKS
    arms: tuple[str, ...] = tuple(ARMS)
    by_loss: tuple[str, ...] = tuple(BY_LOSS)
    shuffles: int = 20
    shuffled: int = 100  # lists
    rankings: tuple[int, ...] = (2, 4, 16, 64)  # drawn per list
    vectors: int = 20  # of scores
    repeats: int = 2_000  # estimates of each


_TINY = ThinkerConfig(
    TinyLMConfig(16, 1, 2, 160), drills=64, batch_size=16, taught=60, kept=(10, 20), sft_epochs=1,
    method=ReasoningToRankConfig(max_new=8, hidden=8), training=RankTraining(steps=5, lists=2), list_texts=16,
)  # fmt: skip
SCALES: dict[str, Config] = {
    "smoke": Config(
        ReadingConfig(users=200, items=140, size=5, train=20, test=6), _TINY, protocol.Recipe(epochs=1, dim=8),
        shuffles=2, shuffled=4, rankings=(2, 4), vectors=2, repeats=20,
    ),
    "book": Config(arms=("item credit", "head only"), by_loss=(), clicks=("popularity",), repeats=500),
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
    """Record all that is not recorded yet, seed by seed.

    Args:
        datasets: only these groups: scores, clicks, rankers, losses, shuffles.
    """
    known: dict[str, Callable[[Config, Book], None]] = {
        "scores": _scores, "clicks": _clicks, "rankers": _rankers, "losses": _losses, "shuffles": _shuffles,
    }  # fmt: skip
    parts = chosen_parts(known, datasets)
    for seed in seeds:
        book = Book(NAME, [seed], force, root)
        for part in parts:
            part(config, book)


# ------------------------------------------------------------------ worlds and models of a seed


@lru_cache(maxsize=2)
def reading_of(config: ReadingConfig, seed: int) -> Reading:
    """The world of a seed."""
    return make_reading(config, seed)


@lru_cache(maxsize=2)
def models_of(reading: ReadingConfig, thinker: ThinkerConfig, seed: int) -> tuple[TinyLM, TinyLM]:
    """The reader of a seed, and the same after the cold start."""
    here = reading_of(reading, seed)
    reader = train_reader(here, thinker, seed)
    return reader, cold_start(reader, here, teach(here, thinker, seed), thinker, seed)


def ranker_of(arm: str, config: Config, seed: int) -> tuple[ReasoningToRank, list[dict[str, float]], float]:
    """A trained ranker, what was seen while it trained, and seconds."""
    here = reading_of(config.reading, seed)
    reader, sft = models_of(config.reading, config.thinker, seed)
    start = reader if ARMS[arm].start == "reader" else sft
    lists, began = encoded(start, here, here.train), time.perf_counter()
    ranker, seen = train_ranker(ARMS[arm], start, lists, config.thinker, seed)
    return ranker, seen, time.perf_counter() - began


def _about(config: Config, arm: str, **more: Any) -> dict[str, Any]:
    return {"arm": arm, "reading": asdict(config.reading), "thinker": asdict(config.thinker), **more}


def _numbers(found: dict[str, float]) -> Measured:
    return [(name, value, None) for name, value in found.items()]


# ------------------------------------------------------------------ rankers without a language model


def _clicks(config: Config, book: Book) -> None:
    """The ceiling, the regression on true findings, and models that see clicks."""
    for arm in ("bayes", "regression", *config.clicks):

        def measure(seeds: list[int], arm: str = arm) -> list[Measured]:
            return [_numbers(clicks_quality(arm, config, seed)) for seed in seeds]

        about = {"arm": arm, "reading": asdict(config.reading), "recipe": asdict(config.recipe)}
        book.write(arm, WORLD, about, measure)


def clicks_quality(arm: str, config: Config, seed: int) -> dict[str, float]:
    """`list_quality` of a ranker that reads no text."""
    here = reading_of(config.reading, seed)
    if arm == "bayes":
        return list_quality(torch.from_numpy(here.test.law).log(), here.test)
    if arm == "regression":
        return list_quality(Regression(here).score(here, here.test), here.test)
    log = here.world.simulate()
    split = log.leave_one_out()
    if arm in protocol.COUNTING:
        model: Any = protocol.count(arm, log)
    else:
        model, _ = protocol.train(arm, split, config.recipe, seed)
    history, _ = pad([log.history(int(u))[-config.recipe.max_len :].tolist() for u in here.test.user])
    scores = model.score(history)
    return list_quality(scores.gather(1, torch.from_numpy(here.test.items)), here.test)


# ------------------------------------------------------------------ rankers that think, or do not


def _rankers(config: Config, book: Book) -> None:
    book.write("reader", WORLD, _about(config, "reader"), lambda seeds: [_reader(config, s, book.root) for s in seeds])
    book.write("sft, yes / no", WORLD, _about(config, "sft"), lambda seeds: [_sft(config, s) for s in seeds])
    for arm in config.arms:

        def measure(seeds: list[int], arm: str = arm) -> list[Measured]:
            return [_trained(arm, config, seed, book.root) for seed in seeds]

        book.write(arm, WORLD, _about(config, arm), measure)


def _reader(config: Config, seed: int, root: Path | str | None) -> Measured:
    """Share of drill answers that are right, of pairs it has not been asked about."""
    here = reading_of(config.reading, seed)
    reader, _ = models_of(config.reading, config.thinker, seed)
    texts = drills(here, replace(config.thinker, drills=500), reader, seed + 1_000_000)
    ids, mask = pad([text.ids for text in texts])
    learnt = pad([text.learnt for text in texts])[0].bool()
    with torch.no_grad():
        said = reader(ids, mask)[0][:, :-1].argmax(-1)
    if seed == 0:
        kept_weights("reader", root).parent.mkdir(parents=True, exist_ok=True)
        reader.save(kept_weights("reader", root))
    return [("drills", float((said == ids[:, 1:])[learnt[:, 1:]].float().mean()), None)]


def _sft(config: Config, seed: int) -> Measured:
    """What the cold start makes of the reader, and from what."""
    here = reading_of(config.reading, seed)
    _, sft = models_of(config.reading, config.thinker, seed)
    found = ranking_quality(yes_or_no(sft, config.thinker), here, here.test)
    lessons = teach(here, config.thinker, seed)
    said = [read_rationale(text, here.after[u]) for text, u in zip(lessons.texts, lessons.user, strict=True)]
    true = (np.array(said) == lessons.true).mean(1)
    return _numbers(
        {
            **found,
            "taught/findings": float(true.mean()),
            "kept/findings": float(true[lessons.kept.rows].mean()),
            "kept/yes": lessons.kept.yes,
            "kept/no": lessons.kept.no,
            "wrong": lessons.kept.wrong / len(lessons.texts),
        }
    )


def _trained(arm: str, config: Config, seed: int, root: Path | str | None) -> Measured:
    ranker, seen, seconds = ranker_of(arm, config, seed)
    here = reading_of(config.reading, seed)
    numbers = _numbers({**ranking_quality(ranker, here, here.test), "train seconds": seconds})
    for part, steps in enumerate(np.array_split(np.arange(len(seen)), FIFTHS), 1):
        for metric in ("reward", "entropy"):
            numbers.append((f"training/{metric}", float(np.mean([seen[step][metric] for step in steps])), float(part)))
    if arm == "item credit" and seed == 0:
        keep(ranker, root)
    return numbers


def kept_weights(part: str, root: Path | str | None = None) -> Path:
    """Weights of seed 0: of the `reader`, of the `model` and of the `head` of the ranker with per-item credit."""
    folder = Path(root) if root is not None else results_root()
    return folder.parent / "checkpoints" / f"{NAME}-{part}.safetensors"


def keep(ranker: ReasoningToRank, root: Path | str | None) -> None:
    """Write both parts; the head as a file of tensors."""
    kept_weights("model", root).parent.mkdir(parents=True, exist_ok=True)
    ranker.model.save(kept_weights("model", root))
    save_file(dict(ranker.head.state_dict()), kept_weights("head", root))


def kept_ranker(config: Config, root: Path | str | None = None) -> ReasoningToRank:
    """The ranker that `keep` has written."""
    ranker = build(ARMS["item credit"], TinyLM.load(kept_weights("model", root)).eval(), config.thinker, 0)
    ranker.head.load_state_dict(load_file(kept_weights("head", root)))
    return ranker


def _losses(config: Config, book: Book) -> None:
    """Rankers that learn without a draw of rankings."""
    for arm in config.by_loss:

        def measure(seeds: list[int], arm: str = arm) -> list[Measured]:
            return [_by_loss(arm, config, seed) for seed in seeds]

        book.write(arm, WORLD, _about(config, arm), measure, setting="by loss")


def _by_loss(arm: str, config: Config, seed: int) -> Measured:
    name, loss, longer = BY_LOSS[arm]
    here = reading_of(config.reading, seed)
    _, sft = models_of(config.reading, config.thinker, seed)
    t, began = config.thinker.training, time.perf_counter()
    ranker = build(ARMS[name], sft, config.thinker, seed)
    t = replace(t, steps=t.steps * longer, model_lr=t.model_lr if ARMS[name].model else 0.0)
    train_by_loss(ranker, encoded(sft, here, here.train), t, seed, loss)
    seconds = time.perf_counter() - began
    return _numbers({**ranking_quality(ranker, here, here.test), "train seconds": seconds})


def _shuffles(config: Config, book: Book) -> None:
    """What another order of the candidates changes."""
    for arm in ("pointwise", "listwise"):

        def measure(seeds: list[int], arm: str = arm) -> list[Measured]:
            return [_numbers(_order(arm, config, seed)) for seed in seeds]

        book.write(arm, WORLD, _about(config, arm, shuffles=config.shuffles), measure, setting="shuffles")


def _order(arm: str, config: Config, seed: int) -> dict[str, float]:
    here = reading_of(config.reading, seed)
    some: Candidates = here.test.take(slice(0, config.shuffled))
    rng = np.random.default_rng([94, seed])
    if arm == "listwise":
        reader, _ = models_of(config.reading, config.thinker, seed)
        lister = train_lister(reader, here, config.thinker, seed)
        return order_dependence(lambda u, i: list_scores(lister, here, u, i), some, config.shuffles, rng)
    # A pair's score does not know of shuffles: three of them show it, twenty would take minutes.
    _, sft = models_of(config.reading, config.thinker, seed)
    ranker = yes_or_no(sft, config.thinker)
    return order_dependence(pair_scores(ranker, here), some, min(config.shuffles, 3), rng)


# ------------------------------------------------------------------ gradients


def _scores(config: Config, book: Book) -> None:
    for arm in ESTIMATORS:

        def measure(seeds: list[int], arm: str = arm) -> list[Measured]:
            return [
                [(name, x, float(m)) for m in config.rankings for name, x in _estimates(arm, config, m, s).items()]
                for s in seeds
            ]

        about = {"arm": arm, "rankings": config.rankings, "vectors": config.vectors, "repeats": config.repeats}
        book.write(arm, SCORES, about, measure)


def _by_loss_of(
    loss: Callable[..., torch.Tensor],
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """The gradient of E[U] that a loss on drawn rankings gives."""

    def gradient(scores: torch.Tensor, ranking: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        leaf = scores.clone().requires_grad_()
        (found,) = torch.autograd.grad(loss(leaf, ranking, ndcg(ranking, positive, 10)).sum(), leaf)
        return -found

    return gradient


ESTIMATORS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "reinforce": _by_loss_of(reinforce_ranking_loss),
    "leave one out": _by_loss_of(leave_one_out_ranking_loss),
    "pl-rank": lambda scores, ranking, positive: pl_rank_gradient(scores, ranking, positive, 10),
}


def _estimates(arm: str, config: Config, rankings: int, seed: int) -> dict[str, float]:
    """Variance, bias and direction of an estimator over random scores."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(config.vectors, 20, generator=generator, dtype=torch.float64)
    positive = torch.zeros(config.vectors, dtype=torch.long)
    leaf = scores.clone().requires_grad_()
    (exact,) = torch.autograd.grad(-exact_ranking_loss(leaf, positive, 10).sum(), leaf)
    found = []
    for vector, true in zip(scores, exact, strict=True):
        many = vector.expand(config.repeats, -1)
        ranking = draw_rankings(many, rankings, generator=generator)
        estimate = ESTIMATORS[arm](many, ranking, torch.zeros(config.repeats, dtype=torch.long))
        error = estimate.mean(0) - true
        found.append(
            (
                float(estimate.var(0).mean()),
                float(error.norm() / true.norm()),
                float(torch.cosine_similarity(estimate, true[None], dim=1).mean()),
            )
        )
    return dict(zip(("variance", "bias", "cosine"), np.mean(found, axis=0).tolist(), strict=True))
