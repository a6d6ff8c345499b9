"""Several runs of one small network at once: the weights of all seeds are stacked, and one pass trains them all.

Every run has its own first weights and its own stream of examples, and nothing mixes them, so the result is that of
training one after the other (tested). On two cores a network of width 16 is mostly waiting; five cost little more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from tqdm.auto import tqdm

from reclib.experiments.memory_tasks import NOTHING, Task
from reclib.memory.layers import MemoryLayer


@dataclass(frozen=True)
class ProbeConfig:
    """How a probe is trained; PRISM's probing script in brackets."""

    dim: int = 16  # [16]
    steps: int = 5000  # [10,000]
    batch_size: int = 32  # [32]
    lr: float = 1e-3  # of AdamW [1e-3]
    weight_decay: float = 1e-4  # [1e-4]
    clip: float = 5.0  # longest gradient [5]
    check_every: int = 250  # steps between two looks at the accuracy
    check_examples: int = 1000  # examples of a look, new ones
    test_examples: int = 4000  # examples of the last look
    solved: float = 0.999  # when every run is that good at a look, training ends


class ProbeNet(nn.Module):
    """Symbols in, answers out: a mixer and a feed-forward net per layer."""

    def __init__(self, task: Task, dim: int, mixer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.symbols = nn.Embedding(task.symbols, dim)
        self.mixers = nn.ModuleList(mixer() for _ in range(task.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * task.layers + 1))
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)) for _ in range(task.layers)
        )
        self.answer = nn.Linear(dim, task.answers)

    def forward(self, tokens: Int[Tensor, "batch time fields"]) -> Float[Tensor, "batch time answers"]:
        """Logits of the answer at every position."""
        x = (self.symbols(tokens) * (tokens > 0)[..., None]).sum(2)
        for i, (mixer, net) in enumerate(zip(self.mixers, self.nets, strict=True)):
            mixed = mixer(self.norms[2 * i](x))
            x = x + (mixed[0] if isinstance(mixer, MemoryLayer) else mixed)
            x = x + net(self.norms[2 * i + 1](x))
        y: Tensor = self.answer(self.norms[-1](x))
        return y


class Attention(nn.Module):
    """One head of causal softmax attention with learnt positions, the memory that grows."""

    def __init__(self, dim: int, time: int = 128) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(time, dim))
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "*batch time dim"]) -> Float[Tensor, "*batch time dim"]:
        """Attend to this and all earlier positions."""
        q, k, v = self.qkv(x + self.position[: x.shape[-2]]).chunk(3, dim=-1)
        y: Tensor = self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return y


@dataclass(frozen=True)
class ProbeResult:
    """What training has found, per run."""

    accuracy: list[float]  # on new examples
    steps: int  # until all runs were at `solved`, or the limit
    curve: list[tuple[int, list[float]]]  # (step, accuracy of each run)
    nets: list[ProbeNet]


def train_probes(
    task: Task, config: ProbeConfig, mixer: Callable[[], nn.Module], seeds: Sequence[int], *, progress: bool = True
) -> ProbeResult:
    """Train a network per seed, all at once.

    Args:
        mixer: makes the layer under test; it is called under each seed, once per layer of the network.
    """
    nets = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nets.append(ProbeNet(task, config.dim, mixer))
    weights, buffers = stack_module_state(nets)
    streams = [torch.Generator().manual_seed(1_000_003 * (seed + 1)) for seed in seeds]
    fresh = [torch.Generator().manual_seed(2_000_003 * (seed + 1)) for seed in seeds]
    answers = torch.vmap(lambda w, b, tokens: functional_call(nets[0], (w, b), (tokens,)))

    def look(examples: int) -> list[float]:
        with torch.no_grad():
            tokens, label = _draw(task, examples, fresh)
            found = answers(weights, buffers, tokens).argmax(-1)
            asked = label != NOTHING
            return [float((f[a] == y[a]).double().mean()) for f, y, a in zip(found, label, asked, strict=True)]

    optimiser = torch.optim.AdamW(weights.values(), lr=config.lr, weight_decay=config.weight_decay)
    curve = []
    bar = tqdm(range(1, config.steps + 1), disable=not progress, desc="steps", leave=False)
    for step in bar:
        tokens, label = _draw(task, config.batch_size, streams)
        logits = answers(weights, buffers, tokens)
        runs = len(label)
        loss = F.cross_entropy(logits.flatten(1, 2).transpose(1, 2), label.flatten(1), reduction="none")
        per_run = loss.sum(1) / (label != NOTHING).flatten(1).sum(1)
        optimiser.zero_grad()
        torch.autograd.backward(per_run.sum())
        grads = [w.grad for w in weights.values() if w.grad is not None]
        length = torch.stack([g.reshape(runs, -1).square().sum(1) for g in grads]).sum(0).sqrt()
        factor = (config.clip / (length + 1e-6)).clamp(max=1)
        for g in grads:
            g.mul_(factor.view(-1, *(1,) * (g.dim() - 1)))
        optimiser.step()
        if step % config.check_every == 0:
            curve.append((step, look(config.check_examples)))
            bar.set_postfix_str(" ".join(f"{a:.2f}" for a in curve[-1][1]))
            if min(curve[-1][1]) >= config.solved:
                break
    accuracy = look(config.test_examples)
    for i, net in enumerate(nets):
        net.load_state_dict({name: w[i] for name, w in (*weights.items(), *buffers.items())})
    return ProbeResult(accuracy, curve[-1][0] if curve else config.steps, curve, nets)


def _draw(task: Task, examples: int, streams: list[torch.Generator]) -> tuple[Tensor, Tensor]:
    tokens, label = zip(*(task.draw(examples, g) for g in streams), strict=True)
    return torch.stack(tokens), torch.stack(label)
