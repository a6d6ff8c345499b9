"""The tree search of V-STAR: against a plain loop with objects, by counting forwards from outside, on broken input."""

import math
from dataclasses import replace

import pytest
import torch

from reclib.generation import (
    DecoderOnly,
    DecoderOnlyConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    SemanticIdTrie,
    beam_search,
    sample,
)
from reclib.objectives.prefix_tree import PrefixTree, TabularModel
from reclib.objectives.stochastic_beam import stochastic_beam_search
from reclib.objectives.vstar import (
    ActorCritic,
    DecodingConfig,
    ValueHead,
    can_expand,
    grow,
    plant,
    value_guided_decoding,
)
from reclib.tokenizers import SemanticIds

CONFIGS = {
    "default": DecodingConfig(),
    "small budget": DecodingConfig(budget=17, leaves=5),
    "large budget": DecodingConfig(budget=60, patience=3),
    "no gate": DecodingConfig(slack=math.inf),
    "no entropy": DecodingConfig(lam=0.0),
    "greedy": DecodingConfig(beta=0.0, lam=0.0),
    "curious": DecodingConfig(beta=5.0, lam=1.0, budget=25),
    "no widening": DecodingConfig(widening=math.inf),
    "narrow start": DecodingConfig(start_width=1, start_leaves=1, budget=20),
    "nothing left": DecodingConfig(start_width=8, start_leaves=16, budget=17),
}


# ------------------------------------------------------------------ worlds to search


def tabular(prompts=6, codes=6, items=60, seed=0, levels=3):
    """A trie, and per prompt random logits and random values."""
    generator = torch.Generator().manual_seed(seed)
    every = torch.cartesian_prod(*[torch.arange(codes)] * levels)
    chosen = every[torch.randperm(len(every), generator=generator)[:items]]
    trie = SemanticIdTrie(SemanticIds.from_codes(chosen, (codes,) * levels))
    logits, values = (
        [torch.randn(prompts, trie.nodes(level), codes, generator=generator) for level in range(levels)] for _ in "ab"
    )
    return TabularModel(trie, logits, values), trie, torch.arange(1, prompts + 1)[:, None]


def network(kind):
    codes = torch.randint(0, 5, (40, 3), generator=torch.Generator().manual_seed(0))
    ids = SemanticIds.from_codes(codes, (5, 5, 6))
    torch.manual_seed(1)
    sizes = {"dim": 16, "layers": 2, "heads": 2, "max_len": 8}
    policy = (
        DecoderOnly(ids, DecoderOnlyConfig(**sizes))
        if kind == "decoder-only"
        else EncoderDecoder(ids, EncoderDecoderConfig(ffn=24, **sizes))
    )
    model = ActorCritic(policy, ValueHead(16, ids.vocabulary)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4).add_(0.1 * torch.randn_like(weight))
    history = torch.tensor([[3, 7, 1, 9, 30], [4, 4, 0, 0, 0], [12, 0, 0, 0, 0], [5, 6, 7, 0, 0]])
    return model, SemanticIdTrie(ids), history


def with_oracle(model, trie, target):
    """The same policy; V is 1 on the way to the target leaf of each prompt and 0 elsewhere."""
    values = [torch.zeros_like(table) for table in model.values]
    codes, node = trie.ids.codes[trie.items[trie.first[target]]], torch.zeros_like(target)
    for level in range(trie.levels):
        values[level][torch.arange(len(target)), node, codes[:, level]] = 1
        node = trie.followers(level)[node, codes[:, level]]
    return TabularModel(trie, model.logits, values)


# ------------------------------------------------------------------ the plain loop


class Node:
    def __init__(self, depth, node, parent, value, visits):
        self.depth, self.node, self.parent, self.value, self.visits = depth, node, parent, value, visits
        self.entropy, self.children, self.open = 0.0, [], {}


class Naive:
    """One prompt at a time, objects and lists, no cache: the whole prefix is read again for every node."""

    def __init__(self, model, trie, history, noise, config):
        self.model, self.trie, self.history, self.noise, self.config = model, trie, history[None], noise, config
        self.levels = [[] for _ in range(trie.levels + 1)]
        self.forwards, self.expansions = 0, [0] * trie.levels
        root = self.new(0, 0, None, (), 0.0, 1)
        self.start(root)

    def new(self, depth, node, parent, prefix, value, visits):
        made = Node(depth, node, parent, value, visits)
        made.prefix = prefix
        self.levels[depth].append(made)
        if parent is not None:
            parent.children.append(made)
        if depth < self.trie.levels:
            self.look(made)
        return made

    def look(self, node):
        self.forwards += 1
        logits, values, cache = self.model.read(self.history)
        for level, code in enumerate(node.prefix):
            token = torch.tensor([[self.trie.ids.offsets[level] + code]])
            logits, values, cache = self.model.step(cache, token, torch.zeros_like(token))
        first, size = self.trie.ids.offsets[node.depth], self.trie.ids.sizes[node.depth]
        whole, mine = logits[0, 0].log_softmax(-1)[first : first + size], logits[0, 0, first : first + size]
        followers = self.trie.followers(node.depth)[node.node].tolist()
        allowed = [code for code in range(size) if followers[code] >= 0]
        log_pi = mine[allowed].log_softmax(-1)
        node.entropy = float(-(log_pi.exp() * log_pi).sum())
        for i, code in enumerate(allowed):
            noisy = float(log_pi[i]) + float(self.noise[node.depth][followers[code]])
            node.open[code] = (noisy, float(values[0, 0, first + code]), float(whole[code]), followers[code])

    def add(self, parent, code, visits):
        _, value, log_prob, child = parent.open.pop(code)
        made = self.new(parent.depth + 1, child, parent, (*parent.prefix, code), value, visits)
        made.log_prob = parent.log_prob + log_prob
        return made

    def start(self, root):
        root.log_prob = 0.0
        for depth in range(self.trie.levels):
            width = self.config.start_width if depth + 1 < self.trie.levels else self.config.start_leaves
            options = [(node.log_prob + node.open[c][2], node, c) for node in self.levels[depth] for c in node.open]
            for _, node, code in sorted(options, key=lambda o: -o[0])[:width]:
                self.add(node, code, visits=1)

    def g(self, node):
        return node.value + self.config.lam * node.entropy

    def u(self, node):
        root = self.levels[0][0]
        return self.g(node) + self.config.beta * math.sqrt(math.log(root.visits + 1) / (node.visits + 1))

    def can_expand(self, node):
        if node.depth == self.trie.levels or not node.open:
            return False
        mean = sum(map(self.g, self.levels[node.depth])) / len(self.levels[node.depth])
        return (
            self.forwards + self.trie.levels - 1 - node.depth <= self.config.budget
            and self.g(node) >= mean - self.config.slack - 1e-6
            and len(node.children) < math.ceil(min(self.config.widening * math.sqrt(node.visits), 1e9))
        )

    def grow(self):
        for _ in range(self.config.patience * self.config.budget):
            inner = [node for level in self.levels[:-1] for node in level]
            unfinished = any(node.open for node in inner) and self.forwards < self.config.budget
            if not (any(map(self.can_expand, inner)) or unfinished):
                break
            path = [self.levels[0][0]]
            while not self.can_expand(path[-1]) and path[-1].children:
                path.append(max(path[-1].children, key=self.u))
            if self.can_expand(path[-1]):
                self.expansions[path[-1].depth] += 1
                while path[-1].depth < self.trie.levels:
                    code = max(path[-1].open, key=lambda c: path[-1].open[c][0])
                    path.append(self.add(path[-1], code, visits=0))
            for node in path:
                node.visits += 1
        return self

    def best(self):
        found = sorted(self.levels[-1], key=lambda node: -node.value)[: self.config.leaves]
        return [node.node for node in found] + [found[0].node] * (self.config.leaves - len(found))


def noise_of(trie, prompts, seed):
    """The Gumbel numbers that a tree draws from a generator with this seed, row by row of the batch."""
    generator = torch.Generator().manual_seed(seed)
    return [
        -torch.empty(prompts, trie.nodes(depth)).exponential_(generator=generator).log()
        for depth in range(1, trie.levels + 1)
    ]


@torch.no_grad()
def check_against_the_loop(model, trie, history, config):
    found = value_guided_decoding(model, trie, history, config, generator=torch.Generator().manual_seed(7))
    noise = noise_of(trie, len(history), 7)
    for row in range(len(history)):
        naive = Naive(model, trie, history[row], [n[row] for n in noise], config).grow()
        assert found.leaf[row].tolist() == naive.best()
        assert int(found.forwards[row]) == naive.forwards
        assert found.expansions[row].tolist() == naive.expansions
        assert int(found.real[row].sum()) == min(len(naive.levels[-1]), config.leaves)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_batched_search_equals_the_plain_loop(name):
    check_against_the_loop(*tabular(), CONFIGS[name])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", CONFIGS)
def test_it_does_for_other_trees(name, seed):
    check_against_the_loop(*tabular(prompts=5, codes=4 + seed, items=30 + 20 * seed, seed=seed + 1), CONFIGS[name])
    config = replace(CONFIGS[name], budget=CONFIGS[name].budget + 10)
    check_against_the_loop(*tabular(prompts=3, codes=4, items=120, seed=seed, levels=4), config)


@pytest.mark.parametrize("kind", ["decoder-only", "encoder-decoder"])
def test_networks_with_their_caches_do_too(kind):
    for config in (DecodingConfig(), DecodingConfig(budget=25, beta=0.2)):
        check_against_the_loop(*network(kind), config)


# ------------------------------------------------------------------ the budget, counted from outside


class Counting:
    """Counts the tokens that go through a model; the prompt counts as one."""

    def __init__(self, model):
        self.model, self.tokens = model, 0

    def read(self, history):
        self.tokens += len(history)
        return self.model.read(history)

    def step(self, cache, token, parent):
        self.tokens += token.numel()
        return self.model.step(cache, token, parent)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_prompt_spends_more_than_its_budget(name):
    model, trie, history = tabular(prompts=20)
    config = CONFIGS[name]
    counting = Counting(model)
    found = value_guided_decoding(counting, trie, history, config)
    assert counting.tokens == int(found.forwards.sum())
    assert int(found.forwards.max()) <= config.budget
    for row in range(3):  # and each prompt by itself
        counting = Counting(model)
        assert value_guided_decoding(counting, trie, history[row : row + 1], config).forwards.item() == counting.tokens


@pytest.mark.parametrize(("levels", "width", "cost"), [(3, 8, 17), (3, 4, 9), (4, 8, 25)])
def test_a_true_beam_costs_one_and_its_width_per_level(levels, width, cost):
    model, trie, history = tabular(prompts=4, codes=12, items=400, levels=levels)
    counting = Counting(model)
    config = DecodingConfig(budget=60, start_width=width)
    assert config.start_cost(levels) == cost
    tree = plant(counting, trie, history, config)
    assert counting.tokens == 4 * cost
    assert tree.forwards.tolist() == [cost] * 4


def test_the_first_tree_is_beam_searchs():
    model, trie, history = network("decoder-only")
    for width in (1, 3, 5):
        tree = plant(model, trie, history, DecodingConfig(start_width=width, start_leaves=width))
        expected = beam_search(model.policy, trie, history, width)
        assert torch.equal(tree.levels[-1].node[:, :width], expected.leaf)
        torch.testing.assert_close(tree.levels[-1].log_prob[:, :width], expected.log_prob)


# ------------------------------------------------------------------ the search does search


def test_expansions_grow_with_the_budget_and_reach_every_depth():
    model, trie, history = tabular(prompts=40, codes=12, items=400)
    counts = [
        value_guided_decoding(model, trie, history, DecodingConfig(budget=17 * times)).expansions.double().mean(0)
        for times in (1, 2, 4)
    ]
    assert (counts[0] > 0).all()
    assert counts[0].sum() < counts[1].sum() < counts[2].sum()
    first = plant(model, trie, history, DecodingConfig()).levels[-1].count
    assert (first <= 8).all()


@pytest.mark.parametrize("seed", range(8))
def test_with_a_perfect_value_the_target_is_reached(seed):
    """Greedy, without widening: at most as many expansions as there are codes at the nodes on the way."""
    model, trie, history = tabular(prompts=10, codes=8, items=150, seed=seed)
    target = torch.randint(trie.nodes(3), (10,), generator=torch.Generator().manual_seed(seed))
    config = DecodingConfig(budget=400, lam=0.0, beta=0.0, widening=math.inf, leaves=1)
    tree = plant(with_oracle(model, trie, target), trie, history, config)
    codes, node, limit = trie.ids.codes[trie.items[trie.first[target]]], torch.zeros_like(target), 0
    for level in range(3):
        limit = limit + (trie.followers(level)[node] >= 0).sum(1)
        node = trie.followers(level)[node, codes[:, level]]
    used = torch.zeros_like(target)
    for _ in range(int(limit.max())):
        reached = ((tree.levels[-1].node == target[:, None]) & tree.levels[-1].filled).any(1)
        used += torch.where(reached, 0, grow(tree, config, 1).sum(1))
    assert ((tree.levels[-1].node == target[:, None]) & tree.levels[-1].filled).any(1).all()
    assert (used <= limit).all()


def test_a_value_that_knows_finds_more_than_one_that_does_not():
    model, trie, history = tabular(prompts=100, codes=12, items=400)
    target = torch.randint(trie.nodes(3), (100,), generator=torch.Generator().manual_seed(0))
    knowing = with_oracle(model, trie, target)

    def reached(searched, budget):
        found = value_guided_decoding(searched, trie, history, DecodingConfig(budget=budget))
        return float((found.leaf == target[:, None]).any(1).double().mean())

    assert reached(knowing, 68) > 0.9
    assert reached(knowing, 34) > reached(knowing, 17) > reached(model, 17) + 0.05
    assert reached(model, 68) < 0.3


def test_the_gate_is_the_mean_of_all_nodes_of_a_depth():
    """Step by step: who gets a child has at least the mean priority of its depth, computed anew by hand."""
    model, trie, history = tabular(prompts=8, codes=8, items=200)
    config = DecodingConfig(lam=0.3)
    tree = plant(model, trie, history, config)
    closed = 0
    for _ in range(60):
        before = [
            (level.value + 0.3 * level.entropy, level.filled, level.children.clone()) for level in tree.levels[:-1]
        ]
        chosen = grow(tree, config, 1)
        for depth, (g, filled, children) in enumerate(before):
            slots = children.shape[1]
            for row in range(8):
                mean = sum(float(g[row, s]) for s in range(slots) if filled[row, s]) / int(filled[row].sum())
                grown = (tree.levels[depth].children[row] > children[row]) & filled[row]
                if chosen[row, depth]:  # the search ended here; nodes below it got children because they are new
                    assert int(grown.sum()) == 1
                    assert float(g[row][grown]) >= mean - 1e-5
                else:
                    assert not grown.any()
                closed += int((filled[row] & (g[row] < mean - 1e-5)).sum())
    assert closed > 0  # the gate did shut somebody out


def test_nobody_passes_a_gate_below_the_mean():
    model, trie, history = tabular(prompts=8, codes=8, items=200)
    config = DecodingConfig()
    tree = plant(model, trie, history, config)
    for depth in range(3):
        level = tree.levels[depth]
        g = level.value + 0.1 * level.entropy
        mean = torch.stack([g[row][level.filled[row]].mean() for row in range(8)])
        allowed = can_expand(tree, depth, config)
        assert not (allowed & (g < mean[:, None] - 1e-5)).any()
        assert not (allowed & ~level.filled).any()
        without = can_expand(tree, depth, replace(config, slack=math.inf))
        assert (without | ~allowed).all()


def test_equal_values_shut_nobody_out():
    model, trie, history = tabular(prompts=5)
    flat = TabularModel(trie, model.logits, [torch.full_like(table, 0.3) for table in model.values])
    found = value_guided_decoding(flat, trie, history, DecodingConfig(lam=0.0))
    assert (found.expansions.sum(1) > 3).all()


def test_new_children_are_drawn_from_the_policy():
    """The first child that a root gets, over many prompts with one policy, is a draw from π over the codes left."""
    prompts = 20_000
    codes = torch.tensor([[0, 0], [1, 0], [2, 0], [3, 0]])
    trie = SemanticIdTrie(SemanticIds.from_codes(codes, (4, 1)))
    logits = [torch.tensor([2.0, 0.0, 1.0, -1.0]).expand(prompts, 1, 4), torch.zeros(prompts, 4, 1)]
    model = TabularModel(trie, logits, [torch.zeros_like(table) for table in logits])
    history = torch.arange(1, prompts + 1)[:, None]
    tree = PrefixTree(model, trie, history, forwards=4, leaves=4, generator=torch.Generator().manual_seed(0))
    tree.start(1, 1)  # takes code 0
    rows = torch.arange(prompts)
    slot = tree.draw(1, rows, torch.zeros_like(rows))
    drawn = torch.bincount(tree.levels[1].node[rows, slot], minlength=4) / prompts
    left = torch.tensor([0.0, 1.0, -1.0]).softmax(0)
    torch.testing.assert_close(drawn[1:], left, rtol=0, atol=0.012)
    assert drawn[0] == 0


# ------------------------------------------------------------------ what comes out


def test_candidates_are_different_ids_of_the_trie_best_value_first():
    model, trie, history = tabular(prompts=10, codes=12, items=400)
    found = value_guided_decoding(model, trie, history)
    assert found.leaf.shape == (10, 16)
    assert found.real.all()
    assert (found.leaf >= 0).all()
    assert (found.leaf < trie.nodes(3)).all()
    assert (found.value[:, :-1] >= found.value[:, 1:]).all()
    for row in found.leaf.tolist():
        assert len(set(row)) == 16


def test_a_tiny_catalogue_is_found_whole_and_filled_up_with_the_best():
    model, trie, history = tabular(prompts=4, codes=3, items=7)
    found = value_guided_decoding(
        model, trie, history, DecodingConfig(budget=40, patience=6, slack=math.inf, beta=50.0)
    )
    for leaf, real, value in zip(found.leaf, found.real, found.value, strict=True):
        assert sorted(leaf[real].tolist()) == list(range(7))
        assert (leaf[~real] == leaf[0]).all()
        assert (value[~real] == value[0]).all()


def test_a_search_repeats_with_its_generator_and_a_prompt_does_not_feel_the_others_policies():
    model, trie, history = tabular(prompts=5)
    first, again, other = (
        value_guided_decoding(model, trie, history, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4)
    )
    assert torch.equal(first.leaf, again.leaf)
    assert not torch.equal(first.leaf, other.leaf)
    changed = TabularModel(trie, [t.clone() for t in model.logits], [t.clone() for t in model.values])
    for table in (*changed.logits, *changed.values):
        table[1:] = torch.randn_like(table[1:])
    alone = value_guided_decoding(changed, trie, history, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first.leaf[0], alone.leaf[0])


def test_growing_in_steps_is_growing_at_once():
    model, trie, history = tabular()
    config = DecodingConfig()
    once, steps = (plant(model, trie, history, config, generator=torch.Generator().manual_seed(1)) for _ in "ab")
    whole = grow(once, config)
    parts = sum(grow(steps, config, 1) for _ in range(config.patience * config.budget))
    assert torch.equal(whole, parts)
    for a, b in zip(once.levels, steps.levels, strict=True):
        assert torch.equal(a.node, b.node)
        assert torch.equal(a.visits, b.visits)


# ------------------------------------------------------------------ bad input


def test_bad_input():
    model, trie, history = tabular()
    with pytest.raises(
        ValueError, match="budget: 8 forward tokens, but a beam of start_width = 4 over 3 levels takes 9"
    ):
        value_guided_decoding(model, trie, history, DecodingConfig(budget=8))
    broken = TabularModel(trie, model.logits, [torch.full_like(table, float("nan")) for table in model.values])
    with pytest.raises(ValueError, match="model: values of level 1 are NaN or infinite"):
        value_guided_decoding(broken, trie, history)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leaves": 0}, "leaves: must be at least 1, got 0"),
        ({"start_width": 0}, "start_width: must be at least 1"),
        ({"patience": 0}, "patience: must be at least 1"),
        ({"lam": -0.1}, "lam: must be zero or positive"),
        ({"beta": float("nan")}, "beta: must be zero or positive, got nan"),
        ({"slack": -1.0}, "slack: must be zero or positive"),
        ({"widening": 0.0}, "widening: must be positive"),
    ],
)
def test_bad_configurations(change, message):
    with pytest.raises(ValueError, match=message):
        DecodingConfig(**change)


# ------------------------------------------------------------------ stochastic beams


def probabilities(model, trie):
    """π of every leaf of prompt 0, by enumeration."""
    found = torch.zeros(trie.nodes(3))
    for leaf in range(trie.nodes(3)):
        codes, node, log_prob = trie.ids.codes[trie.items[trie.first[leaf]]], 0, 0.0
        for level in range(3):
            followers = trie.followers(level)[node]
            logits = model.logits[level][0, node].masked_fill(followers < 0, -torch.inf)
            log_prob += float(logits.log_softmax(-1)[codes[level]])
            node = int(followers[codes[level]])
        found[leaf] = math.exp(log_prob)
    return found


class Bare:
    """A tabular model without its values."""

    def __init__(self, model):
        self.model = model

    def read(self, history):
        logits, _, cache = self.model.read(history)
        return logits, cache

    def step(self, cache, token, parent):
        logits, _, cache = self.model.step(cache, token, parent)
        return logits, cache


def test_stochastic_beams_draw_without_replacement():
    model, trie, _ = tabular(prompts=1, codes=3, items=8)
    draws = 30_000
    history = torch.ones(draws, 1, dtype=torch.long)
    found = stochastic_beam_search(Bare(model), trie, history, 2, generator=torch.Generator().manual_seed(0))
    p = probabilities(model, trie)
    assert float(p.sum()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(found.log_prob.exp(), p[found.leaf], rtol=1e-4, atol=1e-6)
    first = torch.bincount(found.leaf[:, 0], minlength=8) / draws
    torch.testing.assert_close(first, p, rtol=0, atol=0.012)
    pairs = (
        torch.zeros(8, 8).index_put_((found.leaf[:, 0], found.leaf[:, 1]), torch.ones(draws), accumulate=True) / draws
    )
    expected = p[:, None] * p / (1 - p[:, None])
    torch.testing.assert_close(pairs, expected.fill_diagonal_(0), rtol=0, atol=0.012)


def test_a_stochastic_beam_as_wide_as_the_catalogue_finds_it_all():
    model, trie, history = tabular(prompts=3, codes=3, items=8)
    counting = Counting(model)
    found = stochastic_beam_search(Bare(counting), trie, history, 50)
    assert found.leaf.sort(dim=1).values.tolist() == [list(range(8))] * 3
    wide = tabular(prompts=3, codes=20, items=400)
    counting = Counting(wide[0])
    stochastic_beam_search(Bare(counting), wide[1], wide[2], 16)
    assert counting.tokens == 3 * 33
    full = tabular(prompts=3, codes=4, items=64)
    more = stochastic_beam_search(Bare(full[0]), full[1], full[2], 4, leaves=9)
    assert more.leaf.shape == (3, 9)
    assert torch.isfinite(more.log_prob).all()


def test_a_stochastic_beam_repeats_with_its_generator():
    model, trie, history = network("decoder-only")
    first, again, other = (
        stochastic_beam_search(model.policy, trie, history, 6, generator=torch.Generator().manual_seed(s)).leaf
        for s in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(ValueError, match="width: must be at least 1"):
        stochastic_beam_search(model.policy, trie, history, 0)


def test_sampling_a_table_is_sampling_a_model():
    """The tabular model keeps to the contract: what `sample` draws from it has the probabilities of the table."""
    model, trie, _ = tabular(prompts=1, codes=3, items=8)
    drawn = sample(Bare(model), trie, torch.ones(1, 1, dtype=torch.long), 500)
    torch.testing.assert_close(drawn.log_prob.exp()[0], probabilities(model, trie)[drawn.leaf[0]], rtol=1e-4, atol=1e-6)
