"""GRU4Rec: a recurrent network over the history (Hidasi et al., 2016).

The original trains on parallel sessions with ranking losses. Here it gets the same batches and the same loss as the
attention models, so that a comparison is about the network (our choice).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from reclib.backbones.sequence_model import SequenceModel
from reclib.nn.dropout import Dropout
from reclib.nn.sizes import check_at_least


@dataclass(frozen=True)
class GRU4RecConfig:
    """Sizes of GRU4Rec; the paper's values in brackets."""

    dim: int = 64  # width of items and of the state [100, one-hot input]
    layers: int = 1  # stacked GRUs [1]
    dropout: float = 0.2  # on the input embeddings and the output
    max_len: int = 200  # longest history in one pass

    def __post_init__(self) -> None:
        check_at_least(1, layers=self.layers)


class GRU4Rec(SequenceModel):
    """h_t = GRU(x_t, h_{t-1}); left-aligned histories need no mask, since a state never sees what comes later."""

    def __init__(self, n_items: int, config: GRU4RecConfig | None = None) -> None:
        config = config or GRU4RecConfig()
        super().__init__(n_items, config.dim, config.max_len)
        self.config = config
        self.dropout = Dropout(config.dropout)
        self.gru = nn.GRU(config.dim, config.dim, config.layers, batch_first=True)
        self.out = nn.Sequential(nn.Linear(config.dim, config.dim), Dropout(config.dropout), nn.LayerNorm(config.dim))

    def encode(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """State after each item. `time` is accepted and not used."""
        state, _ = self.gru(self.dropout(self.embed(history)))
        hidden: Tensor = self.out(state)
        return hidden
