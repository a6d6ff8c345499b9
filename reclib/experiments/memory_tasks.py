"""Small tasks that ask a memory one thing each. Every example is drawn anew; nothing can be learnt by heart.

A task draws tokens `[batch, time, fields]` (a token may be several symbols at once, whose embeddings are added; 0 is
none) and labels `[batch, time]`, `NOTHING` where nothing is asked. After PRISM's table 4, with our own sizes: sequences
are 32 tokens long (theirs: 64 or 128). Parity, palindrome and modular addition follow what its released code draws,
which is less than their names promise: a few symbols side by side and a mark behind them, somewhere among others. A
short convolution sees all of them at the mark; the memory has to carry the answer to the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Generator, Tensor

NOTHING = -100
ASK = 1  # the symbol that ends a sequence and asks
MARK = 2  # stands behind the symbols that count


@dataclass(frozen=True)
class Task:
    """A task and its sizes."""

    draw: Callable[[int, Generator], tuple[Tensor, Tensor]]  # (examples, generator) to tokens and labels
    symbols: int  # numbers 0 … symbols - 1
    answers: int
    layers: int = 2  # of the network that has to solve it
    chance: float = 0.5


def _among(signal: Int[Tensor, "batch count"], noise: tuple[int, int], time: int, g: Generator) -> Tensor:
    """Noise; somewhere in it the signal and `MARK`, side by side; `ASK` at the end: `[batch, time, 1]`."""
    batch, count = signal.shape
    tokens = torch.randint(*noise, (batch, time), generator=g)
    start = torch.randint(0, time - count - 1, (batch, 1), generator=g)
    tokens.scatter_(1, start + torch.arange(count + 1), torch.cat([signal, torch.full((batch, 1), MARK)], 1))
    tokens[:, -1] = ASK
    return tokens[..., None]


def _at_the_end(answer: Int[Tensor, "batch"], time: int) -> Tensor:
    label = torch.full((len(answer), time), NOTHING)
    label[:, -1] = answer
    return label


def parity(batch: int, g: Generator, time: int = 32) -> tuple[Tensor, Tensor]:
    """Is the sum of three numbers odd? Numbers 0 … 3 are the symbols 4 … 7; noise is 4 … 31, numbers among it."""
    number = torch.randint(0, 4, (batch, 3), generator=g)
    return _among(number + 4, (4, 32), time, g), _at_the_end(number.sum(1) % 2, time)


def scattered_parity(batch: int, g: Generator, time: int = 32) -> tuple[Tensor, Tensor]:
    """Parity of three numbers that do not stand side by side (ours): no token's window holds all. Noise is 8 … 31."""
    number = torch.randint(0, 4, (batch, 3), generator=g)
    tokens = torch.randint(8, 32, (batch, time), generator=g)
    place = torch.rand(batch, time - 1, generator=g).topk(3, dim=1).indices.sort(dim=1).values
    tokens.scatter_(1, place, number + 4)
    tokens[:, -1] = ASK
    return tokens[..., None], _at_the_end(number.sum(1) % 2, time)


def modular_addition(batch: int, g: Generator, time: int = 32) -> tuple[Tensor, Tensor]:
    """The sum of two numbers modulo 16. Numbers 0 … 15 are the symbols 3 … 18; noise is 3 … 31."""
    number = torch.randint(0, 16, (batch, 2), generator=g)
    return _among(number + 3, (3, 32), time, g), _at_the_end(number.sum(1) % 16, time)


def palindrome(batch: int, g: Generator, time: int = 32) -> tuple[Tensor, Tensor]:
    """Four symbols A, B, C, D of 3 … 31, as noise is: does C or D equal A? Never both; half of the answers are yes."""
    a, b = torch.randint(0, 29, (2, batch), generator=g)
    yes = torch.randint(0, 2, (batch,), generator=g)
    which = torch.randint(0, 2, (batch,), generator=g)
    same = (torch.arange(2) == which[:, None]) & yes.bool()[:, None]
    c_d = torch.where(same, a[:, None], (a[:, None] + torch.randint(1, 29, (batch, 2), generator=g)) % 29)
    return _among(torch.cat([a[:, None], b[:, None], c_d], 1) + 3, (3, 32), time, g), _at_the_end(yes, time)


def recall(batch: int, g: Generator, pairs: int = 8, queries: int = 16) -> tuple[Tensor, Tensor]:
    """MQAR: pairs of key and value, two tokens each, then keys: which value? Keys are 2 … 17, values 18 … 31."""
    key = torch.rand(batch, 16, generator=g).argsort(1)[:, :pairs]
    value = torch.randint(0, 14, (batch, pairs), generator=g)
    asked = torch.randint(0, pairs, (batch, queries), generator=g)
    tokens = torch.cat([torch.stack([key + 2, value + 18], 2).flatten(1), key.gather(1, asked) + 2], 1)
    label = torch.cat([torch.full((batch, 2 * pairs), NOTHING), value.gather(1, asked)], 1)
    return tokens[..., None], label


def double(batch: int, g: Generator, events: int = 8) -> tuple[Tensor, Tensor]:
    """One token binds two keys to two values, (a, b, x, y): a to x and b to y. Then every key is asked for.

    One write of rank 1 is the same vector under all keys, up to a factor. 32 keys, 16 values; a symbol's number says in
    which place of the token it stands.
    """
    key = torch.rand(batch, 32, generator=g).argsort(1)[:, : 2 * events].view(batch, events, 2)
    value = torch.randint(0, 16, (batch, events, 2), generator=g)
    places = torch.tensor([1, 33, 65, 81])
    event = torch.cat([key, value], 2) + places
    asked = torch.rand(batch, 2 * events, generator=g).argsort(1)
    query = torch.zeros(batch, 2 * events, 4, dtype=torch.long)
    query[:, :, 0] = 97 + key.flatten(1).gather(1, asked)
    label = torch.cat([torch.full((batch, events), NOTHING), value.flatten(1).gather(1, asked)], 1)
    return torch.cat([event, query], 1), label


TASKS = {
    "parity": Task(parity, 32, 2),
    "scattered parity": Task(scattered_parity, 32, 2),
    "palindrome": Task(palindrome, 32, 2),
    "modular addition": Task(modular_addition, 32, 16, chance=1 / 16),
    "recall": Task(recall, 32, 14, chance=1 / 14),
    "double": Task(double, 129, 16, layers=1, chance=1 / 16),
}
