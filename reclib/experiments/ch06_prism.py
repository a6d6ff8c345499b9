"""Chapter 06: what a memory of constant size can learn, what rank and non-linearity do, and what it costs.

In one file of results, told apart by `dataset` and `setting`:

- dataset = a task of `reclib.experiments.memory_tasks`, all seeds trained at once (`reclib.experiments.probes`):
  setting `"cross"`, the write of the paper's probing script with its four factors crossed (`crossed_memory`);
  setting `"layers"`, whole layers side by side. Metrics: `accuracy` on new examples, `curve` (x = step), `steps`; of
  layers with a rank `singular@l`, the l-th singular value of a token's write over its first, mean over tokens. Setting
  `"effects"`, arm = a factor: `effect`, the mean accuracy of its upper level minus that of its lower (`EFFECTS`), over
  all cells of the cross.
- dataset = a log, setting `""`: next-item quality of recommenders that differ in their memory only, by one recipe. On
  Amazon's set, setting `"ablation"`: PRISM with one part left out. In the world and on MovieLens all histories are
  long; lives, cut, recipe and metrics are those of chapter 07 (`ch07_rec2pm`), and attention's numbers are taken from
  its record. `proxy/error` is ‖S_{t-1} k_t - u_t‖² over ‖S_{t-1} k_t‖², what the anchor misses of what it
  stands for; `proxy/window` the same for the best linear guess from the convolution's window.
- dataset `"noise"`, setting `"throughput"`: tokens per second of a layer of width 64, x = length of the sequence, one
  sequence, on random inputs; `seed` numbers the repetition. `forward` without gradients, `training` with them. `state`
  is the memory's size in floats. Settings `"throughput, width 32"` and `"throughput, width 16"`: the same, narrower;
  `"throughput, gpu"`: the same as `"throughput"` on a CUDA device.

Sizes are ours where the paper's would not fit: sequences of 32 tokens in the probes (64 or 128 there), 3,000 steps
(10,000). Networks of a log share its recipe, chapter 02's or 07's; nothing was tuned for one of the memories. Memories
are trained as long as truncation is, 7 epochs; attention to whole lives, which learns slower, has twice as many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from reclib.backbones import NextItemLoss
from reclib.data import Split, load_dataset
from reclib.experiments import ch02_sequential as ch02
from reclib.experiments import ch07_rec2pm as ch07
from reclib.experiments.crossed_memory import CROSS, CrossedMemory, Factors
from reclib.experiments.memory_tasks import TASKS
from reclib.experiments.probes import Attention, ProbeConfig, ProbeNet, train_probes
from reclib.experiments.protocol import Recipe, fit_by_validation, measure
from reclib.experiments.results import checkpoint_path, finished, load, record, results_path
from reclib.memory import (
    DeltaNet,
    DeltaProduct,
    LinearAttention,
    MemoryConfig,
    MemoryRecommender,
    Prism,
    PrismLinear,
    PrismWithoutErase,
    PrismWithoutGain,
    PrismWithoutGelu,
    TestTimeTraining,
)
from reclib.memory.layers import LinearMemoryLayer, MemoryLayer
from reclib.memory.recommender import MemoryBlock
from reclib.training import SequenceBatches

NAME = "06_prism"

# Layers by name. The rank of an arm stands at the end of its name.
LAYERS: dict[str, Callable[[MemoryConfig], MemoryLayer]] = {
    "linear attention": LinearAttention,
    "deltanet": DeltaNet,
    "deltaproduct": DeltaProduct,
    "test-time training": TestTimeTraining,
    "prism": Prism,
    "prism, linear": PrismLinear,
    "prism, no gelu": PrismWithoutGelu,
    "prism, no gain": PrismWithoutGain,
    "prism, no erase": PrismWithoutErase,
}
DOUBLE = tuple(f"{kind}, rank {rank}" for kind in ("prism, linear", "prism, no gelu", "prism") for rank in (1, 2, 3))
PLAIN = ("attention", "linear attention", "deltanet")


@dataclass(frozen=True)
class Log:
    """Which recommenders are trained on a public log by chapter 02's recipe."""

    dataset: str
    arms: tuple[str, ...]
    recipe: Recipe
    seeds: int = 5
    ablations: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()  # arms measured by the same recipe in chapter 02


@dataclass(frozen=True)
class Lives:
    """Which recommenders are trained on the long histories of a study of chapter 07."""

    study: ch07.Study
    arms: tuple[str, ...] = ("deltanet", "prism")
    copied: tuple[str, ...] = ("transitions", "full", "truncation")  # measured in chapter 07


ABLATIONS = ("prism, rank 1", "prism, linear", "prism, no gelu", "prism, no gain", "prism, no conv", "prism, no erase")


def _recipe(dataset: str) -> Recipe:
    (study,) = (study for study in ch02.Config().studies if study.dataset == dataset)
    return replace(study.recipe, lr=ch02.LEARNING_RATE["sasrec"])


PROBE = ProbeConfig(steps=3000)


@dataclass(frozen=True)
class Config:
    """The recorded run."""

    probe: ProbeConfig = PROBE
    cross: tuple[tuple[str, tuple[Factors, ...]], ...] = (("parity", CROSS),)
    layers: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("double", (*PLAIN, "deltaproduct", "test-time training", *DOUBLE)),
        ("parity", (*PLAIN, "prism")),
        ("scattered parity", (*PLAIN, "prism")),
        ("palindrome", (*PLAIN, "prism, rank 1", "prism")),
        ("modular addition", (*PLAIN, "prism")),
        ("recall", (*PLAIN, "prism")),
    )
    logs: tuple[Log, ...] = (
        Log(
            "amazon2018-scientific",
            ("deltanet", "prism"),
            _recipe("amazon2018-scientific"),
            ablations=ABLATIONS,
            copied=("popularity", "transitions", "sasrec", "hstu_scaled"),
        ),
    )
    lives: tuple[Lives, ...] = (
        Lives(ch07.Config().studies[0], arms=("deltanet", "prism", "hstu")),
        Lives(ch07.Config().studies[1], copied=("transitions", "full", "truncation", "hstu")),
    )
    throughput: tuple[tuple[int, tuple[int, ...]], ...] = (  # width, lengths
        (64, (512, 1024, 2048, 4096, 8192, 16384)),
        (32, (16384,)),
        (16, (16384,)),
    )
    patience: float = 1.0  # seconds; a repetition is the best of as many rounds as fit, at least one
    gpu_lengths: tuple[int, ...] = (512, 4096, 16384)
    gpu_patience: float = 0.2


SCALES: dict[str, Config] = {
    "smoke": Config(
        probe=ProbeConfig(dim=8, steps=4, batch_size=4, check_every=2, check_examples=8, test_examples=8),
        cross=(("parity", (CROSS[0], CROSS[-1])),),
        layers=(("double", ("attention", "linear attention", "deltaproduct", "prism, rank 3")),),
        logs=(),
        lives=(Lives(ch07.SCALES["smoke"].studies[0], arms=("deltanet", "prism", "hstu")),),
        throughput=((64, (32, 64)), (16, (32,))),
        patience=0.0,
    ),
    "book": Config(logs=(), lives=(), throughput=()),
    "full": Config(),
}


PARTS = ("throughput", "cross", "layers", "logs", "lives")


def run(
    config: Config,
    seeds: Sequence[int],
    *,
    force: bool = False,
    root: Path | str | None = None,
    parts: Sequence[str] = PARTS,
) -> None:
    """Record all that is not recorded yet.

    Args:
        parts: which of them, in this order. Throughput comes first: it wants a machine with nothing else to do. `gpu`,
            throughput on a CUDA device, is recorded only if it is named here.
    """
    if "gpu" in parts and not torch.cuda.is_available():
        raise ValueError("parts: 'gpu' needs a CUDA device, and there is none; leave it out")
    common: dict[str, Any] = {"force": force, "root": root}
    for part in parts:
        if part == "throughput":
            for dim, lengths in config.throughput:
                for length in lengths:
                    _throughput(dim, length, config.patience, seeds, "cpu", common)
        elif part == "gpu":
            for length in config.gpu_lengths:
                _throughput(64, length, config.gpu_patience, seeds, "cuda", common)
        elif part == "cross":
            for task, factors in config.cross:
                for f in factors:
                    _probe(config, task, "cross", str(f), partial(_crossed, f, config.probe.dim), seeds, common)
            _effects(config, seeds, common)
        elif part == "layers":
            for task, arms in config.layers:
                for arm in arms:
                    _probe(config, task, "layers", arm, partial(_mixer, arm, config.probe.dim), seeds, common)
        elif part == "logs":
            for log in config.logs:
                for seed in seeds[: log.seeds]:
                    _log(log, seed, common)
        elif part == "lives":
            for lives in config.lives:
                for seed in seeds[: lives.study.seeds]:
                    _lives(lives, seed, common)
        else:
            raise ValueError(f"parts: {part!r} is unknown; choose from {', '.join(PARTS)}, gpu")


# ------------------------------------------------------------------------------------------------------------ probes


def layer(arm: str, dim: int, chunk: int = 32) -> MemoryLayer:
    """The memory that an arm names; `, rank 3` and `, no conv` at the end change PRISM's sizes."""
    name, _, rank = arm.partition(", rank ")
    sizes = MemoryConfig(dim=dim, rank=int(rank or 2), chunk=chunk, kernel=1 if name.endswith("no conv") else 5)
    return LAYERS[name.removesuffix(", no conv")](sizes)


def _mixer(arm: str, dim: int) -> nn.Module:
    return Attention(dim) if arm == "attention" else layer(arm, dim, chunk=16)


def _crossed(factors: Factors, dim: int) -> nn.Module:
    return CrossedMemory(factors, MemoryConfig(dim=dim, rank=factors.rank, chunk=32))


def _probe(
    config: Config,
    task: str,
    setting: str,
    arm: str,
    mixer: Callable[[], nn.Module],
    seeds: Sequence[int],
    common: dict[str, Any],
) -> None:
    about = asdict(config.probe)
    key: dict[str, Any] = {"arm": arm, "dataset": task, "setting": setting, "config": about}
    missing = [seed for seed in seeds if common["force"] or not finished(NAME, seed=seed, root=common["root"], **key)]
    if not missing:
        return
    began = time.perf_counter()
    found = train_probes(TASKS[task], config.probe, mixer, missing)
    seconds = (time.perf_counter() - began) / len(missing)
    for i, seed in enumerate(missing):
        with record(NAME, seed=seed, seconds=seconds, **key, **common) as log:
            log.log("accuracy", found.accuracy[i])
            log.log("steps", found.steps)
            for step, accuracy in found.curve:
                log.log("curve", accuracy[i], x=step)
            for level, value in enumerate(singular_values(found.nets[i], task, seed), start=1):
                log.log(f"singular@{level}", value)


EFFECTS = {  # factor: upper and lower level
    "keys": ("signed", "positive"),
    "gate": ("gate", "no gate"),
    "kind": ("gelu", "linear"),
    "rank": (2, 1),
}


def _effects(config: Config, seeds: Sequence[int], common: dict[str, Any]) -> None:
    """Main effects of the factors, where the whole cross of a task is recorded."""
    for task, factors in config.cross:
        if factors != CROSS:
            continue
        rows = load(NAME, common["root"])
        rows = rows[(rows["dataset"] == task) & (rows["setting"] == "cross") & (rows["metric"] == "accuracy")]
        table = rows.pivot(index="seed", columns="arm", values="value")
        for seed in seeds:
            for factor, (upper, lower) in EFFECTS.items():
                means = [
                    np.mean([table.at[seed, str(f)] for f in CROSS if getattr(f, factor) == level])
                    for level in (upper, lower)
                ]
                with record(
                    NAME, arm=factor, dataset=task, setting="effects", seed=seed, config=asdict(config.probe), **common
                ) as log:
                    if not log.finished:
                        log.log("effect", float(means[0] - means[1]))


@torch.no_grad()
def singular_values(net: ProbeNet, task: str, seed: int) -> list[float]:
    """Of the first layer's writes on new examples: each singular value of B_t over the first, mean over tokens.

    Empty for layers that write one pair per token, or whose writes depend on the memory.
    """
    memory = net.mixers[0]
    if not isinstance(memory, LinearMemoryLayer):
        return []
    tokens, _ = TASKS[task].draw(64, torch.Generator().manual_seed(3_000_003 * (seed + 1)))
    x = net.norms[0]((net.symbols(tokens) * (tokens > 0)[..., None]).sum(2))
    u, _ = memory._anchor(x, memory.initial_state(len(x)))
    writes = memory.writes(u)
    if writes.key.shape[2] == 1:
        return []
    values = torch.linalg.svdvals(torch.einsum("btrv,btrk->btvk", writes.delta, writes.key))[..., : writes.key.shape[2]]
    return [float(v) for v in (values / values[..., :1].clamp(min=1e-12)).flatten(0, 1).mean(0)]


# -------------------------------------------------------------------------------------------------------------- logs


def train_memory(
    arm: str,
    split: Split,
    recipe: Recipe,
    seed: int,
    *,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> MemoryRecommender:
    """A recommender with the named memory, trained by a recipe as every other network is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MemoryRecommender(
            split.train.n_items,
            lambda: layer(arm, recipe.dim),
            layers=recipe.layers,
            dropout=recipe.dropout,
            max_len=recipe.max_len,
        )
    batches = SequenceBatches(split.train, max_len=recipe.max_len, batch_size=recipe.batch_size, seed=seed)
    fit_by_validation(model, batches, NextItemLoss(), split, recipe, seed, checkpoint=checkpoint, progress=progress)
    return model


def _log(log: Log, seed: int, common: dict[str, Any]) -> None:
    _copy(ch02.NAME, log.dataset, log.copied, seed, common)
    for setting, arms in (("", log.arms), ("ablation", log.ablations)):
        for arm in arms:
            path = checkpoint_path(NAME, f"{log.dataset}-{arm}-{seed}", common["root"])
            key: dict[str, Any] = {"dataset": log.dataset, "setting": setting, "config": {"recipe": asdict(log.recipe)}}
            with record(NAME, arm=arm, seed=seed, **key, **common) as entry:
                if entry.finished:
                    continue
                split = load_dataset(log.dataset).leave_one_out()
                model = train_memory(arm, split, log.recipe, seed, checkpoint=path)
                for metric, value in measure(model, split).items():
                    entry.log(metric, value)
            path.unlink(missing_ok=True)


def _lives(lives: Lives, seed: int, common: dict[str, Any]) -> None:
    study = lives.study
    _copy(ch07.NAME, study.dataset, lives.copied, seed, common)
    for arm in lives.arms:
        path = checkpoint_path(NAME, f"{study.dataset}-{arm}-{seed}", common["root"])
        with record(NAME, arm=arm, dataset=study.dataset, seed=seed, config=ch07.shared(study), **common) as entry:
            if entry.finished:
                continue
            data = ch07.load_lives(study, seed)
            if arm == "hstu":
                model, _ = ch07.train(arm, study, data.split, seed, path)
                numbers = ch07.measure(model, data)
            else:
                memory = train_memory(arm, data.split, study.recipe, seed, checkpoint=path)
                numbers = ch07.measure(memory, data)
                if arm == "prism":
                    numbers |= proxy_error(memory, data.split)
            for metric, value in numbers.items():
                entry.log(metric, value)
        path.unlink(missing_ok=True)


def _copy(source: str, dataset: str, arms: Sequence[str], seed: int, common: dict[str, Any]) -> None:
    """Take over what another chapter measured by the same recipe; it has to be recorded first."""
    rows = load(source, common["root"] if results_path(source, common["root"]).exists() else None)
    rows = rows[(rows["dataset"] == dataset) & (rows["seed"] == seed) & (rows["setting"] == "") & rows["x"].isna()]
    for arm in arms:
        found = rows.loc[rows["arm"] == arm, ["metric", "value"]]
        if found.empty:
            raise ValueError(f"{arm} on {dataset}, seed {seed}: not in the record of {source}; run that chapter first")
        with record(NAME, arm=arm, dataset=dataset, seed=seed, config={"from": source}, **common) as entry:
            if not entry.finished:
                for metric, value in found.itertuples(index=False):
                    entry.log(metric, value)


@torch.no_grad()
def proxy_error(model: MemoryRecommender, split: Split, users: int = 64) -> dict[str, float]:
    """How well the first block's anchor u_t says what the memory holds under its key, S_{t-1} k¹_t.

    `proxy/error` is the squared distance over the squared length of S k: 0 is perfect, 1 as good as saying 0.
    `proxy/window` is the same for a least-squares guess from the inputs that the convolution sees.
    """
    model.eval()
    block = cast(MemoryBlock, model.blocks[0])
    memory = cast(LinearMemoryLayer, block.memory)
    batch = split.test.subset(np.arange(min(users, len(split.test)))).batch(max_len=model.max_len)
    x = block.memory_norm(model.embed(batch.history))
    u, _ = memory._anchor(x, memory.initial_state(len(x)))
    writes = memory.writes(u)
    under = read_before(writes.key[:, :, 0], u, memory)
    real = batch.history > 0
    real[:, : memory.config.kernel] = False  # nothing is there yet
    wanted = under[real]
    seen = torch.cat([x.roll(lag, dims=1)[real] for lag in range(memory.config.kernel)], dim=-1)
    seen = torch.cat([seen, torch.ones(len(seen), 1)], dim=-1).double()
    weights = torch.linalg.lstsq(seen[::2], wanted[::2].double()).solution
    size = wanted[1::2].square().sum()
    return {
        "proxy/error": float((wanted - u[real])[1::2].square().sum() / size),
        "proxy/window": float((wanted[1::2] - seen[1::2] @ weights).square().sum() / size),
    }


def read_before(key: Tensor, u: Tensor, memory: LinearMemoryLayer) -> Tensor:
    """S_{t-1} k_t for every token: token t asks the memory with its own key, before it has faded, erased or written."""
    S, found = memory.initial_state(len(u)).S, []
    for t in range(u.shape[1]):
        found.append(torch.einsum("bvk,bk->bv", S, key[:, t]))
        _, S = memory._remember_one(u[:, t : t + 1], S)
    return torch.stack(found, dim=1)


# -------------------------------------------------------------------------------------------------------- throughput

SPEED = ("attention", "linear attention", "deltanet", "prism", "test-time training")


def _throughput(
    dim: int, length: int, patience: float, seeds: Sequence[int], device: str, common: dict[str, Any]
) -> None:
    about: dict[str, Any] = {"dim": dim, "patience": patience}
    if device == "cpu":
        about["threads"] = torch.get_num_threads()
    else:
        about["device"] = torch.cuda.get_device_name()
    setting = "throughput, gpu" if device == "cuda" else "throughput" if dim == 64 else f"throughput, width {dim}"
    key: dict[str, Any] = {"dataset": "noise", "setting": setting, "x": length, "config": about}
    for seed in seeds:
        for arm in SPEED:
            with record(NAME, arm=arm, seed=seed, **key, **common) as log:
                if not log.finished:
                    for metric, value in speed(arm, length, dim, patience, seed, device).items():
                        log.log(metric, value)


def speed(
    arm: str, length: int, dim: int, patience: float = 1.0, seed: int = 0, device: str = "cpu"
) -> dict[str, float]:
    """Tokens per second of one layer on one sequence, best of what fits in `patience`, and the floats it keeps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mixer = (Attention(dim, length) if arm == "attention" else layer(arm, dim)).to(device)
    x = torch.randn(1, length, dim, generator=torch.Generator().manual_seed(seed)).to(device)
    # A GPU is still at work when a call returns.
    wait: Callable[[], Any] = torch.cuda.synchronize if device == "cuda" else lambda: None
    if arm == "attention":
        x = x[:, None]  # with an axis of heads PyTorch takes its fast path, which never holds all pairs at once

    @torch.no_grad()
    def forward(x: Tensor) -> None:
        mixer(x)

    def training(x: Tensor) -> None:
        y = mixer(x)
        (y[0] if isinstance(mixer, MemoryLayer) else y).sum().backward()

    found = {}
    for once in (forward, training):
        once(x[..., :32, :])  # whatever is slow the first time
        rounds: list[float] = []
        while sum(rounds) <= patience:
            wait()
            began = time.perf_counter()
            once(x)
            wait()
            rounds.append(time.perf_counter() - began)
        found[once.__name__] = length / min(rounds)
    kept = sum(part.numel() for part in mixer.initial_state(1)) if isinstance(mixer, MemoryLayer) else 2 * length * dim
    return found | {"state": float(kept)}
