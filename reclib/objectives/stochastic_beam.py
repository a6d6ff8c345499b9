r"""Stochastic beam search: sequences drawn from a policy *without* replacement (Kool et al., 2019).

The control for every search that claims to find more than sampling does: as many different candidates, as many forward
tokens as a beam, and nothing but the policy's own probabilities.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reclib.generation.search import Beams, CodeModel
from reclib.generation.trie import SemanticIdTrie
from reclib.nn.sizes import check_at_least
from reclib.objectives.prefix_tree import allowed_children, allowed_prefixes


@torch.no_grad()
def stochastic_beam_search(
    model: CodeModel,
    trie: SemanticIdTrie,
    history: Int[Tensor, "batch time"],
    width: int,
    *,
    leaves: int | None = None,
    exclude: Int[Tensor, "batch some"] | None = None,
    generator: torch.Generator | None = None,
) -> Beams:
    r"""Draw different sequences per history, in 1 + (L - 1) · width forward tokens.

    Every complete sequence has a perturbed log-probability $\phi+$ Gumbel; the largest of them are a sample without
    replacement. A prefix carries the maximum over all its continuations, so a beam that keeps the largest prefixes
    keeps the largest sequences, and no sequence has to be listed.

    Args:
        model: in eval mode. The policy is what `sample` draws from: a softmax over the allowed codes.
        trie: of the same semantic IDs.
        history: item ids, left-aligned, 0 pads on the right.
        width: prefixes kept at every level.
        leaves: sequences returned; default: `width`. More than that are a sample no longer, only the best children of
            the prefixes that were kept.
        exclude: items that are not wanted, such as the whole history; 0 is ignored.
        generator: of the Gumbel numbers.

    Returns:
        Sequences in the order of drawing, with the logarithm of their probability.
    """
    check_at_least(1, width=width, leaves=leaves or width)
    allowed = allowed_prefixes(trie, exclude, len(history))
    logits, cache = model.read(history)
    batch, device = len(history), history.device
    node = torch.zeros(batch, 1, dtype=torch.long, device=device)
    phi = torch.zeros(batch, 1, device=device)
    perturbed = torch.zeros(batch, 1, device=device)
    for level in range(trie.levels):
        first = trie.ids.offsets[level]
        child = allowed_children(trie, level, node, allowed[level])
        log_pi = logits[..., first : first + trie.ids.sizes[level]].masked_fill(child < 0, -torch.inf).log_softmax(-1)
        phi_child = phi[..., None] + log_pi
        gumbel = -torch.empty_like(phi_child).exponential_(generator=generator).log()
        fresh = with_maximum(phi_child + gumbel, perturbed).masked_fill(child < 0, -torch.inf)
        wanted = width if level + 1 < trie.levels else leaves or width
        kept = min(wanted, trie.nodes(level + 1), fresh[0].numel())
        perturbed, place = fresh.flatten(1).topk(kept, dim=1)
        parent, code = place // child.shape[2], place % child.shape[2]
        phi = (
            phi_child.flatten(1).gather(1, place).masked_fill(torch.isneginf(perturbed), 0.0)
        )  # no beam: no NaN either
        node = child.flatten(1).gather(1, place).clamp(min=0)
        if level + 1 < trie.levels:
            logits, cache = model.step(cache, first + code, parent)
    missing = torch.isneginf(perturbed)
    return Beams(node.masked_fill(missing, -1), phi.masked_fill(missing, -torch.inf))


def with_maximum(
    noisy: Float[Tensor, "*beams codes"], maximum: Float[Tensor, "*beams"]
) -> Float[Tensor, "*beams codes"]:
    r"""Gumbel variables conditioned on their maximum, Kool et al. 2019, Eqs. 23 to 25, in their stable form."""
    largest = noisy.amax(-1, keepdim=True)
    gap = maximum.unsqueeze(-1) - noisy + torch.log1p(-(noisy - largest).exp())
    return maximum.unsqueeze(-1) - gap.clamp(min=0) - torch.log1p((-gap.abs()).exp())
