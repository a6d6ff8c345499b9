"""What other people's residual quantisers reach on fixed vectors.

faiss and vector-quantize-pytorch are not requirements of the tests. Their answers are kept in
`quantizer_reference.json`.
To write the file anew, about a minute:

    pip install faiss-cpu vector-quantize-pytorch && python tests/tokenizers/quantizer_reference.py

Errors are relative: mean squared error of the reconstruction / mean squared distance from the mean vector.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from reclib.tokenizers import RQVAEConfig
from reclib.tokenizers.rqvae import RQVAENetwork, VectorBatches, rqvae_loss
from reclib.training import FitConfig, fit

PATH = Path(__file__).with_name("quantizer_reference.json")
LEVELS, CODES = 3, 64
SEEDS = (0, 1, 2, 3)


def vectors(items=1500, dim=32, seed=20240511):
    """A mixture of mixtures: 20 groups of 20 groups, and noise."""
    rng = np.random.default_rng(seed)
    coarse, fine = rng.standard_normal((20, dim)), 0.6 * rng.standard_normal((20, 20, dim))
    i, j = rng.integers(20, size=(2, items))
    return torch.from_numpy(coarse[i] + fine[i, j] + 0.3 * rng.standard_normal((items, dim))).float()


def relative_error(items, reconstruction):
    return float((items - reconstruction).square().sum() / (items - items.mean(0)).square().sum())


def rqvae_config(seed):
    return RQVAEConfig(levels=LEVELS, codes=CODES, latent=16, hidden=(64,), epochs=40, batch_size=128, seed=seed)


def faiss_error(items, beam):
    import faiss

    faiss.omp_set_num_threads(1)
    quantizer = faiss.ResidualQuantizer(items.shape[1], LEVELS, int(np.log2(CODES)))
    quantizer.max_beam_size = beam
    quantizer.train(items.numpy())
    return relative_error(items, torch.from_numpy(quantizer.decode(quantizer.compute_codes(items.numpy()))))


class PeerQuantizer(torch.nn.Module):
    """`ResidualVQ` in the place of our quantiser: k-means start, moving averages, dead codes replaced."""

    def __init__(self, config, rotation_trick):
        from vector_quantize_pytorch import ResidualVQ

        super().__init__()
        self.quantizer = ResidualVQ(
            dim=config.latent,
            num_quantizers=config.levels,
            codebook_size=config.codes,
            kmeans_init=True,
            threshold_ema_dead_code=2,
            rotation_trick=rotation_trick,
        )

    def forward(self, latent):
        quantised, _, commitment = self.quantizer(latent)
        return quantised, latent.new_zeros(()), commitment.sum() * latent.numel()  # theirs is a mean, ours a sum


def peer_error(items, config, rotation_trick):
    """The same encoder and decoder from the same first weights, the same batches and steps, the other quantiser."""
    batches = VectorBatches(items, batch_size=config.batch_size, seed=config.seed)
    torch.manual_seed(config.seed)
    network = RQVAENetwork(items, config, revive_after=batches.steps(0))
    network.quantizer = PeerQuantizer(config, rotation_trick)
    fit(network, batches, rqvae_loss, FitConfig(epochs=config.epochs, lr=config.lr, seed=config.seed), progress=False)
    with torch.no_grad():
        quantised, _, _ = network.quantizer.quantizer(network.latent(items))
        return relative_error(items, network.reconstruction(quantised))


if __name__ == "__main__":
    from importlib.metadata import version

    torch.set_num_threads(1)
    data = vectors()
    peers = {
        str(trick): [peer_error(data, rqvae_config(seed), rotation_trick=trick) for seed in SEEDS]
        for trick in (True, False)
    }
    answers = {
        "faiss": version("faiss-cpu"),
        "vector-quantize-pytorch": version("vector-quantize-pytorch"),
        "faiss_greedy": faiss_error(data, beam=1),
        "faiss_beam_5": faiss_error(data, beam=5),
        "rqvae_config": asdict(rqvae_config(0)),
        "residual_vq_rotation": peers["True"],
        "residual_vq_straight_through": peers["False"],
    }
    PATH.write_text(json.dumps(answers, indent=1) + "\n")
