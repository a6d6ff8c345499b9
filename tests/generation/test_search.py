"""Both models and the search: against plain loops over items and prefixes, by counting draws, on broken input."""

import itertools
import json

import gpt2_reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reclib.evaluation import evaluate
from reclib.generation import (
    DecoderOnly,
    DecoderOnlyConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    GenerativeRecommender,
    SemanticIdTrie,
    beam_search,
    next_code_loss,
    sample,
)
from reclib.generation.recommender import UNREACHED
from reclib.tokenizers import SemanticIds
from reclib.training import FitConfig, SequenceBatches, fit
from tests.logs import make_log

pytestmark = pytest.mark.slow

N_ITEMS = 30


@pytest.fixture(scope="module")
def ids():
    codes = torch.randint(0, 5, (N_ITEMS, 3), generator=torch.Generator().manual_seed(0))
    found = SemanticIds.from_codes(codes, (5, 5, 6))
    assert found.collision_rate > 0  # colliding items have to be right too
    return found


def model_of(kind, ids, seed=1, **sizes):
    torch.manual_seed(seed)
    sizes = {"dim": 16, "layers": 2, "heads": 2, "max_len": 8, **sizes}
    model = (
        DecoderOnly(ids, DecoderOnlyConfig(**sizes))
        if kind == "decoder-only"
        else EncoderDecoder(ids, EncoderDecoderConfig(ffn=24, **sizes))
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6).add_(0.1 * torch.randn_like(weight))  # far from uniform, or no order is worth testing
    return model.eval()


KINDS = ["decoder-only", "encoder-decoder"]


@pytest.fixture(params=KINDS)
def model(request, ids):
    return model_of(request.param, ids)


HISTORY = torch.tensor([[3, 7, 1, 9, 30], [4, 4, 0, 0, 0], [12, 0, 0, 0, 0], [5, 6, 7, 0, 0]])


def log_probs_by_hand(model, ids, history, codes):
    """log p of every prefix of one sequence, from full forward passes without any memory."""
    tokens = ids.tokens[history][None]
    answer = torch.tensor([[ids.offsets[level] + code for level, code in enumerate(codes)]])
    if isinstance(model, DecoderOnly):
        sequence = torch.cat([tokens.flatten(1), answer], dim=1)
        logits = model(sequence[:, :-1])[0, -len(codes) :]
    else:
        padded = F.pad(answer, (0, ids.levels - len(codes)), value=1)
        logits = model(history[None], padded)[0, : len(codes)]
    return logits.log_softmax(-1).gather(1, answer[0][:, None])[:, 0].cumsum(0)


@torch.no_grad()
def brute_force(model, ids, history):
    """Items by log-probability, one item at a time."""
    return torch.stack(
        [log_probs_by_hand(model, ids, history, ids.codes[i].tolist())[-1] for i in range(1, N_ITEMS + 1)]
    )


def test_a_beam_as_wide_as_the_catalogue_is_exact(model, ids):
    recommender = GenerativeRecommender(model, ids, width=N_ITEMS)
    scores = recommender.score(HISTORY)
    assert torch.isneginf(scores[:, 0]).all()
    for row, history in zip(scores, HISTORY, strict=True):
        expected = brute_force(model, ids, history[history > 0])
        torch.testing.assert_close(row[1:], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def naive_beam_search(model, ids, history, width):
    """Prefixes in a Python list, one after the other."""
    valid = {tuple(row[:n]) for row in ids.codes[1:].tolist() for n in range(1, 4)}
    beams = [((), 0.0)]
    for level in range(3):
        longer = [(*prefix, code) for prefix, _ in beams for code in range(ids.sizes[level])]
        scored = [(p, float(log_probs_by_hand(model, ids, history, p)[-1])) for p in longer if p in valid]
        beams = sorted(scored, key=lambda pair: -pair[1])[:width]
    return beams


@pytest.mark.parametrize("width", [1, 3, 7])
def test_a_narrow_beam_prunes_as_the_plain_loop_does(model, ids, width):
    trie = SemanticIdTrie(ids)
    found = beam_search(model, trie, HISTORY, width)
    for row, history in enumerate(HISTORY):
        expected = naive_beam_search(model, ids, history[history > 0], width)
        assert [trie.prefix(3, int(leaf)) for leaf in found.leaf[row]] == [prefix for prefix, _ in expected]
        torch.testing.assert_close(found.log_prob[row], torch.tensor([s for _, s in expected]), rtol=1e-4, atol=1e-4)


def test_padding_does_not_matter(model, ids):
    alone = beam_search(model, SemanticIdTrie(ids), torch.tensor([[4, 4]]), 4)
    together = beam_search(model, SemanticIdTrie(ids), HISTORY, 4)
    assert torch.equal(alone.leaf[0], together.leaf[1])
    torch.testing.assert_close(alone.log_prob[0], together.log_prob[1])


def test_a_beam_without_a_way_on_is_marked(ids):
    """Four sequences under one first code, one under another: a wide beam has fewer sequences than places."""
    small = SemanticIds.from_codes(torch.tensor([[0, 0], [0, 1], [1, 2]]), (2, 3))
    model = model_of("decoder-only", small)
    found = beam_search(model, SemanticIdTrie(small), torch.tensor([[1, 2]]), 50)
    assert found.leaf.shape[1] == 3
    assert sorted(found.leaf[0].tolist()) == [0, 1, 2]
    narrow = beam_search(model, SemanticIdTrie(small), torch.tensor([[1, 2]]), 1)
    assert torch.isfinite(narrow.log_prob).all()


def test_items_outside_the_beam_rank_behind_all_others(model, ids):
    narrow, wide = (GenerativeRecommender(model, ids, width=w).score(HISTORY)[:, 1:] for w in (4, N_ITEMS))
    reached = narrow > UNREACHED
    assert (reached.sum(1) >= 4).all()
    assert (reached.sum(1) < N_ITEMS).all()
    torch.testing.assert_close(narrow[reached], wide[reached], rtol=1e-4, atol=1e-4)


def test_recommend_is_the_ranking_of_score(model, ids):
    recommender = GenerativeRecommender(model, ids, width=N_ITEMS)
    items = recommender.recommend(HISTORY, 6)
    score = recommender.score(HISTORY)
    torch.testing.assert_close(score.gather(1, items), score.topk(6, dim=1).values)
    without = recommender.recommend(HISTORY, 6, exclude=HISTORY)
    masked = score.scatter(1, HISTORY, -torch.inf)
    torch.testing.assert_close(masked.gather(1, without), masked.topk(6, dim=1).values)


def test_excluded_items_take_no_place_in_the_beam(model, ids):
    """With a beam as wide as what is left, the search is exact over what is left; a narrow one holds nothing else."""
    trie = SemanticIdTrie(ids)
    exclude = torch.cat([HISTORY, torch.tensor([[2, 8], [0, 0], [5, 5], [1, 30]])], dim=1)
    free = torch.ones(len(HISTORY), N_ITEMS + 1, dtype=torch.bool).scatter(1, exclude, False)
    recommender = GenerativeRecommender(model, ids, width=N_ITEMS)
    exact = recommender.score(HISTORY).masked_fill(~free, -torch.inf)
    wide = recommender.recommend(HISTORY, 12, exclude=exclude)
    torch.testing.assert_close(exact.gather(1, wide), exact.topk(12, dim=1).values)
    narrow = beam_search(model, trie, HISTORY, 3, exclude=exclude)
    for row in range(len(HISTORY)):
        for leaf in narrow.leaf[row].tolist():
            assert free[row, 1:][trie.leaf[1:] == leaf].any()


def test_score_spares_the_history_if_asked(model, ids):
    histories = torch.arange(1, 25)[None]  # nearly all items: a beam of 4 would be lost on them
    scores = [
        GenerativeRecommender(model_of(kind_of(model), ids, max_len=24), ids, 4, skip_history=skip).score(histories)
        for skip in (False, True)
    ]
    left = [int((score[0, 25:] > UNREACHED).sum()) for score in scores]
    assert left[1] >= 4 > left[0]


def kind_of(model):
    return "decoder-only" if isinstance(model, DecoderOnly) else "encoder-decoder"


def test_weights_logits_and_lists_are_those_of_hugging_faces_gpt2():
    answers = json.loads(gpt2_reference.PATH.read_text())
    codes, weights, history = gpt2_reference.problem()
    ids = SemanticIds.from_codes(codes, (gpt2_reference.CODES,) * gpt2_reference.LEVELS)
    assert torch.equal(ids.tokens, gpt2_reference.tokens_of(codes))
    config = DecoderOnlyConfig(gpt2_reference.DIM, gpt2_reference.LAYERS, gpt2_reference.HEADS, max_len=5)
    model = DecoderOnly(ids, config).eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        logits = model(ids.tokens[history].flatten(1))
    torch.testing.assert_close(logits, torch.tensor(answers["logits"]), rtol=1e-4, atol=1e-4)
    found = beam_search(model, SemanticIdTrie(ids), history, gpt2_reference.BEAM)
    torch.testing.assert_close(found.log_prob, torch.tensor(answers["log_probs"]), rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------------------- sampling


def test_draws_follow_the_constrained_distribution(model, ids):
    trie, history, n, temperature = SemanticIdTrie(ids), torch.tensor([[3, 7, 1]]), 20_000, 1.5
    drawn = sample(model, trie, history, n, temperature=temperature, generator=torch.Generator().manual_seed(0))
    frequency = torch.bincount(drawn.leaf[0], minlength=trie.nodes(3)) / n

    # The same distribution by enumeration: at every prefix a softmax over the codes that go on.
    prefixes = {tuple(row[:k]) for row in ids.codes[1:].tolist() for k in range(1, 4)}
    exact = torch.zeros(trie.nodes(3))
    with torch.no_grad():
        for leaf in range(trie.nodes(3)):
            codes, log_p = trie.prefix(3, leaf), 0.0
            for level in range(3):
                options = [(*codes[:level], c) for c in range(ids.sizes[level]) if (*codes[:level], c) in prefixes]
                steps = [log_probs_by_hand(model, ids, history[0], p) for p in options]
                last = torch.stack([s[-1] - (s[-2] if level else 0.0) for s in steps]) / temperature
                log_p += float(last.log_softmax(0)[options.index(codes[: level + 1])])
            exact[leaf] = log_p
            of_leaf = drawn.log_prob[0][drawn.leaf[0] == leaf]
            torch.testing.assert_close(of_leaf, torch.full_like(of_leaf, log_p), rtol=1e-4, atol=1e-4)
    assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-4)
    spread = (exact.exp() * (1 - exact.exp()) / n).sqrt()
    assert ((frequency - exact.exp()).abs() < 5 * spread + 1e-4).all()


def test_draws_repeat_with_their_generator(model, ids):
    first, second, other = (
        sample(model, SemanticIdTrie(ids), HISTORY, 8, generator=torch.Generator().manual_seed(s)).leaf
        for s in (3, 3, 4)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


# ----------------------------------------------------------------------------------------------------- learning


def test_the_loss_is_the_likelihood_of_the_next_items(ids):
    log = make_log([[1, 2, 3, 4], [5, 6], [7, 8, 9]], N_ITEMS)
    (batch,) = SequenceBatches(log, max_len=8, batch_size=3).epoch(0)
    model = model_of("decoder-only", ids)
    total, count = model.loss(batch)
    events = [(h[:n], h[n]) for h in ([1, 2, 3, 4], [5, 6], [7, 8, 9]) for n in range(1, len(h))]
    expected = sum(log_probs_by_hand(model, ids, torch.tensor(h), ids.codes[item].tolist())[-1] for h, item in events)
    assert count == 3 * len(events)
    torch.testing.assert_close(total, -expected, rtol=1e-4, atol=1e-3)


def test_the_encoder_decoders_loss_is_that_of_one_target_per_history(ids):
    log = make_log([[1, 2, 3, 4], [5, 6], [7, 8, 9]], N_ITEMS)
    (batch,) = SequenceBatches(log, max_len=8, batch_size=3).epoch(0)
    model = model_of("encoder-decoder", ids)
    histories = [row[row > 0].tolist() for row in torch.cat([batch.history[:, :1], batch.target], dim=1)]

    def likelihood(history, n):
        codes = ids.codes[history[n]].tolist()
        return float(log_probs_by_hand(model, ids, torch.tensor(history[:n]), codes)[-1].detach())

    choices = itertools.product(*[range(1, len(h)) for h in histories])
    possible = [-sum(likelihood(h, n) for h, n in zip(histories, cut, strict=True)) for cut in choices]
    seen = set()
    torch.manual_seed(0)
    for _ in range(40):
        total, count = model.loss(batch)
        assert count == 9
        nearest = min(range(len(possible)), key=lambda i: abs(possible[i] - float(total.detach())))
        assert float(total.detach()) == pytest.approx(possible[nearest], rel=1e-4)
        seen.add(nearest)
    assert seen == set(range(len(possible)))  # every place of every history is a target sooner or later


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_a_chain(kind, ids):
    """Item 1 is followed by 2, 2 by 3, …: after training the first recommendation is right."""
    unique = ids.deduplicated()
    lengths = (4, 5, 6, 9) * 3
    histories = [[(start + step) % N_ITEMS + 1 for step in range(n)] for start in range(N_ITEMS) for n in lengths]
    log = make_log(histories, N_ITEMS)
    split = log.leave_one_out()
    torch.manual_seed(0)
    sizes = {"dim": 32, "layers": 1, "heads": 2, "max_len": 8, "dropout": 0.0}
    model = (
        DecoderOnly(unique, DecoderOnlyConfig(**sizes))
        if kind == "decoder-only"
        else EncoderDecoder(unique, EncoderDecoderConfig(ffn=64, **sizes))
    )
    batches = SequenceBatches(split.train, max_len=8, batch_size=16)
    recommender = GenerativeRecommender(model, unique, width=5)
    fit(recommender, batches, next_code_loss, FitConfig(epochs=15, lr=5e-3), progress=False)
    shorter = split.test.subset(np.flatnonzero(split.test.lengths < 7))  # training shows no position beyond
    metrics = evaluate(recommender, shorter, (1,)).metrics()
    assert metrics["recall@1"] > 0.9


# -------------------------------------------------------------------------------------------------- bad input


def test_bad_input(model, ids):
    trie = SemanticIdTrie(ids)
    long = torch.ones(1, 9, dtype=torch.long)
    with pytest.raises(ValueError, match="history: 9 items, but max_len is 8"):
        beam_search(model, trie, long, 3)
    assert GenerativeRecommender(model, ids).score(long).shape == (1, N_ITEMS + 1)  # cuts to the most recent
    with pytest.raises(ValueError, match="width: must be at least 1"):
        beam_search(model, trie, HISTORY, 0)
    with pytest.raises(ValueError, match="width"):
        GenerativeRecommender(model, ids, width=0)
    with pytest.raises(ValueError, match="n: must be"):
        sample(model, trie, HISTORY, 0)
    with pytest.raises(ValueError, match="temperature: must be positive"):
        sample(model, trie, HISTORY, 2, temperature=0.0)
    with pytest.raises(ValueError, match="other semantic IDs"):
        GenerativeRecommender(model, ids.deduplicated())


@pytest.mark.parametrize("config", [DecoderOnlyConfig, EncoderDecoderConfig])
def test_bad_sizes(config):
    with pytest.raises(ValueError, match="heads: 3 must divide dim = 64"):
        config(heads=3)
    with pytest.raises(ValueError, match="layers"):
        config(layers=0)
