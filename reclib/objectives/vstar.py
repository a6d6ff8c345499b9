r"""V-STAR: value-guided sampling and sibling advantages for generative recommenders (Jiang et al., 2026).

Reinforcement learning of a model that writes semantic IDs needs, for every prompt, a group of candidates. Beam search
and sampling find what is probable already, and candidates with long common prefixes earn nearly equal rewards. V-STAR
learns what a *prefix* is worth, lets that value steer a tree search within a budget of forward tokens (VED), and
compares the children of a node with one another (Sibling-GRPO).

Written in the order of the paper, whose equation numbers we know from its code. Where its search cannot run as it is
described there, this is our version, and says so: `value_guided_decoding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reclib.generation.cache import KeyValueCache
from reclib.generation.decoder_only import DecoderOnly
from reclib.generation.encoder_decoder import EncoderDecoder
from reclib.generation.trie import SemanticIdTrie
from reclib.nn.sizes import check_at_least
from reclib.objectives.grpo import group_advantages, grpo_loss
from reclib.objectives.prefix_tree import PrefixTree, ValuedModel, allowed_children, allowed_prefixes

# ------------------------------------------------------------------ rewards


def ranking_reward(hit: Bool[Tensor, "*groups size"]) -> Float[Tensor, "*groups size"]:
    r"""Rule + NDCG: 1 for the target; in a group that holds it, wrong candidates pay for their place in the list.

    A wrong candidate at place i (from 0) gets $-\frac{1/\log_2(i+2)}{\sum_j 1/\log_2(j+2)}$, the sum over all places of
    the group. In a group without the target all rewards are 0.
    """
    place = torch.arange(hit.shape[-1], device=hit.device)
    discount = 1 / torch.log2(place + 2.0)
    penalty = (discount / discount.sum()).expand(hit.shape)
    return torch.where(hit, 1.0, torch.where(hit.any(-1, keepdim=True), -penalty, 0.0))


def dense_reward(
    match: Bool[Tensor, "*shape levels"],
    cosine: Float[Tensor, "*shape levels"],
    weights: Float[Tensor, "levels"],
) -> Float[Tensor, "*shape levels"]:
    r"""What trains the value head, and nothing else.

    $r_\ell=+w_\ell$ where $y_{\le\ell}=y^*_{\le\ell}$, else $-w_\ell(1-\cos(\bar e(y_{\le\ell}),e^*))$.

    Args:
        match: whether the code of each level is the target's. One that is right again after a wrong one does not count.
        cosine: between what the prefix stands for and the target's embedding; at matching levels it is not looked at.
        weights: $w$, one per level.
    """
    right = match.cumprod(-1).bool()
    return torch.where(right, weights, -weights * (1 - cosine))


class BucketReward:
    r"""`dense_reward` for leaves of a trie. $\bar e$ is the paper's: the mean embedding of all items below a prefix.

    Attributes
    ----------
    ancestors: `[leaves, levels]` the trie's node above each leaf, by level; at the last level the leaf itself.
    """

    def __init__(
        self, trie: SemanticIdTrie, vectors: Float[Tensor, "items dim"], weights: tuple[float, ...] = (0.3, 0.5, 1.0)
    ) -> None:
        """Prepare the means.

        Args:
            trie: of the items' semantic IDs.
            vectors: an embedding per item, without a row for padding.
            weights: one per level.
        """
        if len(vectors) != trie.ids.n_items:
            raise ValueError(
                f"vectors: {len(vectors)} rows for {trie.ids.n_items} items; give one per item, no padding"
            )
        if len(weights) != trie.levels:
            raise ValueError(f"weights: {len(weights)} for {trie.levels} levels; give one per level")
        self.trie, self.weights = trie, torch.tensor(weights)
        unit = nn.functional.normalize(vectors.float(), dim=1)
        self.target_vector = _mean_by(trie.get_buffer(f"node_{trie.levels}"), unit)
        self.means = [_mean_by(trie.get_buffer(f"node_{depth}"), unit) for depth in range(1, trie.levels + 1)]
        self.ancestors = torch.stack([_ancestor(trie, depth) for depth in range(1, trie.levels + 1)], dim=1)

    def prefix_vectors(self, leaf: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape levels dim"]:
        """What each prefix of these leaves stands for, not normalised."""
        nodes = self.ancestors[leaf]
        return torch.stack([mean[nodes[..., depth]] for depth, mean in enumerate(self.means)], dim=-2)

    def __call__(
        self, leaf: Int[Tensor, "batch size"], target: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch size levels"]:
        """Rewards of candidates, each against the target leaf of its row."""
        match = self.ancestors[leaf] == self.ancestors[target][:, None]
        wanted = self.target_vector[target][:, None, None]
        cosine = torch.cosine_similarity(self.prefix_vectors(leaf), wanted, dim=-1)
        return dense_reward(match, cosine, self.weights)


class ItemReward(BucketReward):
    """The released code's variant: the complete item's embedding at every level."""

    def prefix_vectors(self, leaf: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape levels dim"]:
        """The item itself, whatever the level."""
        return super().prefix_vectors(leaf)[..., -1:, :].expand(*leaf.shape, self.trie.levels, -1)


def _mean_by(group: Int[Tensor, "items"], vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "groups dim"]:
    count = torch.bincount(group)
    return torch.zeros(len(count), vectors.shape[1]).index_add_(0, group, vectors) / count[:, None]


def _ancestor(trie: SemanticIdTrie, depth: int) -> Int[Tensor, "leaves"]:
    """The prefix of a length above each leaf."""
    node = trie.get_buffer(f"node_{depth}")
    return node[trie.items[trie.first] - 1]


# ------------------------------------------------------------------ value head


def td_targets(
    reward: Float[Tensor, "*shape levels"], value: Float[Tensor, "*shape levels"], gamma: float = 0.99
) -> Float[Tensor, "*shape levels"]:
    r"""$r_\ell+\gamma V(s_{\ell+1})$ with $V(s_{L+1})=0$, detached. ``value`` is $V$ along the same sequences."""
    later = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], dim=-1)
    return (reward + gamma * later).detach()


class ValueHead(nn.Module):
    r"""$V(s_{\ell+1})=q(h_{s_\ell},y_{\ell+1})$: what each next code is worth, from the hidden state before it.

    One hidden layer with an output per code. Our choice in the place of a value per position: siblings get different
    values, complete IDs are valued without a forward of their own, and nothing later than the prefix can leak in.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(dim, dim), nn.Linear(dim, vocabulary)
        nn.init.zeros_(self.out.weight)  # all prefixes start equal
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Float[Tensor, "batch beams dim"]) -> Float[Tensor, "batch beams vocabulary"]:
        """A value for every code of the vocabulary; those of the next level count."""
        values: Tensor = self.out(nn.functional.gelu(self.hidden(hidden)))
        return values


class DetachedValueHead(ValueHead):
    """The same without a gradient into the policy's network: learning values moves the head only."""

    def forward(self, hidden: Float[Tensor, "batch beams dim"]) -> Float[Tensor, "batch beams vocabulary"]:
        """A value for every code of the vocabulary."""
        return super().forward(hidden.detach())


class ActorCritic(nn.Module):
    """A generator and a value head on its last hidden state, as one model that decodes."""

    def __init__(self, policy: DecoderOnly | EncoderDecoder, value: nn.Module) -> None:
        super().__init__()
        self.policy, self.value = policy, value
        self._last: Tensor | None = None
        policy.norm.register_forward_hook(self._listen)  # what the logits are made of

    def _listen(self, _: nn.Module, __: tuple[Tensor, ...], hidden: Tensor) -> None:
        self._last = hidden

    def _values(self, logits: Float[Tensor, "batch beams vocabulary"]) -> Float[Tensor, "batch beams vocabulary"]:
        assert self._last is not None
        hidden, self._last = self._last, None
        values: Tensor = self.value(hidden.view(*logits.shape[:2], -1))
        return values

    def read(
        self, history: Int[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch 1 vocabulary"], Float[Tensor, "batch 1 vocabulary"], KeyValueCache]:
        """See `ValuedModel`."""
        logits, cache = self.policy.read(history)
        return logits, self._values(logits), cache

    def step(
        self, cache: KeyValueCache, token: Int[Tensor, "batch beams"], parent: Int[Tensor, "batch beams"]
    ) -> tuple[Float[Tensor, "batch beams vocabulary"], Float[Tensor, "batch beams vocabulary"], KeyValueCache]:
        """See `ValuedModel`."""
        logits, cache = self.policy.step(cache, token, parent)
        return logits, self._values(logits), cache


class Scored(NamedTuple):
    """Sequences as a model sees them, with gradients."""

    log_prob: Float[Tensor, "batch size levels"]  # of each code, from the softmax over the codes that the trie allows
    value: Float[Tensor, "batch size levels"]  # V of the prefix that ends with it


def score_sequences(
    model: ValuedModel,
    trie: SemanticIdTrie,
    history: Int[Tensor, "batch time"],
    leaf: Int[Tensor, "batch size"],
    *,
    exclude: Int[Tensor, "batch some"] | None = None,
) -> Scored:
    """Log-probabilities and values along given semantic IDs, in (L - 1) · size forwards.

    The policy is a softmax over the codes that lead to an item of the trie which is not in `exclude`: what is drawn
    from, and what `sample` draws from if nothing is excluded.
    """
    allowed = allowed_prefixes(trie, exclude, len(leaf))
    codes = trie.ids.codes[trie.items[trie.first[leaf]]]
    batch, size = leaf.shape
    node = torch.zeros_like(leaf)
    logits, values, cache = model.read(history)
    logits, values = logits.expand(-1, size, -1), values.expand(-1, size, -1)
    parent = torch.zeros_like(leaf)
    log_prob, value = [], []
    for level in range(trie.levels):
        code, first = codes[..., level], trie.ids.offsets[level]
        mine = slice(first, first + trie.ids.sizes[level])
        child = allowed_children(trie, level, node, allowed[level])
        log_pi = logits[..., mine].masked_fill(child < 0, -torch.inf).log_softmax(-1)
        log_prob.append(log_pi.gather(2, code[..., None])[..., 0])
        value.append(values[..., mine].gather(2, code[..., None])[..., 0])
        node = child.gather(2, code[..., None])[..., 0]
        if level + 1 < trie.levels:
            logits, values, cache = model.step(cache, first + code, parent)
            parent = torch.arange(size, device=leaf.device).expand(batch, size)
    return Scored(torch.stack(log_prob, dim=-1), torch.stack(value, dim=-1))


# ------------------------------------------------------------------ value-guided efficient decoding

ROUNDING = 1e-6  # equal priorities are all as large as their mean, whatever the mean's last digit


def priority(
    value: Float[Tensor, "*shape"], entropy: Float[Tensor, "*shape"], lam: float = 0.1
) -> Float[Tensor, "*shape"]:
    r"""Eq. 11: $G(s)=V_\phi(s)+\lambda H_\theta(\cdot|s)$."""
    return value + lam * entropy


def upper_confidence_bound(
    g: Float[Tensor, "..."], root_visits: Float[Tensor, "..."], visits: Float[Tensor, "..."], beta: float = 1.0
) -> Float[Tensor, "..."]:
    r"""Eq. 13: $U(s)=G(s)+\beta\sqrt{\ln(N_{root}+1)/(N(s)+1)}$."""
    return g + beta * ((root_visits + 1).log() / (visits + 1)).sqrt()


@dataclass(frozen=True)
class DecodingConfig:
    """Value-guided decoding; the paper's or its code's values in brackets."""

    leaves: int = 16  # G, candidates returned [16]
    budget: int = 34  # forward tokens per prompt, prompt excluded [1 + (L - 1) · 8 = 17, times a multiplier of 1]
    start_width: int = 4  # b_0 of the initial beam [8, which costs the whole budget of 17]
    start_leaves: int = 8  # B_0, complete IDs of the initial beam [8]
    lam: float = 0.1  # λ, weight of the entropy [0.1]
    beta: float = 1.0  # β, weight of what was rarely visited [1.0]
    slack: float = 0.0  # a node passes the gate from this far below its depth's mean; inf: no gate [0]
    widening: float = 2.0  # c_w: at most ⌈c_w √N⌉ children; inf: as many as there are codes [not in the paper]
    patience: int = 2  # iterations at most, in units of the budget [not in the paper]

    def __post_init__(self) -> None:
        check_at_least(1, leaves=self.leaves, start_width=self.start_width, start_leaves=self.start_leaves)
        check_at_least(1, patience=self.patience)
        for name in ("lam", "beta", "slack"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: must be zero or positive, got {getattr(self, name)}")
        if not self.widening > 0:
            raise ValueError(f"widening: must be positive (math.inf: no limit), got {self.widening}")

    def start_cost(self, levels: int) -> int:
        """Forward tokens of the initial beam."""
        return 1 + (levels - 1) * self.start_width


class Candidates(NamedTuple):
    """What a search found, the highest value first."""

    leaf: Int[Tensor, "batch leaves"]  # of the trie
    value: Float[Tensor, "batch leaves"]  # V
    real: Bool[Tensor, "batch leaves"]  # False: fewer were found, and this place repeats the best one
    forwards: Int[Tensor, "batch"]  # forward tokens used, prompt excluded
    expansions: Int[Tensor, "batch levels"]  # searches that ended in a new child, by the depth of its parent


@torch.no_grad()
def value_guided_decoding(
    model: ValuedModel,
    trie: SemanticIdTrie,
    history: Int[Tensor, "batch time"],
    config: DecodingConfig | None = None,
    *,
    exclude: Int[Tensor, "batch some"] | None = None,
    generator: torch.Generator | None = None,
) -> Candidates:
    r"""Value-guided efficient decoding (VED): a tree search that spends a budget of forward tokens where $V$ is high.

    1. A beam of width $b_0$ makes the first tree. (Eq. 10 is the budget.)
    2. From the root go down to the child with the largest $U$ (Eq. 13), until a node can be expanded.
    3. Give it one new child, drawn from $\pi_\theta$ (Eq. 14), and complete that to an ID.
    4. Count the visit on the whole path; again from 2, until the budget is spent.

    Four things are ours. The beam is narrower than the budget allows, so that there is something left to spend. The
    walk stops at inner nodes too: it expands the first node that has codes left, is affordable, passes the gate
    ($G(s)\ge\bar G_\ell$, the mean over all nodes of its depth) and has fewer than $\lceil c_w\sqrt{N(s)}\rceil$
    children. (If it stopped at childless nodes only, no node would ever get another child; without a limit the root,
    which always equals its depth's mean, would take everything.) A new child is completed at once, or too few IDs would
    come out. And where a walk ends without an expansion the visit is counted, so that the next goes elsewhere.

    Args:
        model: in eval mode.
        trie: of the same semantic IDs.
        history: item ids, left-aligned, 0 pads on the right.
        config: see `DecodingConfig`.
        exclude: items that are not wanted, such as the whole history; 0 is ignored.
        generator: of the draws.

    Raises:
        ValueError: a budget below the cost of the initial beam; values that are NaN or infinite; a prompt for which
            every item is excluded.
    """
    config = config or DecodingConfig()
    if config.budget < config.start_cost(trie.levels):
        raise ValueError(
            f"budget: {config.budget} forward tokens, but a beam of start_width = {config.start_width} over "
            f"{trie.levels} levels takes {config.start_cost(trie.levels)}; raise the budget or narrow the beam"
        )
    tree = plant(model, trie, history, config, exclude=exclude, generator=generator)
    expansions = grow(tree, config)
    leaf, value, real = harvest(tree, config.leaves)
    return Candidates(leaf, value, real, tree.forwards, expansions)


@torch.no_grad()
def plant(
    model: ValuedModel,
    trie: SemanticIdTrie,
    history: Int[Tensor, "batch time"],
    config: DecodingConfig,
    *,
    exclude: Int[Tensor, "batch some"] | None = None,
    generator: torch.Generator | None = None,
) -> PrefixTree:
    """Stage 1: the initial beam."""
    room = config.start_leaves + config.patience * config.budget
    tree = PrefixTree(model, trie, history, forwards=config.budget, leaves=room, exclude=exclude, generator=generator)
    tree.start(config.start_width, config.start_leaves)
    return tree


@torch.no_grad()
def grow(tree: PrefixTree, config: DecodingConfig, iterations: int | None = None) -> Int[Tensor, "batch levels"]:
    """Stages 2 to 4 on trees that are there; returns the number of expansions by depth of the parent.

    Args:
        iterations: at most so many; default: `patience` times the budget.
    """
    expansions = torch.zeros(len(tree.forwards), tree.depth, dtype=torch.long, device=tree.forwards.device)
    for _ in range(config.patience * config.budget if iterations is None else iterations):
        can = [can_expand(tree, depth, config) for depth in range(tree.depth)]
        possible = torch.stack([c.any(1) for c in can]).any(0)
        unfinished = torch.stack([(level.left > 0).any(1) for level in tree.levels[:-1]]).any(0)
        alive = possible | ((tree.forwards < config.budget) & unfinished)
        if not alive.any():
            break
        path, depth, found = select(tree, can, config)
        chosen = (alive & found).nonzero()[:, 0]
        expansions[chosen, depth[chosen]] += 1
        for above in range(tree.depth):
            rows = chosen[depth[chosen] == above]
            if len(rows):
                path[rows, above + 1] = tree.draw(above + 1, rows, path[rows, above])
                depth[rows] = above + 1
        for level, slot in zip(tree.levels, path.unbind(1), strict=True):
            rows = (alive & (slot >= 0)).nonzero()[:, 0]
            level.visits[rows, slot[rows]] += 1
    return expansions


def can_expand(tree: PrefixTree, depth: int, config: DecodingConfig) -> Bool[Tensor, "batch slots"]:
    r"""Eq. 14 and what else it takes: nodes of a depth below L that may get a new child now."""
    level = tree.levels[depth]
    g = priority(level.value, level.entropy, config.lam)
    mean = (g * level.filled).sum(1, keepdim=True) / level.count.clamp(min=1)[:, None]
    affordable = (tree.forwards + tree.depth - 1 - depth <= config.budget)[:, None]
    gate = g >= mean - config.slack - ROUNDING
    room = level.children < (config.widening * level.visits.sqrt()).ceil()
    return level.filled & (level.left > 0) & affordable & gate & room


def select(
    tree: PrefixTree, can: list[Bool[Tensor, "batch _"]], config: DecodingConfig
) -> tuple[Int[Tensor, "batch depths"], Int[Tensor, "batch"], Bool[Tensor, "batch"]]:
    """Stage 2: the slots on the way down (-1 below its end), the depth where it ends, whether that can be expanded."""
    slot = torch.zeros_like(tree.forwards)
    depth = torch.zeros_like(slot)
    found = can[0][:, 0]
    path, going = [slot], ~found
    for below, level in enumerate(tree.levels[1:], start=1):
        g = priority(level.value, level.entropy, config.lam)
        u = upper_confidence_bound(g, tree.levels[0].visits, level.visits, config.beta)
        mine = level.filled & (level.parent == slot[:, None])
        best, best_slot = u.masked_fill(~mine, -torch.inf).max(1)
        going = going & (best > -torch.inf)
        slot = torch.where(going, best_slot, slot)
        depth = depth + going
        path.append(torch.where(going, best_slot, -1))
        if below < tree.depth:
            found = found | (going & can[below].gather(1, slot[:, None])[:, 0])
            going = going & ~found
    return torch.stack(path, dim=1), depth, found


def harvest(
    tree: PrefixTree, leaves: int
) -> tuple[Int[Tensor, "batch leaves"], Float[Tensor, "batch leaves"], Bool[Tensor, "batch leaves"]]:
    """The complete IDs of largest value, older ones first among equals; the best one again where there are too few."""
    last = tree.levels[-1]
    value, order = last.value.masked_fill(~last.filled, -torch.inf).sort(dim=1, descending=True, stable=True)
    place = torch.arange(leaves, device=value.device)
    real = place < last.count[:, None]
    order = torch.where(real, order[:, place.clamp(max=order.shape[1] - 1)], order[:, :1])
    return last.node.gather(1, order), last.value.gather(1, order), real


# ------------------------------------------------------------------ Sibling-GRPO


class SiblingAdvantages(NamedTuple):
    """What `sibling_advantages` returns, one entry per candidate and level."""

    advantages: Float[Tensor, "*groups size levels"]  # of the node that the candidate passes at this level
    share: Float[Tensor, "*groups size levels"]  # 1 / candidates that pass it: sums to 1 for each node
    branching: Bool[Tensor, "*groups size levels"]  # where siblings differ in their mean reward; elsewhere exactly 0

    @property
    def branching_share(self) -> Float[Tensor, ""]:
        """Share of the nodes that get a signal, each counted once. Log it."""
        return (self.share * self.branching).sum() / self.share.sum()


def sibling_advantages(
    rewards: Float[Tensor, "*groups size"],
    codes: Int[Tensor, "*candidates levels"],
    eps: float = 1e-4,
    floor: float = 0.0,
) -> SiblingAdvantages:
    r"""Eqs. 15 to 18: the children of one node, compared with one another.

    $$A_{node}(h,v)=\frac{\bar R(h,v)-\mu_h}{\sigma_h+\epsilon}$$

    $\bar R(h,v)$ is the mean reward of the candidates that go from prefix $h$ to code $v$; $\mu_h$ and $\sigma_h$ are
    mean and population standard deviation over the children of $h$, each child once, however many candidates pass it.
    Only children of the *same* prefix in the same group are siblings: every group is one prompt.

    Args:
        rewards: the group is the last axis. Any number of leading axes.
        codes: of the candidates, `[*groups, size, levels]`.
        eps: $\epsilon$.
        floor: smallest $\sigma_h$ (our choice; 0 is the paper's). Two siblings get ±1 whatever their gap, because a gap
            is always twice its population standard deviation; a floor makes small gaps count little.

    A child without siblings, and siblings of equal mean reward (up to rounding, 1e-6 of the group's largest), get
    exactly zero. So do groups whose rewards are all equal.

    Raises:
        ValueError: a group of one, a reward that is not finite, codes of another shape, a negative `eps` or `floor`.
    """
    group_advantages(rewards)  # refuses what is no group
    if codes.shape[:-1] != rewards.shape:
        raise ValueError(
            f"codes: shape {tuple(codes.shape)} does not fit rewards {tuple(rewards.shape)}; give one row of codes per "
            "candidate"
        )
    if not (eps >= 0 and floor >= 0):
        raise ValueError(f"eps, floor: got {eps} and {floor}; both must be zero or positive.")
    same_node = (codes.unsqueeze(-2) == codes.unsqueeze(-3)).cumprod(-1).to(rewards.dtype)  # [*groups, i, j, levels]
    same_parent = torch.cat([torch.ones_like(same_node[..., :1]), same_node[..., :-1]], dim=-1)
    candidates = same_node.sum(-2)
    mean = torch.einsum("...ijl,...j->...il", same_node, rewards) / candidates
    once = same_parent / candidates.unsqueeze(-3)  # of j, as seen by i: each sibling node has weight 1
    siblings = once.sum(-2)
    mu = (once * mean.unsqueeze(-3)).sum(-2) / siblings
    gap = mean.unsqueeze(-3) - mu.unsqueeze(-2)
    sigma = ((once * gap.square()).sum(-2) / siblings).sqrt()
    spread = (same_parent * gap.abs()).amax(-2)
    branching = (siblings > 1.5) & (spread > 1e-6 * rewards.abs().amax(-1)[..., None, None])
    scale = torch.where(branching, sigma.clamp(min=floor) + eps, torch.inf)
    return SiblingAdvantages((mean - mu) / scale, 1 / candidates, branching)


def sibling_loss(
    log_prob: Float[Tensor, "*stack size levels"],
    log_prob_old: Float[Tensor, "*stack size levels"],
    found: SiblingAdvantages,
) -> Float[Tensor, "*stack"]:
    r"""Eq. 19, negated: $-\frac1{|C|}\sum_\ell\sum_h\sum_{v\in S(h)}A_{node}(h,v)\,\rho_\theta(v|h)$, every node once.

    ``log_prob_old`` is detached: pass ``log_prob`` itself at the first step. No clip, as in the paper.
    """
    ratio = (log_prob - log_prob_old.detach()).exp()
    return -(found.share * found.advantages * ratio).sum(-1).mean(-1)


# ------------------------------------------------------------------ all of it


@dataclass(frozen=True)
class VStarConfig:
    """The loss; the paper's values in brackets."""

    gamma: float = 0.99  # γ of the value's targets [0.99]
    value_weight: float = 1.0  # [1.0]
    sibling_weight: float = 1.0  # [1.0]; 0: plain GRPO
    beta: float = 1e-3  # weight of the KL penalty to the policy at the start [1e-3]
    floor: float = 0.0  # smallest σ_h of sibling advantages [0]


class VStarLoss(NamedTuple):
    """The parts of the loss, means over the batch, weights included."""

    policy: Float[Tensor, ""]  # L_GRPO
    sibling: Float[Tensor, ""]  # L_sib
    value: Float[Tensor, ""]  # L_V

    @property
    def total(self) -> Float[Tensor, ""]:
        """What to minimise."""
        return self.policy + self.sibling + self.value


def vstar_loss(
    scored: Scored,
    old: Float[Tensor, "batch size levels"],
    reference: Float[Tensor, "batch size levels"],
    rewards: Float[Tensor, "batch size"],
    sibling_rewards: Float[Tensor, "batch size"],
    codes: Int[Tensor, "batch size levels"],
    dense: Float[Tensor, "batch more levels"],
    config: VStarConfig,
) -> VStarLoss:
    """L_GRPO + L_sib + L_V of one batch of groups.

    The candidates come from a search, but the ratio is to the policy, so this is off-policy with respect to the
    sampler; the paper does not correct for it, and neither do we.

    Args:
        scored: the candidates and, behind them, any sequences that only the value learns from, such as the target
            (our choice: the target's path is the only one that is certain to show what a right prefix is worth).
        old: log-probabilities of the candidates when they were found; `scored`'s own at the first step.
        reference: the same under the policy that training started from.
        rewards: of the candidates, for GRPO.
        sibling_rewards: of the candidates, for their nodes.
        codes: of the candidates.
        dense: `dense_reward` of everything in `scored`.
    """
    log_prob = scored.log_prob[:, : rewards.shape[1]]
    advantages = group_advantages(rewards).advantages
    policy = grpo_loss(log_prob, old, advantages, log_prob_ref=reference, beta=config.beta)
    sibling = sibling_loss(log_prob, old, sibling_advantages(sibling_rewards, codes, floor=config.floor))
    value = (scored.value - td_targets(dense, scored.value, config.gamma)).square()
    return VStarLoss(policy.mean(), config.sibling_weight * sibling.mean(), config.value_weight * value.mean())
