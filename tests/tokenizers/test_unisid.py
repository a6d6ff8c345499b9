"""UniSID against the oracles of its sheet, and on a toy tree that it has to learn."""

import math

import pytest
import torch
from sklearn.metrics import homogeneity_completeness_v_measure, v_measure_score

from reclib.tokenizers import RQKMeans, RQKMeansConfig
from reclib.tokenizers.unisid import (
    CategoryEmbedding,
    CategoryEmbeddingModel,
    EmbeddingOnlyModel,
    ItemBatch,
    ItemBatches,
    ItemContent,
    PairsOnlyUniSID,
    SidOnlyModel,
    UniSID,
    UniSIDConfig,
    UniSIDModel,
    multi_granularity_loss,
    number_paths,
    pair_loss,
    positives,
)

pytestmark = pytest.mark.slow

SMALL = {"codes": 6, "dim": 16, "layers": 1, "heads": 2, "batch_size": 32, "epochs": 2, "text_len": 8, "dropout": 0.0}
THEMES = {
    "sport": {"tennis": ["racket", "balls"], "running": ["shoes", "watch"]},
    "kitchen": {"baking": ["tins", "flour"], "coffee": ["grinder", "filters"]},
}


@pytest.fixture(scope="module")
def content():
    """96 items in a tree of 2 · 2 · 2 categories; the summary tells of a colour that nothing else mentions."""
    rows = [(a, b, c) for a, middle in THEMES.items() for b, leaves in middle.items() for c in leaves]
    rows = [row for row in rows for _ in range(12)]
    generator = torch.Generator().manual_seed(0)
    colour = torch.randint(2, (len(rows),), generator=generator)
    price = torch.randint(3, (len(rows),), generator=generator)
    return ItemContent(
        text=[f"number {i % 12} {c} for {b} {a}" for i, (a, b, c) in enumerate(rows)],
        attributes=torch.stack([price, 1 + torch.arange(len(rows)) % 3], dim=1),
        path=number_paths(rows, 3),
        image=torch.randn(len(rows), 5, generator=generator),
        summary=[
            f"it is {'red' if red else 'green'} and made for {b}" for (_, b, _), red in zip(rows, colour, strict=True)
        ],
    )


@pytest.fixture
def model(content):
    torch.manual_seed(0)
    return UniSIDModel(UniSIDConfig(**SMALL), content)


# ------------------------------------------------------------------------------------------- oracle 1: loss by hand


def test_the_contrast_by_hand():
    z = torch.tensor([[[1.0, 0], [1, 0]], [[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, 1], [1, 0]]])
    path = torch.tensor([[0, 0], [0, 1], [1, 2], [1, 2]])
    first = multi_granularity_loss(z[:, :1], positives(path[:, :1]), 0.5)
    second = multi_granularity_loss(z[:, 1:], positives(path[:, 1:]), 0.5)
    assert float(first) == pytest.approx(0.239545, abs=1e-6)
    assert float(second) == pytest.approx(0.758624, abs=1e-6)  # items 1 and 2 have no positive and are skipped
    assert float(multi_granularity_loss(z, positives(path), 0.5)) == pytest.approx(0.499084, abs=1e-6)


def test_the_contrast_against_a_plain_loop():
    generator = torch.Generator().manual_seed(1)
    z, path = torch.randn(9, 2, 5, generator=generator), torch.randint(3, (9, 2), generator=generator)
    path[8] = 7  # nobody shares this category
    levels = []
    for level in range(2):
        losses = []
        for i in range(9):
            others = [a for a in range(9) if a != i]
            similar = {a: torch.cosine_similarity(z[i, level], z[a, level], dim=0) / 0.2 for a in others}
            bottom = torch.stack(list(similar.values())).logsumexp(0)
            own = [bottom - similar[a] for a in others if path[a, level] == path[i, level]]
            losses += [torch.stack(own).mean()] if own else []
        levels.append(torch.stack(losses).mean())
    expected = torch.stack(levels).mean()
    torch.testing.assert_close(multi_granularity_loss(z, positives(path), 0.2), expected)


def test_a_level_without_positives_adds_nothing():
    z = torch.randn(4, 1, 3, requires_grad=True)
    loss = multi_granularity_loss(z, positives(torch.arange(4)[:, None]), 0.1)
    assert float(loss.detach()) == 0
    loss.backward()
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_pair_loss_by_hand():
    e = torch.tensor([[1.0, 0], [0, 2]])
    assert float(pair_loss(e, e, 0.5)) == pytest.approx(float(torch.tensor([2.0, 0]).logsumexp(0)) - 2, abs=1e-6)


# ----------------------------------------------------------------------------------- oracles 2, 3: nested, invariant


def test_positives_are_nested_symmetric_and_never_the_item_itself(content):
    positive = positives(content.path)
    assert (positive[2] <= positive[1]).all()
    assert (positive[1] <= positive[0]).all()
    assert torch.equal(positive, positive.transpose(1, 2))
    assert not positive.diagonal(dim1=1, dim2=2).any()


def test_permuting_and_scaling_logits():
    z = torch.randn(12, 3, 7, generator=torch.Generator().manual_seed(2))
    positive = positives(torch.randint(3, (12, 3), generator=torch.Generator().manual_seed(3)))
    loss, codes = multi_granularity_loss(z, positive, 0.1), z.argmax(-1)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(4))
    permuted = z.clone()
    permuted[:, 1] = z[:, 1][:, order]
    torch.testing.assert_close(multi_granularity_loss(permuted, positive, 0.1), loss)
    assert torch.equal(order[permuted.argmax(-1)[:, 1]], codes[:, 1])
    scaled = z * torch.rand(12, 3, 1, generator=torch.Generator().manual_seed(5)).add(0.1)
    torch.testing.assert_close(multi_granularity_loss(scaled, positive, 0.1), loss)
    assert torch.equal(scaled.argmax(-1), codes)


def test_nearly_equal_logits_can_have_different_codes():
    z = torch.tensor([[1, 0.99], [0.99, 1]])
    assert float(torch.cosine_similarity(z[0], z[1], dim=0)) == pytest.approx(0.99995, abs=1e-5)
    assert z.argmax(-1).tolist() == [0, 1]


# ------------------------------------------------------------------------------------------- oracles 4, 5: gradients


def test_codes_are_integers_without_a_gradient(content):
    tokenizer = UniSID(UniSIDConfig(**SMALL)).fit(content, progress=False)
    codes = tokenizer.encode(content).codes
    assert codes.dtype == torch.long
    assert not codes.requires_grad


def test_the_frozen_decoder_gets_no_gradient_and_the_rest_does(model):
    item = torch.arange(20)
    _, _, hidden = model.read(item)
    prefix = model.f_recon(hidden.flatten(1)).view(20, model.config.prefix, -1)
    before = [p.clone() for p in model.summary.parameters()]
    model.summary(item, prefix).backward()
    assert all(p.grad is None and not p.requires_grad for p in model.summary.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.summary.parameters(), strict=True))
    assert model.f_recon.weight.grad.abs().sum() > 0
    assert model.reader.query.grad.abs().amin(1).gt(0).all()  # SID tokens and the embedding token
    assert model.reader.word.weight.grad.abs().sum() > 0
    assert all(head.weight.grad is None for head in model.reader.code)  # it works on states, not on logits


def test_the_summary_model_has_learnt_summaries(content):
    torch.manual_seed(0)
    trained = UniSIDModel(UniSIDConfig(**SMALL), content).summary
    item = torch.arange(96)
    with torch.no_grad():
        loss = trained(item, trained.start.expand(96, -1, -1))
    # "it is … and made for …": six certain words, one of two colours, one of four purposes.
    assert float(loss) == pytest.approx((math.log(2) + math.log(4)) / 7, abs=0.12)
    assert float(loss) < math.log(trained.word.num_embeddings) / 2


# ------------------------------------------------------------------------------------ oracles 6, 7: what sees what


def test_causal_order(model):
    model.eval()
    item = torch.arange(5)
    with torch.no_grad():
        _, _, before = model.read(item)
        for changed in range(4):
            kept = model.reader.query.clone()
            model.reader.query[changed] = torch.randn(16)  # not a shift: the norm would take it out
            _, _, after = model.read(item)
            model.reader.query.copy_(kept)
            torch.testing.assert_close(after[:, :changed], before[:, :changed], rtol=0, atol=0)
            assert not torch.allclose(after[:, 3], before[:, 3])  # the embedding token sees every SID token


def test_every_level_sees_the_item_and_no_level_sees_another_code(model):
    model.eval()
    words, attributes, image = model.words[:5], model.attributes[:5].clone(), model.image[:5]
    with torch.no_grad():
        z, _, _ = model.reader(words, attributes, image)
        attributes[:, 1] = attributes[:, 1] % 3 + 1
        other, _, _ = model.reader(words, attributes, image)
        assert (other - z).abs().amax(-1).gt(1e-6).all()  # all levels of all items
        # Another level-1 code leaves the other levels alone: the heads do not see codes.
        model.reader.code[0].weight.neg_()
        model.reader.code[0].bias.neg_()
        flipped, _, _ = model.reader(words, model.attributes[:5], image)
        assert not torch.equal(flipped[:, 0].argmax(-1), z[:, 0].argmax(-1))
        assert torch.equal(flipped[:, 1:], z[:, 1:])


def test_padding_of_short_texts_does_not_matter(model):
    model.eval()
    with torch.no_grad():
        z, e, _ = model.reader(model.words[:3], model.attributes[:3], model.image[:3])
        model.reader.word.weight[0] = 5.0  # what padding looks like
        again, e_again, _ = model.reader(model.words[:3], model.attributes[:3], model.image[:3])
    assert (model.words[:3] == 0).any()
    torch.testing.assert_close(again, z)
    torch.testing.assert_close(e_again, e)


# -------------------------------------------------------------------------------------------------- oracle 8: V-measure


@pytest.mark.parametrize(
    ("classes", "clusters", "expected"),
    [
        ((0, 0, 1, 1), (0, 0, 1, 2), (1, 0.666667, 0.8)),
        ((0, 0, 1, 2), (0, 0, 1, 1), (0.666667, 1, 0.8)),
        ((0, 0, 1, 1), (1, 1, 0, 0), (1, 1, 1)),
        ((0, 0, 1, 1), (0, 0, 0, 0), (0, 1, 0)),
        ((0, 1, 2, 3), (0, 0, 1, 1), (0.5, 1, 0.666667)),
        ((0, 0, 1, 1, 2, 2), (0, 0, 1, 1, 1, 1), (0.579380, 1, 0.733680)),
    ],
)
def test_v_measure(classes, clusters, expected):
    assert homogeneity_completeness_v_measure(classes, clusters) == pytest.approx(expected, abs=1e-6)


# -------------------------------------------------------------------------------------------- oracle 10: it learns


def test_it_learns_the_tree(content):
    config = UniSIDConfig(codes=8, dim=32, layers=1, heads=2, batch_size=48, epochs=40, text_len=8, lr=3e-3, lam=0.0)
    tokenizer = UniSID(config).fit(content, progress=False)
    codes = tokenizer.encode(content).codes[1:]
    assert v_measure_score(content.path[:, 0], codes[:, 0]) >= 0.95
    assert v_measure_score(content.path[:, 2], codes[:, 2]) >= 0.6


def test_without_categories_levels_are_alike(content):
    """Pairs only: nothing tells level 1 from level 3, so nothing makes level 1 coarse."""
    config = UniSIDConfig(codes=8, dim=32, layers=1, heads=2, batch_size=48, epochs=40, text_len=8, lr=3e-3, lam=0.0)
    codes = PairsOnlyUniSID(config).fit(content, progress=False).encode(content).codes[1:]
    assert v_measure_score(content.path[:, 0], codes[:, 0]) < 0.8


def gradients(model, batch):
    model.zero_grad()
    model.loss(batch)[0].backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0}


def test_single_tasks_train_their_own_head_only(content):
    batch = ItemBatch(torch.arange(40), torch.arange(40).roll(1))
    config = UniSIDConfig(**SMALL)
    torch.manual_seed(0)
    sid, embedding = (
        gradients(SidOnlyModel(config, content), batch),
        gradients(EmbeddingOnlyModel(config, content), batch),
    )
    assert {name for name in sid if name.startswith("reader.code")}
    assert not {name for name in sid if name.startswith("reader.embedding")}
    assert {name for name in embedding if name.startswith("reader.embedding")}
    assert not {name for name in embedding if name.startswith("reader.code")}
    assert SidOnlyModel(config, content).summary is None


def test_the_category_control_adds_the_contrast_of_its_embedding(content):
    batch = ItemBatch(torch.arange(40), torch.arange(40).roll(1))
    models = []
    for kind in (EmbeddingOnlyModel, CategoryEmbeddingModel):
        torch.manual_seed(0)
        models.append(kind(UniSIDConfig(**SMALL), content))
    plain, told = (float(model.loss(batch)[0].detach()) / 40 for model in models)
    e = models[0].read(batch.item)[1]
    by_level = [
        float(multi_granularity_loss(e[:, None], positives(content.path[batch.item][:, [level]]), 0.1).detach())
        for level in range(3)
    ]
    assert told == pytest.approx(plain + sum(by_level) / 3, rel=1e-5)


def test_the_category_control_knows_the_tree(content):
    config = UniSIDConfig(codes=8, dim=32, layers=1, heads=2, batch_size=48, epochs=40, text_len=8, lr=3e-3)
    vectors = CategoryEmbedding(config).fit(content, progress=False).embed(content)
    codes = RQKMeans(RQKMeansConfig(levels=1, codes=8)).fit(vectors).codes_of(vectors)[:, 0]
    assert v_measure_score(content.path[:, 2], codes) >= 0.9


def test_fit_repeats_with_its_seed(content):
    first, second, other = (
        UniSID(UniSIDConfig(**SMALL, seed=seed)).fit(content, progress=False).embed(content) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.allclose(first, other)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(96))


def test_batches_pair_items_that_belong_together():
    pairs = torch.tensor([[1, 2], [3, 4], [3, 5]])
    seen = set()
    for epoch in range(30):
        found = list(ItemBatches(7, pairs, 3, seed=0).epoch(epoch))
        assert len(found) == ItemBatches(7, pairs, 3, seed=0).steps(epoch)
        items = torch.cat([batch.item for batch in found])
        assert len(items) == len(items.unique()) == 6  # a rest of one item is left out
        seen |= {(int(i), int(o)) for batch in found for i, o in zip(*batch, strict=True)}
    assert seen == {(0, 1), (1, 0), (2, 3), (2, 4), (3, 2), (4, 2), (5, 5), (6, 6)}
    assert isinstance(found[0], ItemBatch)


def test_number_paths_by_hand():
    table = number_paths([["a", "x"], ["b", "x"], ["a", "y"], ["a"]], 3)
    assert table[:, 0].tolist() == [0, 1, 0, 0]
    assert len(table[:, 1].unique()) == 4  # x under a is not x under b
    assert torch.equal(table[:, 1], table[:, 2])


# -------------------------------------------------------------------------------------------------------- bad input


def test_bad_input(content):
    with pytest.raises(ValueError, match="codes: 97 per level for only 96 items"):
        UniSID(UniSIDConfig(codes=97)).fit(content)
    with pytest.raises(ValueError, match="path: has 3 levels, the config 2"):
        UniSID(UniSIDConfig(levels=2, codes=4)).fit(content)
    with pytest.raises(ValueError, match="not fitted"):
        UniSID().encode(content)
    one, zeros = torch.tensor([[1.0], [float("nan")]]), torch.zeros(2, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="summary: has 1 rows for 2 texts"):
        ItemContent(["a", "b"], zeros, zeros, summary=["c"])
    with pytest.raises(ValueError, match="image: holds NaN"):
        ItemContent(["a", "b"], zeros, zeros, one)
    with pytest.raises(ValueError, match="a category of level 2 lies under two of level 1"):
        ItemContent(["a", "b"], zeros, torch.tensor([[0, 0], [1, 0]]))
    with pytest.raises(ValueError, match="pairs: ids must lie in 1 … 2"):
        ItemContent(["a", "b"], zeros, zeros, pairs=torch.tensor([[0, 1]]))
    for wrong in ({"tau": 0.0}, {"lam": -1.0}, {"heads": 3}, {"levels": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            UniSIDConfig(**wrong)
