"""UniSID: semantic IDs and an embedding from one model, trained end to end (Jiang et al., 2026, arXiv 2602.10445).

The usual way is in two stages: learn an embedding, freeze it, quantise it level by level. UniSID lets one causal
transformer read an item's text, attributes and image, and after them L learnable SID tokens and one embedding token:

    z^1 … z^L = linear heads on the SID tokens' states,      s^l = argmax_k z^l_k      (the code; no gradient)
    e         = linear head on the embedding token's state

There is no codebook and no residual: each level sees the whole item. What shapes the codes are three losses,

    L = L_sid + L_emb + λ L_rec.

L_sid pulls logits of items together that share their category up to depth l, L_emb embeddings of items that belong
together, L_rec asks a frozen language model to write a summary of the item from what the tokens know.

The paper's model is Qwen2.5-VL-3B, ours has two small blocks. Its temperature and the source of its embedding pairs
are not known to us; both are our choice, and so are a vocabulary of words in the place of a tokenizer, and the
summary's language model, which is small and trained here, on the summaries alone, before it is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor, nn

from reclib.nn.sizes import check_at_least, check_heads
from reclib.tokenizers.semantic_ids import SemanticIds
from reclib.training import FitConfig, fit


@dataclass(frozen=True)
class UniSIDConfig:
    """Sizes and training; the paper's values in brackets."""

    levels: int = 3  # L, codes per item [3]
    codes: int = 64  # K, codes per level [2048]
    dim: int = 64  # width of the transformer [2048, Qwen2.5-VL-3B]
    layers: int = 2  # blocks [36]
    heads: int = 4  # attention heads [16]
    dropout: float = 0.1  # [not given]
    tau: float = 0.1  # temperature of both contrastive losses [not given]
    lam: float = 0.1  # λ, weight of the reconstruction [0.1]
    prefix: int = 4  # vectors by which the frozen language model is told about the item [not given]
    words: int = 2000  # words of the vocabulary, the most frequent ones
    text_len: int = 24  # words read of each item
    batch_size: int = 256  # items [512]
    epochs: int = 30  # [not given]
    lr: float = 1e-3  # [4e-5]
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, levels=self.levels, codes=self.codes, layers=self.layers, prefix=self.prefix)
        check_at_least(1, words=self.words, text_len=self.text_len, epochs=self.epochs)
        check_heads(self.dim, self.heads)
        if not self.tau > 0:
            raise ValueError(f"tau: must be positive, got {self.tau}")
        if self.lam < 0:
            raise ValueError(f"lam: must not be negative, got {self.lam}")


# ------------------------------------------------------------------------------------------------------------ items


@dataclass(frozen=True, eq=False)
class ItemContent:
    """What UniSID reads, and what it is trained with. Row i is item i + 1.

    Attributes
    ----------
    text: title and description.
    attributes: `[items, fields]` number of each field's value, 0 for missing.
    path: `[items, levels]` category at each granularity, coarse to fine, as a number of the whole path up to there: two
        items with the same number at level l share it at all levels before.
    image: `[items, features]` or None.
    pairs: `[pairs, 2]` items (ids from 1) that belong together, such as neighbours in histories; None: every item is
        paired with itself, read with other dropout.
    summary: a sentence per item that the language model has to write; None: no reconstruction.
    """

    text: Sequence[str]
    attributes: Int[Tensor, "items fields"]
    path: Int[Tensor, "items levels"]
    image: Float[Tensor, "items features"] | None = None
    pairs: Int[Tensor, "pairs 2"] | None = None
    summary: Sequence[str] | None = None

    def __post_init__(self) -> None:
        n = len(self.text)
        if n < 2:
            raise ValueError(f"text: {n} items; a contrast needs at least two")
        given = {"attributes": self.attributes, "path": self.path, "image": self.image, "summary": self.summary}
        for name, rows in given.items():
            if rows is not None and len(rows) != n:
                raise ValueError(f"{name}: has {len(rows)} rows for {n} texts; give one per item")
        if self.image is not None and not torch.isfinite(self.image).all():
            raise ValueError("image: holds NaN or infinite values; mend or drop those items")
        for level in range(1, self.path.shape[1]):
            parents = torch.unique(self.path[:, level - 1 : level + 1], dim=0)
            if len(parents) != len(torch.unique(parents[:, 1])):
                raise ValueError(
                    f"path: a category of level {level + 1} lies under two of level {level}; number whole paths, "
                    "see reclib.tokenizers.unisid.number_paths"
                )
        if self.pairs is not None and len(self.pairs) and (self.pairs.min() < 1 or self.pairs.max() > n):
            raise ValueError(f"pairs: ids must lie in 1 … {n}, got {int(self.pairs.min())} … {int(self.pairs.max())}")


def number_paths(paths: Sequence[Sequence[str]], levels: int) -> Int[Tensor, "items levels"]:
    """Category paths as numbers; a path shorter than `levels` keeps its last category for the levels below."""
    table = torch.empty(len(paths), levels, dtype=torch.long)
    for level in range(levels):
        _, number = np.unique(["\x1f".join(path[: level + 1]) for path in paths], return_inverse=True)
        table[:, level] = torch.from_numpy(number)
    return table


# ------------------------------------------------------------------------------------------------------------ losses


def positives(path: Int[Tensor, "batch levels"]) -> Bool[Tensor, "levels batch batch"]:
    """P_l(i): the other items of the batch that share i's category at granularity l."""
    same: Tensor = path.T[:, :, None] == path.T[:, None, :]
    return same & ~torch.eye(len(path), dtype=torch.bool)


def multi_granularity_loss(
    z: Float[Tensor, "batch levels codes"], positive: Bool[Tensor, "levels batch batch"], tau: float
) -> Float[Tensor, ""]:
    """L_sid: per level a contrast of logits by cosine, positives against all other items of the batch.

    1/L Σ_l mean_i -1/|P_l(i)| Σ_{p ∈ P_l(i)} log softmax_{a ≠ i}(cos(z^l_i, z^l_a) / τ)_p. Items without a positive
    are skipped (our choice), and so is a level without any.
    """
    _, levels, _ = z.shape
    unit = F.normalize(z, dim=-1).transpose(0, 1)  # [levels, batch, codes]
    similar = unit @ unit.transpose(1, 2) / tau
    itself = torch.eye(len(z), dtype=torch.bool)
    log_p = similar.masked_fill(itself, -torch.inf).log_softmax(-1)
    count = positive.sum(-1)
    per_item = -log_p.masked_fill(~positive, 0).sum(-1) / count.clamp(min=1)
    anchors = (count > 0).sum(-1)
    per_level = per_item.sum(-1) / anchors.clamp(min=1)  # an item without positives adds 0
    return per_level.sum() / levels


def pair_loss(e: Float[Tensor, "batch dim"], other: Float[Tensor, "batch dim"], tau: float) -> Float[Tensor, ""]:
    """L_emb, InfoNCE: row i of `other` belongs to row i of `e`, the other rows do not; by cosine."""
    similar = F.normalize(e, dim=-1) @ F.normalize(other, dim=-1).T / tau
    return F.cross_entropy(similar, torch.arange(len(e)))


# ------------------------------------------------------------------------------------------------------------- model


class ItemBatch(NamedTuple):
    """Rows of the content: items, and for each one that belongs to it."""

    item: Int[Tensor, "batch"]
    other: Int[Tensor, "batch"]


class Reader(nn.Module):
    """The joint sequence: prompt, image, text, attributes, L SID tokens, one embedding token; causal."""

    field_start: Tensor

    def __init__(self, config: UniSIDConfig, content: ItemContent) -> None:
        super().__init__()
        self.config = config
        self.vectorizer = CountVectorizer(max_features=config.words, token_pattern=r"(?u)\b\w+\b").fit(content.text)
        fields = [int(column.max()) + 1 for column in content.attributes.T]
        self.register_buffer("field_start", torch.tensor([0, *fields]).cumsum(0)[:-1], persistent=False)
        self.prompt = nn.Parameter(0.02 * torch.randn(config.dim))
        self.word = nn.Embedding(len(self.vectorizer.vocabulary_) + 1, config.dim, padding_idx=0)
        self.attribute = nn.Embedding(max(1, sum(fields)), config.dim)
        features = 0 if content.image is None else content.image.shape[1]
        self.image = nn.Linear(features, config.dim) if features else None
        self.query = nn.Parameter(0.02 * torch.randn(config.levels + 1, config.dim))
        length = 2 + config.text_len + len(fields) + config.levels + 1
        self.position = nn.Parameter(0.02 * torch.randn(length, config.dim))
        self.blocks = _causal_transformer(config)
        self.norm = nn.LayerNorm(config.dim)
        self.code = nn.ModuleList(nn.Linear(config.dim, config.codes) for _ in range(config.levels))
        self.embedding = nn.Linear(config.dim, config.dim)

    def words(self, text: Sequence[str]) -> Int[Tensor, "items words"]:
        """Numbers of the first `text_len` known words of each text, 0 for padding."""
        return _word_numbers(self.vectorizer, text, self.config.text_len)

    def forward(
        self,
        words: Int[Tensor, "batch words"],
        attributes: Int[Tensor, "batch fields"],
        image: Float[Tensor, "batch features"] | None,
    ) -> tuple[Float[Tensor, "batch levels codes"], Float[Tensor, "batch dim"], Float[Tensor, "batch queries dim"]]:
        """Logits of the codes, the embedding, and the last states of SID and embedding tokens."""
        batch, levels = len(words), self.config.levels
        parts = [self.prompt.expand(batch, 1, -1)]
        if self.image is not None:
            parts.append(self.image(image)[:, None])
        parts += [self.word(words), self.attribute(attributes + self.field_start), self.query.expand(batch, -1, -1)]
        x = torch.cat(parts, dim=1)
        length = x.shape[1]
        real = torch.ones(batch, length, dtype=torch.bool)
        first = length - words.shape[1] - attributes.shape[1] - levels - 1
        real[:, first : first + words.shape[1]] = words > 0
        hidden = self.norm(_run(self.blocks, x + self.position[:length], real))[:, -levels - 1 :]
        z = torch.stack([head(hidden[:, level]) for level, head in enumerate(self.code)], dim=1)
        return z, self.embedding(hidden[:, -1]), hidden


class SummaryModel(nn.Module):
    """The small language model that writes summaries: trained on them once, then frozen."""

    tokens: Tensor  # [items, words]

    def __init__(self, config: UniSIDConfig, summary: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.vectorizer = CountVectorizer(token_pattern=r"(?u)\S+").fit(summary)
        self.register_buffer("tokens", _word_numbers(self.vectorizer, summary), persistent=False)
        self.word = nn.Embedding(len(self.vectorizer.vocabulary_) + 1, config.dim, padding_idx=0)
        self.position = nn.Parameter(0.02 * torch.randn(config.prefix + self.tokens.shape[1], config.dim))
        self.start = nn.Parameter(0.02 * torch.randn(config.prefix, config.dim))  # the prefix that says nothing
        self.blocks = _causal_transformer(config)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, item: Int[Tensor, "batch"], prefix: Float[Tensor, "batch prefix dim"]) -> Float[Tensor, ""]:
        """-mean log p of the words of the items' summaries, given a prefix of vectors."""
        tokens = self.tokens[item]
        tokens = tokens[:, : int((tokens > 0).sum(1).max())]  # one long summary among thousands is not paid for always
        x = torch.cat([prefix, self.word(tokens[:, :-1])], dim=1)
        real = torch.cat([torch.ones(prefix.shape[:2], dtype=torch.bool), tokens[:, :-1] > 0], dim=1)
        hidden = self.norm(_run(self.blocks, x + self.position[: x.shape[1]], real))[:, prefix.shape[1] - 1 :]
        written = tokens > 0  # the softmax over all words is most of the work
        return F.cross_entropy(hidden[written] @ self.word.weight.T, tokens[written])

    def pretrain(self, steps: int) -> None:
        """Learn how summaries read in general, from an empty prefix; then freeze."""
        batches = ItemBatches(len(self.tokens), None, 64, self.config.seed)
        settings = FitConfig(epochs=math.ceil(steps / batches.steps(0)), lr=3e-3, seed=self.config.seed)
        fit(self, batches, _empty_prefix_loss, settings, progress=False)
        self.zero_grad()  # nothing of the gradients stays behind
        self.requires_grad_(False)


class UniSIDModel(nn.Module):
    """Reader, and the bridge f_recon to the frozen summary model."""

    words: Tensor
    attributes: Tensor
    path: Tensor

    def __init__(self, config: UniSIDConfig, content: ItemContent) -> None:
        super().__init__()
        self.config = config
        self.reader = Reader(config, content)
        self.register_buffer("words", self.reader.words(content.text), persistent=False)
        self.register_buffer("attributes", content.attributes, persistent=False)
        self.register_buffer("path", content.path, persistent=False)
        self.image = content.image
        self.summary = None
        if content.summary is not None and config.lam > 0:
            self.summary = SummaryModel(replace(config, dropout=0.0), content.summary)  # frozen, so nothing random
            self.summary.pretrain(200)
            self.f_recon = nn.Linear((config.levels + 1) * config.dim, config.prefix * config.dim)

    def read(self, item: Int[Tensor, "batch"]) -> tuple[Tensor, Tensor, Tensor]:
        """The reader on rows of the content."""
        image = None if self.image is None else self.image[item]
        z, e, hidden = self.reader(self.words[item], self.attributes[item], image)
        return z, e, hidden

    def sid_loss(self, z: Tensor, other: Tensor, item: Tensor) -> Tensor:
        """L_sid with the category paths as positives."""
        return multi_granularity_loss(z, positives(self.path[item]), self.config.tau)

    def loss(self, batch: ItemBatch) -> tuple[Tensor, int]:
        """L_sid + L_emb + λ L_rec, times the number of items."""
        z, e, hidden = self.read(batch.item)
        other_z, other_e, _ = self.read(batch.other)
        total = self.sid_loss(z, other_z, batch.item) + pair_loss(e, other_e, self.config.tau)
        if self.summary is not None:
            prefix = self.f_recon(hidden.flatten(1)).view(len(z), self.config.prefix, -1)
            total = total + self.config.lam * self.summary(batch.item, prefix)
        return total * len(z), len(z)


class PairsOnlyModel(UniSIDModel):
    """Without multi-granularity: each level is trained as the embedding is, on pairs."""

    def sid_loss(self, z: Tensor, other: Tensor, item: Tensor) -> Tensor:
        """The mean over levels of InfoNCE on the logits."""
        levels = [pair_loss(z[:, level], other[:, level], self.config.tau) for level in range(z.shape[1])]
        return torch.stack(levels).mean()


class SidOnlyModel(UniSIDModel):
    """One task alone: codes, no embedding, no summary."""

    def __init__(self, config: UniSIDConfig, content: ItemContent) -> None:
        super().__init__(replace(config, lam=0.0), content)

    def loss(self, batch: ItemBatch) -> tuple[Tensor, int]:
        """L_sid, times the number of items."""
        z, _, _ = self.read(batch.item)
        return self.sid_loss(z, z, batch.item) * len(z), len(z)


class EmbeddingOnlyModel(UniSIDModel):
    """The other task alone: an embedding for others to quantise, as in the two-stage way."""

    def __init__(self, config: UniSIDConfig, content: ItemContent) -> None:
        super().__init__(replace(config, lam=0.0), content)

    def loss(self, batch: ItemBatch) -> tuple[Tensor, int]:
        """L_emb, times the number of items."""
        e, other = self.read(batch.item)[1], self.read(batch.other)[1]
        return pair_loss(e, other, self.config.tau) * len(e), len(e)


class CategoryEmbeddingModel(EmbeddingOnlyModel):
    """The fair control: UniSID is told the categories, so this embedding is told them too, before it is quantised."""

    def loss(self, batch: ItemBatch) -> tuple[Tensor, int]:
        """L_emb and the category contrast of all granularities on the one embedding, times the number of items."""
        e, other = self.read(batch.item)[1], self.read(batch.other)[1]
        every_level = e[:, None].expand(-1, self.path.shape[1], -1)
        contrast = multi_granularity_loss(every_level, positives(self.path[batch.item]), self.config.tau)
        return (pair_loss(e, other, self.config.tau) + contrast) * len(e), len(e)


@dataclass(frozen=True)
class ItemBatches:
    """All items once per epoch, in random order, each with one that belongs to it."""

    n_items: int
    pairs: Int[Tensor, "pairs 2"] | None
    batch_size: int
    seed: int

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[ItemBatch]:
        """The batches of one epoch."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        other = torch.arange(self.n_items)
        if self.pairs is not None:  # of an item's pairs one at random: the first in random order
            both = torch.cat([self.pairs, self.pairs.flip(1)]) - 1
            shuffled = both[torch.randperm(len(both), generator=generator)]
            item, first = np.unique(shuffled[:, 0].numpy(), return_index=True)
            other[item] = shuffled[first, 1]
        order = torch.randperm(self.n_items, generator=generator)
        for rows in torch.split(order, self.batch_size):
            if len(rows) > 1:  # one item alone has nothing to be told apart from
                yield ItemBatch(rows[rank::world_size], other[rows[rank::world_size]])

    def steps(self, epoch: int) -> int:
        """Batches in an epoch."""
        full, rest = divmod(self.n_items, self.batch_size)
        return full + (rest > 1)


class UniSID:
    """The tokenizer: `fit` on content, then `encode` it to semantic IDs or `embed` it.

    ::

        ids = UniSID(UniSIDConfig(codes=64)).fit(content).encode(content)
    """

    model_class: type[UniSIDModel] = UniSIDModel

    def __init__(self, config: UniSIDConfig | None = None) -> None:
        self.config = config or UniSIDConfig()
        self.model: UniSIDModel | None = None

    def fit(self, content: ItemContent, *, progress: bool = True) -> UniSID:
        """Train reader and heads on all items.

        Raises:
            ValueError: fewer items than codes, or a path with another number of levels than the codes have.
        """
        config, n = self.config, len(content.text)
        if n < config.codes:
            raise ValueError(f"codes: {config.codes} per level for only {n} items; choose fewer")
        if content.path.shape[1] != config.levels:
            raise ValueError(f"path: has {content.path.shape[1]} levels, the config {config.levels}; make them equal")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = self.model_class(config, content)
        batches = ItemBatches(n, content.pairs, config.batch_size, config.seed)
        settings = FitConfig(epochs=config.epochs, lr=config.lr, seed=config.seed)
        fit(self.model, batches, _loss, settings, progress=progress)
        return self

    @torch.no_grad()
    def logits(self, content: ItemContent) -> tuple[Float[Tensor, "items levels codes"], Float[Tensor, "items dim"]]:
        """Logits of all codes and the embeddings, in eval mode; also for items that were not trained on."""
        if self.model is None:
            raise ValueError("UniSID is not fitted; call fit(content) first")
        self.model.eval()
        reader = self.model.reader
        words, found = reader.words(content.text), []
        for rows in torch.split(torch.arange(len(words)), 1024):
            image = None if content.image is None else content.image[rows]
            found.append(reader(words[rows], content.attributes[rows], image)[:2])
        z, e = zip(*found, strict=True)
        return torch.cat(z), torch.cat(e)

    def encode(self, content: ItemContent) -> SemanticIds:
        """s^l = argmax_k z^l_k for every item."""
        z, _ = self.logits(content)
        return SemanticIds.from_codes(z.argmax(-1), (self.config.codes,) * self.config.levels, "UniSID")

    def embed(self, content: ItemContent) -> Float[Tensor, "items dim"]:
        """The embeddings e, of length one."""
        return F.normalize(self.logits(content)[1], dim=-1)


class PairsOnlyUniSID(UniSID):
    """The paper's first ablation: no category positives."""

    model_class = PairsOnlyModel


class SidOnlyUniSID(UniSID):
    """Trained for codes alone."""

    model_class = SidOnlyModel


class PairEmbedding(UniSID):
    """Only `embed` is of use: an embedding of pairs, for RQ-KMeans or RQ-VAE."""

    model_class = EmbeddingOnlyModel


class CategoryEmbedding(UniSID):
    """Only `embed` is of use: an embedding of pairs and categories, for RQ-KMeans or RQ-VAE."""

    model_class = CategoryEmbeddingModel


def _loss(model: UniSIDModel, batch: ItemBatch) -> tuple[Tensor, int]:
    return model.loss(batch)


def _empty_prefix_loss(model: SummaryModel, batch: ItemBatch) -> tuple[Tensor, int]:
    n = len(batch.item)
    return model(batch.item, model.start.expand(n, -1, -1)) * n, n


def _word_numbers(vectorizer: CountVectorizer, text: Sequence[str], length: int | None = None) -> Tensor:
    """Numbers from 1 of each text's known words, at most `length`; 0 pads."""
    analyse, number = vectorizer.build_analyzer(), vectorizer.vocabulary_
    rows = [[number[word] + 1 for word in analyse(sentence) if word in number][:length] for sentence in text]
    table = torch.zeros(len(rows), length or max(map(len, rows)), dtype=torch.long)
    for row, words in enumerate(rows):
        table[row, : len(words)] = torch.tensor(words, dtype=torch.long)
    return table


def _causal_transformer(config: UniSIDConfig) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        config.dim, config.heads, 4 * config.dim, config.dropout, F.gelu, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)


def _run(blocks: nn.TransformerEncoder, x: Tensor, real: Bool[Tensor, "batch length"]) -> Tensor:
    """Causal, and blind for padding."""
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    out: Tensor = blocks(x, mask=future, src_key_padding_mask=~real)
    return out
