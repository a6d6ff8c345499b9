"""V-STAR's equations by hand, its losses and their gradients; the search has a file of its own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from reclib.generation import (
    DecoderOnly,
    DecoderOnlyConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    SemanticIdTrie,
    sample,
)
from reclib.objectives.grpo import dapo_loss, group_advantages, grpo_loss, gspo_loss
from reclib.objectives.vstar import (
    ActorCritic,
    BucketReward,
    DetachedValueHead,
    ItemReward,
    Scored,
    ValueHead,
    VStarConfig,
    dense_reward,
    priority,
    ranking_reward,
    score_sequences,
    sibling_advantages,
    sibling_loss,
    td_targets,
    upper_confidence_bound,
    vstar_loss,
)
from reclib.tokenizers import SemanticIds

DOUBLE = torch.float64
WEIGHTS = torch.tensor([0.3, 0.5, 1.0], dtype=DOUBLE)


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


# ------------------------------------------------------------------ rewards


def test_ranking_reward_by_hand():
    hit = torch.tensor([False, False, True, False])
    torch.testing.assert_close(
        ranking_reward(hit), torch.tensor([-0.390380, -0.246302, 1, -0.168128]), rtol=0, atol=1e-6
    )
    sixteen = torch.zeros(16, dtype=torch.bool)
    sixteen[5] = True
    found = -ranking_reward(sixteen)
    torch.testing.assert_close(found[:4], torch.tensor([0.163773, 0.103329, 0.081887, 0.070533]), rtol=0, atol=1e-6)
    assert float(found[15]) == pytest.approx(0.040067, abs=1e-6)
    assert not ranking_reward(torch.zeros(3, 4, dtype=torch.bool)).any()


def test_groups_of_a_batch_do_not_share_their_hits():
    hit = torch.tensor([[False, True, False], [False, False, False]])
    found = ranking_reward(hit)
    torch.testing.assert_close(found[0], ranking_reward(hit[0]))
    assert not found[1].any()


def test_dense_reward_and_returns_by_hand():
    match = torch.tensor([[True, False, True], [True, True, True]])
    cosine = tensor([[9.0, 0.6, 0.2], [9.0, 9.0, 9.0]])  # the nines must not be looked at
    reward = dense_reward(match, cosine, WEIGHTS)
    torch.testing.assert_close(reward, tensor([[0.3, -0.2, -0.8], [0.3, 0.5, 1.0]]))
    # TD(0) on a fixed path has the discounted returns as its fixed point.
    value = torch.zeros_like(reward)
    for _ in range(3):
        value = td_targets(reward, value, gamma=0.99)
    torch.testing.assert_close(value, tensor([[-0.68208, -0.992, -0.8], [1.7751, 1.49, 1.0]]))
    torch.testing.assert_close(td_targets(reward, value, gamma=0.99), value)


def test_td_targets_are_detached():
    value = torch.zeros(2, 3, requires_grad=True)
    assert not td_targets(torch.ones(2, 3), value).requires_grad


@pytest.fixture
def ids():
    codes = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 0]])  # items 4 and 5 collide
    return SemanticIds.from_codes(codes, (2, 2, 3))


def test_bucket_rewards_by_hand(ids):
    trie = SemanticIdTrie(ids)
    vectors = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, -3.0], [1.0, 0.0], [0.0, 1.0]])
    leaf = trie.leaf[torch.tensor([[1, 2, 3, 4]])]
    found = BucketReward(trie, vectors)(leaf, trie.leaf[torch.tensor([1])])  # target: item 1, which points right
    bucket_of_4 = torch.tensor([0.5, 0.5])  # of unit vectors right and up
    cosine = float(torch.cosine_similarity(bucket_of_4, torch.tensor([1.0, 0.0]), dim=0))
    expected = torch.tensor(
        [
            [0.3, 0.5, 1.0],
            [0.3, 0.5, -1.0],  # item 2 points up
            [0.3, -0.5, -1.0],  # item 3 points down
            [-0.3 * (1 - cosine), -0.5 * (1 - cosine), -1.0 * (1 - cosine)],
        ]
    )
    torch.testing.assert_close(found[0], expected)
    of_items = ItemReward(trie, vectors)(leaf, trie.leaf[torch.tensor([1])])
    torch.testing.assert_close(of_items, found)  # below each of these prefixes all items agree, or one stands alone


def test_the_codes_variant_looks_at_the_whole_item(ids):
    trie = SemanticIdTrie(ids)
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [1.0, 0.0]])
    target, leaf = trie.leaf[torch.tensor([4])], trie.leaf[torch.tensor([[2]])]

    paper, code = BucketReward(trie, vectors)(leaf, target)[0, 0], ItemReward(trie, vectors)(leaf, target)[0, 0]
    torch.testing.assert_close(paper, torch.tensor([0.0, -0.5 * (1 - 0.5**0.5), -1.0]))
    torch.testing.assert_close(code, torch.tensor([-0.3, -0.5, -1.0]))


def test_rewards_refuse_other_sizes(ids):
    trie = SemanticIdTrie(ids)
    with pytest.raises(ValueError, match="vectors: 4 rows for 5 items"):
        BucketReward(trie, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="weights: 2 for 3 levels"):
        BucketReward(trie, torch.zeros(5, 2), (0.5, 1.0))


# ------------------------------------------------------------------ priorities


def test_priorities_by_hand():
    torch.testing.assert_close(priority(tensor([0.5, -1.0]), tensor([2.0, 0.0])), tensor([0.7, -1.0]))
    found = upper_confidence_bound(tensor([0.5]), tensor([9.0]), tensor([1.0]))
    assert float(found) == pytest.approx(1.572983, abs=1e-6)


# ------------------------------------------------------------------ sibling advantages

SIX = torch.tensor([[1, 1, 1], [1, 1, 2], [1, 2, 1], [2, 1, 1], [2, 1, 3], [2, 3, 1]])


def test_the_sibling_tree_by_hand():
    rewards = tensor([1, 0, 0, 0, 0, 0])
    found = sibling_advantages(rewards, SIX)
    expected = tensor(
        [
            [0.9994, 0.9996, 0.9998],
            [0.9994, 0.9996, -0.9998],
            [0.9994, -0.9996, 0.0],
            [-0.9994, 0.0, 0.0],
            [-0.9994, 0.0, 0.0],
            [-0.9994, 0.0, 0.0],
        ]
    )
    torch.testing.assert_close(found.advantages, expected, rtol=0, atol=5e-5)
    assert torch.equal(found.branching, expected != 0)
    assert (found.advantages[~found.branching] == 0).all()  # exactly
    torch.testing.assert_close(found.share[:, 0], torch.full((6,), 1 / 3, dtype=DOUBLE))
    # Nodes: 2 + 4 + 6; of these 2, 2 and 2 have siblings that earn differently.
    assert float(found.branching_share) == pytest.approx(6 / 12)
    plain = group_advantages(rewards).advantages
    torch.testing.assert_close(plain[:2], tensor([2.040742, -0.408148]), rtol=0, atol=1e-6)


def test_three_siblings_count_once_each():
    codes = torch.tensor([[1, 1, 1], [2, 1, 1], [2, 1, 2], [3, 1, 1]])
    found = sibling_advantages(tensor([1, 0.5, 0, 0]), codes)
    level_1 = tensor([1.37249, -0.39214, -0.39214, -0.98035])
    torch.testing.assert_close(found.advantages[:, 0], level_1, rtol=0, atol=1e-5)


def test_two_siblings_get_one_whatever_the_gap_unless_there_is_a_floor():
    codes = torch.tensor([[1], [2]])
    small, large = tensor([-0.05, -0.07]), tensor([1.0, -1.0])
    torch.testing.assert_close(
        sibling_advantages(small, codes).advantages[:, 0], tensor([0.990, -0.990]), rtol=0, atol=1e-3
    )
    torch.testing.assert_close(
        sibling_advantages(large, codes).advantages[:, 0], tensor([1.0, -1.0]), rtol=0, atol=1e-3
    )
    with_floor = sibling_advantages(small, codes, floor=0.1).advantages[:, 0]
    torch.testing.assert_close(with_floor, tensor([0.1, -0.1]), rtol=0, atol=1e-3)


def naive_sibling_advantages(rewards, codes, eps=1e-4, floor=0.0):
    """The definition, with dictionaries."""
    size, levels = codes.shape
    found = torch.zeros(size, levels, dtype=DOUBLE)
    share = torch.zeros(size, levels, dtype=DOUBLE)
    paths = [tuple(row) for row in codes.tolist()]
    for level in range(levels):
        for parent in {path[:level] for path in paths}:
            children = {}
            for i, path in enumerate(paths):
                if path[:level] == parent:
                    children.setdefault(path[level], []).append(i)
            means = {v: sum(float(rewards[i]) for i in rows) / len(rows) for v, rows in children.items()}
            mu = sum(means.values()) / len(means)
            sigma = (sum((m - mu) ** 2 for m in means.values()) / len(means)) ** 0.5
            for v, rows in children.items():
                for i in rows:
                    share[i, level] = 1 / len(rows)
                    if len(children) > 1 and max(abs(m - mu) for m in means.values()) > 1e-9:
                        found[i, level] = (means[v] - mu) / (max(sigma, floor) + eps)
    return found, share


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 4), st.sampled_from([0.0, 0.1]))
def test_sibling_advantages_equal_the_plain_loop(seed, size, levels, floor):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 3, (5, size, levels), generator=generator)
    rewards = torch.randint(0, 3, (5, size), generator=generator).double() / 7
    found = sibling_advantages(rewards, codes, floor=floor)
    for row in range(5):
        expected, share = naive_sibling_advantages(rewards[row], codes[row], floor=floor)
        torch.testing.assert_close(found.advantages[row], expected)
        torch.testing.assert_close(found.share[row], share)
        alone = sibling_advantages(rewards[row], codes[row], floor=floor)  # prompts do not mix
        torch.testing.assert_close(found.advantages[row], alone.advantages)
    # Every node once: the children of one parent, and so everything, sum to zero.
    torch.testing.assert_close((found.share * found.advantages).sum((1, 2)), torch.zeros(5, dtype=DOUBLE))


def test_equal_rewards_are_exactly_nothing():
    for value in (0.1, 0.0, -1 / 3):
        found = sibling_advantages(torch.full((6,), value), SIX)
        assert not found.advantages.any()
        assert not found.branching.any()


def test_sibling_bad_input():
    with pytest.raises(ValueError, match="rewards: shape"):
        sibling_advantages(tensor([1.0]), SIX[:1])  # a group of one
    with pytest.raises(ValueError, match=r"rewards: 1 of 6 values are NaN"):
        sibling_advantages(tensor([1, 0, float("nan"), 0, 0, 0]), SIX)
    with pytest.raises(ValueError, match=r"codes: shape \(5, 3\) does not fit rewards \(6,\)"):
        sibling_advantages(torch.zeros(6), SIX[:5])
    with pytest.raises(ValueError, match="eps, floor: got -1"):
        sibling_advantages(torch.zeros(6), SIX, eps=-1.0)
    with pytest.raises(ValueError, match=r"eps, floor: got 0\.0001 and -0\.1"):
        sibling_advantages(torch.zeros(6), SIX, floor=-0.1)


# ------------------------------------------------------------------ losses


def test_the_sibling_loss_counts_every_node_once():
    rewards = tensor([1, 0, 0, 0, 0, 0])
    found = sibling_advantages(rewards, SIX)
    log_prob = torch.zeros(6, 3, dtype=DOUBLE, requires_grad=True)
    sibling_loss(log_prob, log_prob, found).backward()
    expected = -(found.share * found.advantages) / 6
    torch.testing.assert_close(log_prob.grad, expected)
    # Three candidates pass node (1); together they push it once.
    assert float(log_prob.grad[:3, 0].sum()) == pytest.approx(-0.9994 / 6, abs=1e-4)


def test_the_sibling_loss_equals_finite_differences():
    generator = torch.Generator().manual_seed(0)
    found = sibling_advantages(torch.randn(2, 6, generator=generator, dtype=DOUBLE), SIX.expand(2, 6, 3))
    old = -torch.rand(2, 6, 3, generator=generator, dtype=DOUBLE)
    log_prob = (old + 0.1 * torch.randn(2, 6, 3, generator=generator, dtype=DOUBLE)).requires_grad_()
    assert gradcheck(lambda x: sibling_loss(x, old, found).sum(), log_prob)


def test_equal_rewards_send_no_gradient():
    log_prob = torch.randn(6, 3, dtype=DOUBLE, requires_grad=True)
    sibling_loss(log_prob, log_prob, sibling_advantages(torch.full((6,), 0.3, dtype=DOUBLE), SIX)).backward()
    assert not log_prob.grad.any()


def test_sequences_of_one_length_make_three_losses_one():
    """At the first step of a batch, GRPO, DAPO's token mean and GSPO have the same gradient: all IDs have L codes."""
    generator = torch.Generator().manual_seed(0)
    log_prob = (-3 * torch.rand(16, 3, generator=generator, dtype=DOUBLE)).requires_grad_()
    advantage = group_advantages(torch.randn(16, generator=generator, dtype=DOUBLE)).advantages
    gradients = [
        torch.autograd.grad(loss(log_prob, log_prob, advantage), log_prob)[0]
        for loss in (grpo_loss, dapo_loss, gspo_loss)
    ]
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2])
    # From the second step on they differ.
    moved = (log_prob + 0.05 * torch.randn(16, 3, generator=generator, dtype=DOUBLE)).detach().requires_grad_()
    later = [
        torch.autograd.grad(loss(moved, log_prob.detach(), advantage), moved)[0]
        for loss in (grpo_loss, dapo_loss, gspo_loss)
    ]
    assert not torch.allclose(later[0], later[2])


def batch_of(seed=0, batch=3):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 3, (batch, 8, 3), generator=generator)
    scored = Scored(*(torch.randn(batch, 9, 3, generator=generator, requires_grad=True) for _ in range(2)))
    old = scored.log_prob.detach()[:, :8]
    reference = old + 0.1 * torch.randn(batch, 8, 3, generator=generator)
    rewards = torch.rand(batch, 8, generator=generator)
    return scored, old, reference, rewards, codes, torch.rand(batch, 9, 3, generator=generator)


def test_the_whole_loss_is_its_parts():
    scored, old, reference, rewards, codes, dense = batch_of()
    config = VStarConfig(gamma=0.5, value_weight=2.0, sibling_weight=3.0, beta=0.1)
    found = vstar_loss(scored, old, reference, rewards, rewards, codes, dense, config)
    advantages = group_advantages(rewards).advantages
    log_prob = scored.log_prob[:, :8]
    torch.testing.assert_close(
        found.policy, grpo_loss(log_prob, old, advantages, log_prob_ref=reference, beta=0.1).mean()
    )
    torch.testing.assert_close(
        found.sibling, 3 * sibling_loss(log_prob, old, sibling_advantages(rewards, codes)).mean()
    )
    by_hand = dense.clone()
    by_hand[..., :2] += 0.5 * scored.value.detach()[..., 1:]
    torch.testing.assert_close(found.value, 2 * (scored.value - by_hand).square().mean())
    torch.testing.assert_close(found.total, found.policy + found.sibling + found.value)
    gradient = torch.autograd.grad(found.policy + found.sibling, scored.log_prob, retain_graph=True)[0]
    assert not gradient[:, 8:].any()  # the target is not the policy's own doing
    assert torch.autograd.grad(found.value, scored.value)[0][:, 8:].any()


# ------------------------------------------------------------------ models


@pytest.fixture(params=["decoder-only", "encoder-decoder"])
def model(request):
    return make_model(request.param)


def make_model(kind, head=ValueHead):
    codes = torch.randint(0, 5, (30, 3), generator=torch.Generator().manual_seed(0))
    ids = SemanticIds.from_codes(codes, (5, 5, 6))
    torch.manual_seed(1)
    sizes = {"dim": 16, "layers": 2, "heads": 2, "max_len": 8}
    policy = (
        DecoderOnly(ids, DecoderOnlyConfig(**sizes))
        if kind == "decoder-only"
        else EncoderDecoder(ids, EncoderDecoderConfig(ffn=24, **sizes))
    )
    found = ActorCritic(policy, head(16, ids.vocabulary)).eval()
    with torch.no_grad():
        for weight in found.parameters():
            weight.mul_(4).add_(0.1 * torch.randn_like(weight))  # far from uniform
    return found, SemanticIdTrie(ids)


HISTORY = torch.tensor([[3, 7, 1, 9, 30], [4, 4, 0, 0, 0], [12, 0, 0, 0, 0]])


def test_scored_sequences_have_the_probability_with_which_they_are_drawn(model):
    actor_critic, trie = model
    drawn = sample(actor_critic.policy, trie, HISTORY, 7, generator=torch.Generator().manual_seed(0))
    scored = score_sequences(actor_critic, trie, HISTORY, drawn.leaf)
    torch.testing.assert_close(scored.log_prob.sum(-1), drawn.log_prob, rtol=1e-4, atol=1e-5)


def test_values_are_those_of_the_prefix_alone(model):
    """Causal: two sequences with a common prefix have the same value there, whatever comes later."""
    actor_critic, trie = model
    every = torch.arange(trie.nodes(3)).expand(3, -1)
    scored = score_sequences(actor_critic, trie, HISTORY, every)
    codes = trie.ids.codes[trie.items[trie.first]]
    for level in range(3):
        for i in range(len(codes)):
            same = (codes[:, : level + 1] == codes[i, : level + 1]).all(1)
            value = scored.value[:, same, level]
            torch.testing.assert_close(value, value[:, :1].expand_as(value), rtol=1e-4, atol=1e-5)
    siblings = scored.value[0, :, 0][[int((codes[:, 0] == c).nonzero()[0]) for c in torch.unique(codes[:, 0])]]
    assert len(torch.unique((siblings * 1e4).round())) == len(siblings)  # and siblings differ


def test_the_value_is_the_heads_answer_to_the_last_hidden_state():
    actor_critic, trie = make_model("decoder-only")
    leaf = torch.tensor([[0, 3], [5, 6], [1, 1]])
    scored = score_sequences(actor_critic, trie, HISTORY, leaf)
    policy = actor_critic.policy
    for row, history in enumerate(HISTORY):
        for column in range(2):
            codes = trie.ids.codes[trie.items[trie.first[leaf[row, column]]]]
            answer = codes + torch.tensor(trie.ids.offsets)
            tokens = torch.cat([trie.ids.tokens[history[history > 0]].flatten(), answer])[None]
            x = policy.tokens(tokens) + policy.positions.weight[: tokens.shape[1]]
            for block in policy.blocks:
                x, _, _ = block(x)
            values = actor_critic.value(policy.norm(x))[0, -4:-1]
            torch.testing.assert_close(
                scored.value[row, column], values.gather(1, answer[:, None])[:, 0], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("head", [ValueHead, DetachedValueHead])
def test_only_a_detached_head_leaves_the_policy_alone(head):
    actor_critic, trie = make_model("decoder-only", head)
    scored = score_sequences(actor_critic, trie, HISTORY, torch.tensor([[0, 3], [5, 6], [1, 1]]))
    td = td_targets(torch.ones_like(scored.value), scored.value)
    (scored.value - td).square().mean().backward()
    moved = any(p.grad is not None and p.grad.any() for p in actor_critic.policy.parameters())
    assert moved == (head is ValueHead)
    assert actor_critic.value.out.weight.grad.any()


def test_a_fresh_head_thinks_all_prefixes_equal():
    head = ValueHead(8, 20)
    assert not head(torch.randn(2, 3, 8)).any()
