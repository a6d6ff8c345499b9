"""RQ-VAE: loss and gradients by hand, dead codes, no collapse, vector-quantize-pytorch, bad input."""

import json

import pytest
import quantizer_reference
import torch
from quantizer_reference import SEEDS, relative_error, rqvae_config, vectors
from torch import tensor

from reclib.tokenizers import RQVAE, RQVAEConfig
from reclib.tokenizers.rqvae import ResidualQuantizer, RQVAENetwork, VectorBatches, rqvae_loss
from reclib.training import FitConfig, fit
from reclib.training.loop import Batches

pytestmark = pytest.mark.slow

RECORDED = json.loads(quantizer_reference.PATH.read_text())
BOOKS = tensor([[[0.0], [10.0]], [[-1.0], [2.0]]])
TINY = RQVAEConfig(levels=2, codes=4, latent=3, hidden=(8,), epochs=3, batch_size=16)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantizer(books=BOOKS, revive_after=1000):
    return ResidualQuantizer(books, revive_after)


def latents(*values):
    return tensor([[float(value)] for value in values], requires_grad=True)


# ------------------------------------------------------------------------------------------------ loss and gradients


def test_quantiser_by_hand():
    """12 = 10 + 2. 4 takes 0 and 2, and misses by 4 and by 2."""
    quantised, codebook_loss, commitment_loss = quantizer()(latents(12, 4))
    assert quantised.tolist() == [[12.0], [2.0]]
    assert codebook_loss.item() == commitment_loss.item() == (2**2 + 0) + (4**2 + 2**2)


def test_codebook_loss_moves_codewords_only():
    z, q = latents(12, 4), quantizer()
    _, codebook_loss, _ = q(z)
    codebook_loss.backward()
    assert z.grad is None
    # -2 (r - c), summed over the items of a code
    assert q.codebooks.grad.tolist() == [[[-8.0], [-4.0]], [[0.0], [-4.0]]]


def test_commitment_moves_the_encoding_only():
    z, q = latents(12, 4), quantizer()
    _, _, commitment_loss = q(z)
    commitment_loss.backward()
    assert q.codebooks.grad is None
    assert z.grad.tolist() == [[2 * 2.0], [2 * 4.0 + 2 * 2.0]]  # Σ_l 2 (r^l - c^l)


def test_reconstruction_passes_straight_through():
    """d/dz ẑ³ is 3 ẑ², as if ẑ were z, and the codewords get nothing."""
    z, q = latents(12, 4), quantizer()
    quantised, _, _ = q(z)
    quantised.pow(3).sum().backward()
    assert z.grad.tolist() == [[3 * 12.0**2], [3 * 2.0**2]]
    assert q.codebooks.grad is None


def test_loss_and_its_gradients_against_the_formulas():
    items = random(40, 5)
    network = RQVAENetwork(items, TINY, revive_after=9).double().eval()
    x = (items.double() - network.mean) / network.scale
    z = network.encoder(x).detach()

    # Codes, losses and ∂/∂z of the commitment, item by item in plain loops.
    expected = 0.0
    reached, grad_z, grad_books = (
        torch.zeros_like(z),
        torch.zeros_like(z),
        torch.zeros_like(network.quantizer.codebooks),
    )
    for i, residual in enumerate(z):
        for level, book in enumerate(network.quantizer.codebooks.detach()):
            k = int((residual - book).square().sum(1).argmin())
            miss = residual - book[k]
            expected += (1 + 0.25) * float(miss.square().sum())
            grad_z[i] += 0.25 * 2 * miss
            grad_books[level, k] -= 2 * miss
            reached[i] += book[k]
            residual = miss
    reached.requires_grad_()
    reconstruction = (x - network.decoder(reached)).square().sum()
    (grad_reached,) = torch.autograd.grad(reconstruction, reached)
    weights = list(network.encoder.parameters())
    grad_weights = torch.autograd.grad(network.encoder(x), weights, grad_outputs=grad_z + grad_reached)

    loss, count = rqvae_loss(network, items.double())
    loss.backward()
    assert count == 40
    assert loss.item() == pytest.approx(expected + reconstruction.item())
    torch.testing.assert_close(network.quantizer.codebooks.grad, grad_books)
    torch.testing.assert_close([weight.grad for weight in weights], list(grad_weights))


# --------------------------------------------------------------------------------------------------------- dead codes


def test_a_dead_code_begins_anew_where_items_are():
    """Nobody is near 1000. After three batches the code is put on an item, and then used."""
    books = tensor([[[0.0], [1000.0]], [[-1.0], [1.0]]])
    q = quantizer(books, revive_after=3)
    z = tensor([[0.5], [-1.5], [2.0]])
    for _ in range(3):
        q(z)
        assert q.codebooks[0, 1].item() == 1000
    q(z)
    assert q.codebooks[0, 1].item() in z.flatten().tolist()
    assert q.idle[0].tolist() == [0, 0]
    assert torch.equal(q.codebooks[1], books[1])  # both were in use
    assert q.codebooks[0, 0].item() == 0


def test_a_dead_code_of_the_second_level_becomes_a_residual():
    books = tensor([[[0.0], [10.0]], [[0.5], [1000.0]]])
    q = quantizer(books, revive_after=1)
    z = tensor([[12.0], [3.0]])
    q(z)
    q(z)
    assert q.codebooks[1, 1].item() in (2.0, 3.0)
    assert torch.equal(q.codebooks[0], books[0])


def test_codes_do_not_die_in_evaluation():
    q = quantizer(tensor([[[0.0], [1000.0]]]), revive_after=1).eval()
    for _ in range(3):
        q(tensor([[0.5]]))
    assert q.codebooks.flatten().tolist() == [0.0, 1000.0]
    assert q.idle.tolist() == [[0, 0]]


def test_more_dead_codes_than_items_in_a_batch():
    q = quantizer(tensor([[[0.0], [1e3], [2e3], [3e3]]]), revive_after=1)
    for _ in range(2):
        q(tensor([[0.5], [1.0]]))
    assert sorted(q.codebooks.flatten().tolist()) == [0.0, 0.5, 1.0, 3e3]


def test_training_recovers_from_a_collapse():
    """All codewords but one of each level far away: without revival they would stay there for ever."""
    items = vectors(items=400)
    config = RQVAEConfig(codes=16, latent=8, hidden=(32,), epochs=8, batch_size=64)
    batches = VectorBatches(items, batch_size=64)
    usage = {}
    for revive_after in (batches.steps(0), 10**9):
        torch.manual_seed(0)
        network = RQVAENetwork(items, config, revive_after)
        with torch.no_grad():
            network.quantizer.codebooks[:, 1:] += 1e4
        fit(network, batches, rqvae_loss, FitConfig(epochs=8, lr=3e-3), progress=False)
        model = RQVAE(config)
        model._network = network
        ids = model.encode(items)
        usage[revive_after] = [ids.usage(level) for level in range(3)]
    revived, left = usage.values()
    assert left == [1 / 16] * 3
    assert min(revived) > 0.8


# ---------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained():
    items = vectors()
    return items, [RQVAE(rqvae_config(seed)).fit(items, progress=False) for seed in SEEDS[:2]]


def test_does_not_collapse(trained):
    items, models = trained
    for model in models:
        ids = model.encode(items)
        assert (ids.sizes, ids.name) == ((64, 64, 64), "rq-vae")
        assert min(ids.usage(level) for level in range(3)) >= 0.95
        assert min(ids.perplexity(level) for level in range(3)) > 32


def test_not_worse_than_vector_quantize_pytorch(trained):
    items, models = trained
    errors = [relative_error(items, model.decode(model.codes_of(items))) for model in models]
    for peer in ("residual_vq_rotation", "residual_vq_straight_through"):
        assert sum(errors) / len(errors) < 1.02 * sum(RECORDED[peer]) / len(RECORDED[peer])


def test_finer_codes_say_more(trained):
    items, models = trained
    for model in models:
        codes = model.codes_of(items)
        errors = [relative_error(items, model.decode(codes[:, :level])) for level in (1, 2, 3)]
        assert errors == sorted(errors, reverse=True)


def test_an_item_is_encoded_on_its_own(trained):
    items, (model, _) = trained
    assert torch.equal(model.codes_of(items[7:9]), model.codes_of(items)[7:9])


def test_the_loss_falls(trained):
    _, models = trained
    for model in models:
        assert model.training.log[-1]["loss"] < 0.5 * model.training.log[0]["loss"]


def test_the_seed_decides_and_global_randomness_is_left_alone():
    items = vectors(items=100)
    before = torch.get_rng_state()
    configs = [RQVAEConfig(codes=8, latent=4, hidden=(8,), epochs=2, batch_size=32, seed=seed) for seed in (1, 1, 2)]
    fits = []
    for i, config in enumerate(configs):
        torch.manual_seed(i)
        fits.append(RQVAE(config).fit(items, progress=False))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    RQVAE(configs[0]).fit(items, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(before)
    assert torch.equal(fits[0].codebooks, fits[1].codebooks)
    assert torch.equal(fits[0].codes_of(items), fits[1].codes_of(items))
    assert not torch.equal(fits[0].codebooks, fits[2].codebooks)


def test_units_do_not_matter():
    """Vectors 64 times as large get the same codes, and a reconstruction 64 times as large."""
    items = random(60, 5)
    small, large = (RQVAE(TINY).fit(scale * items, progress=False) for scale in (1, 64))
    codes = small.codes_of(items)
    assert torch.equal(large.codes_of(64 * items), codes)
    torch.testing.assert_close(large.decode(codes), 64 * small.decode(codes))


def test_batches_replay_an_epoch_and_show_every_vector_once():
    batches = VectorBatches(torch.arange(10.0)[:, None], batch_size=4, seed=5)
    assert isinstance(batches, Batches)
    first, again, second = (torch.cat(list(batches.epoch(epoch))).flatten() for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert [len(batch) for batch in batches.epoch(0)] == [4, 4, 2]
    assert batches.steps(0) == 3
    shares = [torch.cat(list(batches.epoch(0, rank, 2))) for rank in (0, 1)]
    assert sorted(torch.cat(shares).flatten().tolist()) == list(range(10))


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (torch.full((9, 2), torch.nan), "items: row 0 holds NaN or infinity"),
        (random(3, 2), "items: 3 vectors cannot fill 4 codes"),
        (torch.ones(9, 2), "items: 9 vectors, but only 1 different ones"),
        (random(3, 2).repeat(4, 1), "items: 12 vectors, but only 3 different ones"),
    ],
)
def test_bad_items(items, message):
    with pytest.raises(ValueError, match=message):
        RQVAE(TINY).fit(items, progress=False)


def test_bad_requests():
    model = RQVAE(TINY)
    for request in (model.codes_of, model.encode):
        with pytest.raises(ValueError, match=r"network: there is none yet; call fit\(items\) first"):
            request(random(4, 5))
    with pytest.raises(ValueError, match="network: there is none yet"):
        model.decode(tensor([[0, 0]]))
    model.fit(random(30, 5), progress=False)
    with pytest.raises(ValueError, match="items: vectors of width 3, but fit saw 5"):
        model.encode(random(4, 3))
    with pytest.raises(ValueError, match="items: row 2 holds NaN"):
        model.encode(torch.cat([random(2, 5), torch.full((1, 5), torch.nan)]))
    with pytest.raises(ValueError, match="codes: must be 0 … 3"):
        model.decode(tensor([[0, 4]]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"levels": 0}, "levels: must be at least 1"),
        ({"codes": 1}, "codes: must be at least 2"),
        ({"latent": 0}, "latent: must be at least 1"),
        ({"batch_size": 0}, "batch_size: must be at least 1"),
        ({"hidden": (8, 0)}, "hidden: must be at least 1"),
        ({"commitment": -0.1}, "commitment: must not be negative"),
    ],
)
def test_bad_configuration(values, message):
    with pytest.raises(ValueError, match=message):
        RQVAEConfig(**values)


@pytest.mark.parametrize("name", ["epochs", "lr"])
def test_bad_training(name):
    with pytest.raises(ValueError, match=f"{name}: must be"):
        RQVAE(RQVAEConfig(codes=4, **{name: 0})).fit(random(30, 5), progress=False)
