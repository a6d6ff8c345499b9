"""One training loop for every model of the book, on Lightning Fabric.

It runs the same on a laptop's CPU, one GPU, or many under `fabric run`. It stops early, shows a progress bar, writes a
checkpoint after every epoch, and resumes from it exactly: a run that was killed ends with the same weights.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from reclib.nn.sizes import check_at_least

# A loss returns the sum over the batch's targets and their number.
Loss = Callable[[Any, Any], tuple[Tensor, int]]


@runtime_checkable
class Batches(Protocol):
    """Anything that can replay an epoch by its number, e.g. `SequenceBatches`."""

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """The batches of one epoch, each cut to the share of one process."""

    def steps(self, epoch: int) -> int:
        """Number of batches in that epoch."""


@dataclass(frozen=True)
class FitConfig:
    """How to train. AdamW with a linear warm-up and a cosine that ends at zero."""

    epochs: int = 20  # passes over the data
    lr: float = 1e-3  # peak learning rate
    weight_decay: float = 0.0  # AdamW's decoupled decay, on matrices but not on biases, norms and embeddings
    beta2: float = 0.98  # AdamW's average of squared gradients; where items are rare, 0.999 learns more (chapter 02)
    warmup: float = 0.05  # share of training in which the learning rate rises
    clip_norm: float = 1.0  # largest norm of the gradient
    patience: int | None = None  # epochs without a better validation value before stopping; None: never stop early
    seed: int = 0  # of dropout; batches carry their own
    precision: str = "32-true"  # Fabric's precision, e.g. "bf16-mixed" on a GPU; float16 is not offered

    def __post_init__(self) -> None:
        check_at_least(1, epochs=self.epochs)
        if not self.lr > 0:
            raise ValueError(f"lr: must be positive, got {self.lr}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup: a share of training in [0, 1), got {self.warmup}")
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm: must be positive (math.inf: never clip), got {self.clip_norm}")
        if self.precision.startswith("16"):
            raise ValueError(
                f"precision: {self.precision} needs loss scaling, which this loop leaves out; use bf16-mixed"
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience: must be at least 1 epoch or None, got {self.patience}")


@dataclass(frozen=True)
class FitResult:
    """What happened: one entry per epoch (loss, valid, seconds, targets), and the epoch whose weights were kept."""

    log: list[dict[str, float]]
    best_epoch: int
    seconds: float
    targets_per_second: float


def fit(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    config: FitConfig | None = None,
    *,
    validate: Callable[[], float] | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    fabric: Fabric | None = None,
) -> FitResult:
    """Train `model` in place and leave the best weights in it.

    Args:
        model: trained in place.
        batches: replays an epoch by number.
        loss: `loss(model, batch) -> (sum over targets, number of targets)`.
        config: see `FitConfig`.
        validate: called after every epoch with the model in eval mode; larger is better. Without it the last
            weights are kept. With several processes each calls it, and the value of the first counts.
        checkpoint: a file (`….safetensors`). Written atomically after each epoch; if it exists, training goes on
            from there, with the same result as if it had never stopped (on as many processes as before). That data
            and loss are the same as before is up to you: only configuration and model are compared.
        progress: show a bar on stderr.
        fabric: bring your own (then its precision counts); default: one CUDA device if there is one, else the CPU, or
            what `fabric run` says.

    Raises:
        ValueError: a checkpoint of another configuration or model, patience without `validate`, a batch without
            targets, or a validation value that is NaN.
        FloatingPointError: the loss or its gradient became NaN or infinite.
    """
    config = config or FitConfig()
    if config.patience is not None and validate is None:
        raise ValueError("patience: early stopping needs `validate`; give a validation function or patience=None")
    by_cli = os.environ.get("LT_CLI_USED") == "1"  # `fabric run` chooses devices and has started the processes
    if fabric is None:
        # Not "auto" on your own machine: Apple's GPU has no float64, which time stamps need.
        accelerator = "auto" if by_cli else "cuda" if torch.cuda.is_available() else "cpu"
        fabric = Fabric(accelerator=accelerator, devices="auto" if by_cli else 1, precision=config.precision)  # type: ignore[arg-type]
    if not by_cli:
        fabric.launch()
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, config.weight_decay), lr=config.lr, betas=(0.9, config.beta2), fused=True
    )
    step, optimizer = fabric.setup(_Step(model, loss), optimizer)

    path = None if checkpoint is None else Path(checkpoint)
    state = _State()
    if path is not None and path.exists():
        state = _load(path, model, optimizer, config)
    silent = not progress or fabric.global_rank > 0
    bar = tqdm(total=config.epochs, initial=state.epoch, unit="epoch", disable=silent, miniters=0)
    cuda = [fabric.device] if fabric.device.type == "cuda" else []
    with bar, torch.random.fork_rng(devices=cuda):
        while state.epoch < config.epochs and not state.stopped(config.patience):
            began = time.perf_counter()
            # Each epoch has its own seed, so a resumed run draws the same dropout masks.
            torch.manual_seed(_epoch_seed(config.seed, state.epoch, fabric.global_rank))
            model.train()
            total = count = 0.0  # over all processes
            steps = batches.steps(state.epoch)
            for i, batch in enumerate(batches.epoch(state.epoch, fabric.global_rank, fabric.world_size)):
                lr = config.lr * _schedule((state.epoch + i / steps) / config.epochs, config.warmup)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                loss_sum, n_targets = step(partial(fabric.to_device, batch))
                # All processes see the same numbers, so they go on, or stop, together.
                step_total, step_count = _sum(fabric, float(loss_sum.detach()), float(n_targets))
                if step_count == 0:
                    raise ValueError(f"loss: no targets in epoch {state.epoch}, step {i}; leave such batches out")
                # DDP averages gradients over processes; the factor turns that into a mean over all targets.
                fabric.backward(loss_sum * (fabric.world_size / step_count))
                clip = fabric.clip_gradients(step, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
                norm = float(cast(Tensor, clip))
                if not (math.isfinite(step_total) and math.isfinite(norm)):
                    raise FloatingPointError(
                        f"in epoch {state.epoch}, step {i} the loss is {step_total / step_count:.3g} and the norm of "
                        f"its gradient {norm:.3g}; lower lr (now {lr:.2g})"
                    )
                optimizer.step()
                optimizer.zero_grad()
                total, count = total + step_total, count + step_count
                bar.set_postfix_str(f"step {i + 1}/{steps} loss {total / count:.3f}", refresh=False)
                bar.update(0)
            entry = {"loss": total / count, "targets": count, "seconds": time.perf_counter() - began}
            if validate is not None:
                model.eval()
                with torch.no_grad():
                    entry["valid"] = float(fabric.broadcast(validate()))
                if math.isnan(entry["valid"]):
                    raise ValueError(
                        f"validate: returned NaN after epoch {state.epoch}; give a number, larger is better"
                    )
            state.advance(entry, model)
            if path is not None and fabric.is_global_zero:
                _save(path, model, optimizer, config, state)
            bar.update(1)
            bar.set_postfix_str(" ".join(f"{key} {value:.4g}" for key, value in entry.items() if key != "targets"))
    fabric.barrier()  # the checkpoint is there for whoever leaves first
    if state.best is not None:
        model.load_state_dict(state.best)
    model.eval()
    seconds = sum(entry["seconds"] for entry in state.log)
    targets_seen = sum(entry["targets"] for entry in state.log)
    return FitResult(state.log, state.best_epoch, seconds, targets_seen / seconds)


class _Step(nn.Module):
    """Model and loss as one forward pass, so that DDP sees every parameter that is used.

    It gets a function that returns the batch: a batch given openly would be cast by Fabric to the precision of
    training, and in bfloat16 all time stamps of a month are the same number.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Callable[[], Any]) -> tuple[Tensor, int]:
        return self.loss(self.model, batch())


def _sum(fabric: Fabric, *values: float) -> list[float]:
    """Sums of some numbers over processes."""
    if fabric.world_size == 1:
        return list(values)
    total = fabric.all_reduce(torch.tensor(values, dtype=torch.float64), reduce_op="sum")
    return [float(value) for value in cast(Tensor, total)]


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim >= 2 and id(p) not in embeddings]
    others = [p for p in parameters if p.ndim < 2 or id(p) in embeddings]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _schedule(progress: float, warmup: float) -> float:
    """Factor of the learning rate at a share `progress` of training: linear up, cosine down to zero."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)  # not exactly zero, or the first step would be lost
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _epoch_seed(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0] >> 1)


# ------------------------------------------------------------------------------------------------------ checkpoints


@dataclass
class _State:
    epoch: int = 0  # epochs finished
    log: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best: dict[str, Tensor] | None = None  # weights of the best epoch; None while the last ones are the best

    def stopped(self, patience: int | None) -> bool:
        return patience is not None and self.epoch - 1 - self.best_epoch >= patience and self.epoch > 0

    def advance(self, entry: dict[str, float], model: nn.Module) -> None:
        self.log.append(entry)
        # An epoch that was not validated beats those before it: without `validate` the last weights are kept.
        before = self.log[self.best_epoch].get("valid", -math.inf) if self.best_epoch >= 0 else None
        if before is None or entry.get("valid", math.inf) > before:
            self.best_epoch = self.epoch
            weights = {key: value.detach().clone() for key, value in model.state_dict().items()}
            self.best = weights if "valid" in entry else None
        self.epoch += 1


def _save(path: Path, model: nn.Module, optimizer: Any, config: FitConfig, state: _State) -> None:
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"best.{key}": value for key, value in (state.best or {}).items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": torch.as_tensor(value) for key, value in slots.items()}
    about = {"epoch": state.epoch, "best_epoch": state.best_epoch, "log": state.log, "config": asdict(config)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file(
        {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
        part,
        {"fit": json.dumps(about)},
    )
    os.replace(part, path)  # a kill leaves either the old checkpoint or the new one, never half of it


def _load(path: Path, model: nn.Module, optimizer: Any, config: FitConfig) -> _State:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("fit", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
    except SafetensorError as error:
        raise ValueError(f"checkpoint: {path} cannot be read ({error}); delete it to start anew") from error
    if about.get("config") != asdict(config):
        raise ValueError(
            f"checkpoint: {path} was written with another configuration ({about.get('config')}); "
            "delete the file to start anew, or restore the configuration"
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    weights = part("model.")
    there, here = ({k: tuple(v.shape) for k, v in w.items()} for w in (weights, model.state_dict()))
    if there != here:
        odd = sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
        raise ValueError(
            f"checkpoint: {path} holds the weights of another model ({odd[0]}: {there.get(odd[0])} there, "
            f"{here.get(odd[0])} here); delete the file to start anew, or build the model it was made with"
        )
    model.load_state_dict(weights)
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        number, slot = key.split(".")
        slots.setdefault(int(number), {})[slot] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    device = next(model.parameters()).device
    best = {key: value.to(device) for key, value in part("best.").items()}
    return _State(about["epoch"], about["log"], about["best_epoch"], best or None)
