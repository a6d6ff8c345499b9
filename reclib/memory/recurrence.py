"""One recurrence behind all linear memories of this book, in three forms that agree (PRISM, Eqs. 9 and 18).

    S_t = α_t S_{t-1} (I - e_t k¹_t k¹_tᵀ) + Σ_l δ^l_t k^l_tᵀ,     y_t = S_t q_t

The memory S maps keys to values. Each token lets it fade (α), erases what stands under its first key (e), and adds
`rank` new pairs of key and value. α, e, δ and k depend on the inputs only, never on S; that is what allows the second
and third form:

- `loop`: token by token, the definition. It trains nothing and is the reference of the tests.
- `step`: one token, for serving.
- `chunkwise`: many tokens at once. Inside a chunk all erasures are found by one triangular solve; from chunk to chunk
  the state goes through one matrix product.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class Writes(NamedTuple):
    """What every token does to the memory, and what it asks."""

    query: Float[Tensor, "batch time keys"]
    key: Float[Tensor, "batch time rank keys"]
    delta: Float[Tensor, "batch time rank values"]  # what is written under each key, its gate β multiplied in
    erase: Float[Tensor, "batch time"] | None  # e, strength of the erasure under the first key; None: nothing is erased
    log_alpha: Float[Tensor, "batch time"] | None  # logarithm of the decay; None: nothing fades

    def at(self, t: int) -> Writes:
        """The token at position t, as a sequence of one."""
        erase, log_alpha = (None if part is None else part[:, t : t + 1] for part in (self.erase, self.log_alpha))
        return Writes(self.query[:, t : t + 1], self.key[:, t : t + 1], self.delta[:, t : t + 1], erase, log_alpha)


def step(state: Float[Tensor, "batch values keys"], token: Writes) -> tuple[Tensor, Tensor]:
    """One token: (y `[batch, values]`, the new state). Everything in `token` has a time axis of length 1."""
    first = token.key[:, 0, 0]
    if token.log_alpha is not None:
        state = state * token.log_alpha[:, 0, None, None].exp()
    if token.erase is not None:
        found = torch.einsum("bvk,bk->bv", state, first)
        state = state - token.erase[:, 0, None, None] * found[:, :, None] * first[:, None, :]
    state = state + torch.einsum("brv,brk->bvk", token.delta[:, 0], token.key[:, 0])
    return torch.einsum("bvk,bk->bv", state, token.query[:, 0]), state


def loop(state: Float[Tensor, "batch values keys"], writes: Writes) -> tuple[Tensor, Tensor]:
    """The definition: (y `[batch, time, values]`, the last state)."""
    found = []
    for t in range(writes.query.shape[1]):
        y, state = step(state, writes.at(t))
        found.append(y)
    return torch.stack(found, dim=1), state


def chunkwise(
    state: Float[Tensor, "batch values keys"], writes: Writes, chunk: int = 32
) -> tuple[Float[Tensor, "batch time values"], Float[Tensor, "batch values keys"]]:
    """The same as `loop` for all tokens of a chunk at once.

    With w_t the vector that token t's erasure adds under its first key, and γ the running product of α, the state in a
    chunk is a sum of outer products that fade: S_t = γ_t S_0 + Σ_{i ≤ t} γ_t/γ_i (w_i k¹_iᵀ + Σ_l δ^l_i k^l_iᵀ). The
    w_t depend on those before them through a lower triangle, so one triangular solve finds all (our derivation):

        (I + T) W = -diag(e γ) K¹ S_0ᵀ - diag(e) Σ_l (G ⊙ tril₋₁(K¹ K^lᵀ)) Δ^l,   T = tril₋₁(diag(e) G ⊙ K¹ K¹ᵀ)

    W is linear in S_0, so S_C = S_0 M + N with M and N known for all chunks beforehand.
    """
    if chunk < 1:
        raise ValueError(f"chunk: must be at least 1, got {chunk}")
    batch, time, _ = writes.query.shape
    if time == 0:
        raise ValueError("time: the sequence is empty; give at least one token")
    chunk = min(chunk, time)
    chunks = -(-time // chunk)
    q, key, delta = (_cut(part, chunk, chunks) for part in writes[:3])
    e, log_alpha = (None if part is None else _cut(part, chunk, chunks)[..., None] for part in writes[3:])
    rank, keys = key.shape[3:]
    key, delta = (part.transpose(2, 3).flatten(2, 3) for part in (key, delta))  # all first pairs, all second pairs, …
    k1 = key[:, :, :chunk]
    past = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()  # i ≤ t
    if log_alpha is None:
        gamma, G = q.new_ones(batch, chunks, chunk, 1), past.to(q.dtype).expand(batch, chunks, -1, -1)
    else:
        total = log_alpha.cumsum(2)
        gamma = total.exp()
        G = (total - total.transpose(-1, -2)).masked_fill(~past, -torch.inf).exp()
    left = key * G[:, :, -1].repeat(1, 1, rank)[..., None]  # what is left of each pair at the end of the chunk
    keep = gamma[:, :, -1:] * torch.eye(keys, dtype=q.dtype, device=q.device)
    ask = gamma * q
    if e is None:
        read = _faded(q @ key.transpose(-1, -2), G)
    else:
        # Queries and first keys meet the pairs in one product: what a token reads, and what it finds under its key.
        read, under = (torch.cat([q, e * k1], 2) @ key.transpose(-1, -2)).chunk(2, dim=2)
        read, under = _faded(read, G), _faded(under, G.tril(-1))
        T, right = under[..., :chunk], torch.cat([e * gamma * k1, under @ delta], -1)
        solved = torch.linalg.solve_triangular(T, right, upper=False, unitriangular=True)  # takes I + T for T
        of_state, of_writes = solved[..., :keys], solved[..., keys:]  # W = -(of_state S_0ᵀ + of_writes)
        delta = torch.cat([delta[:, :, :chunk] - of_writes, delta[:, :, chunk:]], 2)
        ask = ask - read[..., :chunk] @ of_state
        keep = keep - of_state.transpose(-1, -2) @ left[:, :, :chunk]
    states: Tensor = _Scan.apply(state, keep, delta.transpose(-1, -2) @ left)  # type: ignore[no-untyped-call]
    y = read @ delta + ask @ states[:, :-1].transpose(-1, -2)
    return y.flatten(1, 2)[:, :time], states[:, -1]


def _faded(pairs: Tensor, G: Tensor) -> Tensor:
    """G ⊙ each rank's block of `[…, chunk, rank · chunk]`."""
    *rows, both = pairs.shape
    return (pairs.reshape(*rows, -1, G.shape[-1]) * G[..., None, :]).reshape(*rows, both)


class _Scan(torch.autograd.Function):
    """S_0 and all S_m = S_{m-1} M_m + N_m. With its gradient by hand: the same loop backwards, then all M at once."""

    generate_vmap_rule = True  # for networks whose weights are stacked

    @staticmethod
    def forward(state: Tensor, M: Tensor, N: Tensor) -> Tensor:
        states = [state]
        for M_m, N_m in zip(M.unbind(1), N.unbind(1), strict=True):
            states.append(torch.baddbmm(N_m, states[-1], M_m))
        return torch.stack(states, dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        M, states = ctx.saved_tensors
        *earlier, last = grad.unbind(1)
        found = [last]
        for M_m, own in zip(reversed(M.transpose(-1, -2).unbind(1)), reversed(earlier), strict=True):
            found.append(torch.baddbmm(own, found[-1], M_m))
        grads = torch.stack(found[::-1], dim=1)
        return grads[:, 0], states[:, :-1].transpose(-1, -2) @ grads[:, 1:], grads[:, 1:]


def _cut(part: Tensor, chunk: int, chunks: int) -> Tensor:
    """`[batch, time, …]` to `[batch, chunks, chunk, …]`; zeros at the end write, erase and forget nothing."""
    batch, time, *rest = part.shape
    padded = F.pad(part, (0, 0) * len(rest) + (0, chunks * chunk - time))
    return padded.reshape(batch, chunks, chunk, *rest)
