r"""The catalogue: ads in a three-level industry tree, with what everybody sees and what nobody does.

Arrays are indexed by ad id: entry 0 is padding (zeros), ads are 1 … n_items.

Exposure, how often an ad is put before people:
    log e_i = σ (√½ quality_i + √½ ξ_i) - log Σ_j …,   quality, ξ ~ N(0, 1)
Taste, the direction in which an ad differs from others of its topic:  v_i ~ N(0, I_d), and the ad's style word names
the largest coordinate of v_i, so the text says a little about it.
Image-like vector:  image_i = c_topic + v_i A / √d + noise · ξ_i,   c, A, ξ standard normal entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from reclib.world import words
from reclib.world.config import AdWorldConfig


@dataclass(frozen=True)
class Tree:
    """Industry → sector → topic, and which topics complete one another."""

    topics: tuple[str, ...]  # names of the leaves
    sectors: tuple[str, ...]  # name of each leaf's sector
    industries: tuple[str, ...]  # name of each leaf's industry
    sector: Int[np.ndarray, "topics"]  # number of each leaf's sector
    industry: Int[np.ndarray, "topics"]  # number of each leaf's industry
    complements: Int[np.ndarray, "topics complements"]  # where an intent may move on to
    complement_share: Float[np.ndarray, "complements"]  # with which probability, sums to 1


@dataclass(frozen=True, eq=False, repr=False)
class Catalogue:
    """All ads. `table` and `image` are public; the rest, and `summary`, is hidden truth."""

    tree: Tree
    table: pd.DataFrame  # one row per ad, index item_id = 1 … n; what a recommender may see
    image: Float[np.ndarray, "items image"]  # image-like vector
    topic: Int[np.ndarray, "items"]  # leaf of the tree; row 0 is -1
    price_band: Int[np.ndarray, "items"]  # 0 low, 1 mid, 2 high
    audience: Int[np.ndarray, "items"]  # 0 all, 1 women, 2 men
    selling_point: Int[np.ndarray, "items"]  # the one the text states
    advertiser: Int[np.ndarray, "items"]
    campaign: Int[np.ndarray, "items"]
    bid: Float[np.ndarray, "items"]  # cents per click, whole numbers
    # hidden
    vector: Float[np.ndarray, "items taste"]  # position in taste space
    quality: Float[np.ndarray, "items"]  # standard normal; raises exposure and conversion
    exposure: Float[np.ndarray, "items"]  # share of the impressions; sums to 1
    persona: Int[np.ndarray, "items"]  # the audience the ad really speaks to
    appeal: Int[np.ndarray, "items"]  # the selling point that really draws
    community: Int[np.ndarray, "items"]  # who likes it for no reason that any text gives
    summary: tuple[str, ...]  # per ad (entry 0 empty): one sentence that states persona and appeal

    def __repr__(self) -> str:
        return f"Catalogue({self.n_items} ads in {len(self.tree.topics)} topics)"

    @property
    def n_items(self) -> int:
        """Number of ads."""
        return len(self.topic) - 1

    @cached_property
    def topic_items(self) -> Int[np.ndarray, "topics widest"]:
        """The ads of each topic, padded with 0."""
        order = np.argsort(self.topic[1:], kind="stable") + 1
        size = np.bincount(self.topic[1:], minlength=len(self.tree.topics))
        column = np.arange(size.max())
        place = (np.cumsum(size) - size)[:, None] + np.minimum(column, size[:, None] - 1)
        return np.where(column < size[:, None], order[place], 0)

    @cached_property
    def by_topic(self) -> tuple[Int[np.ndarray, "ads"], Int[np.ndarray, "topics"]]:
        """Ad ids sorted by topic, and where each topic begins: the arguments of `np.add.reduceat`."""
        order = np.argsort(self.topic[1:], kind="stable") + 1
        size = np.bincount(self.topic[1:], minlength=len(self.tree.topics))
        return order, np.cumsum(size) - size

    def vocabulary(self) -> list[str]:
        """Every word of titles, descriptions and summaries, sorted."""
        texts = [*self.table["title"], *self.table["description"], *self.summary]
        return sorted(set(" ".join(texts).split()))


def build_tree(config: AdWorldConfig, rng: np.random.Generator) -> Tree:
    """Cut the word lists to size and draw complements, most of them within the industry."""
    leaves = [
        (industry, sector, topic)
        for industry, sectors in list(words.TREE.items())[: config.n_industries]
        for sector, topics in list(sectors.items())[: config.sectors_per_industry]
        for topic in topics[: config.topics_per_sector]
    ]
    industries, sectors, topics = zip(*leaves, strict=True)
    sector = np.unique(sectors, return_inverse=True)[1]
    industry = np.unique(industries, return_inverse=True)[1]
    n, k = len(leaves), config.n_complements
    # Gumbel top-k: k different topics, those of the same industry e² times as likely, never the topic itself.
    score = rng.gumbel(size=(n, n)) + 2.0 * (industry[:, None] == industry)
    np.fill_diagonal(score, -np.inf)
    share = 1 / np.arange(1.0, k + 1)
    return Tree(
        topics=topics, sectors=sectors, industries=industries, sector=sector, industry=industry,
        complements=np.argsort(-score, axis=1)[:, :k], complement_share=share / share.sum(),
    )  # fmt: skip


def build_catalogue(config: AdWorldConfig, rng: np.random.Generator) -> Catalogue:
    """Draw all ads."""
    n = config.n_items
    tree = build_tree(config, rng)
    # Half of the ads are spread evenly over the topics, so that none is empty; the rest fall at random.
    even = np.resize(np.arange(config.n_topics), max(config.n_topics, n // 2))
    topic = rng.permutation(np.concatenate([even, rng.integers(config.n_topics, size=n - len(even))]))
    quality = rng.standard_normal(n)
    exposure = np.exp(config.popularity_sigma * np.sqrt(0.5) * (quality + rng.standard_normal(n)))
    vector = rng.standard_normal((n, config.taste_dim))
    directions = rng.standard_normal((config.taste_dim, config.image_dim)) / np.sqrt(config.taste_dim)
    centres = rng.standard_normal((config.n_topics, config.image_dim))
    image = centres[topic] + vector @ directions + config.image_noise * rng.standard_normal((n, config.image_dim))

    audience = rng.choice(len(words.AUDIENCES), size=n, p=[0.6, 0.2, 0.2])
    selling_point = rng.integers(len(words.SELLING_POINTS), size=n)
    ad_format = rng.integers(len(words.FORMATS), size=n)
    persona = rng.integers(len(words.PERSONAS), size=n)
    appeal = rng.integers(len(words.APPEALS), size=n)
    community = rng.integers(config.n_communities, size=n)

    # An advertiser works in one sector; it is a new or a known brand, and known brands are dearer.
    n_sectors = tree.sector.max() + 1
    per_sector = int(max(1, round(n / n_sectors / 10)))
    advertiser = tree.sector[topic] * per_sector + rng.integers(per_sector, size=n)
    tier = rng.integers(2, size=n_sectors * per_sector)[advertiser]
    price_band = np.clip(rng.integers(3, size=n) + (tier * 2 - 1) * (rng.random(n) < 0.3), 0, 2)
    campaign = advertiser * len(words.SEASONS) + rng.integers(len(words.SEASONS), size=n)
    # Advertisers of one industry face the same competition, so a part of the bid is common to them.
    industry_bid = rng.standard_normal(config.n_industries)[tree.industry[topic]]
    log_bid = np.sqrt(0.5) * (industry_bid + rng.standard_normal(n)) * config.bid_sigma
    bid = np.maximum(np.round(config.bid_median * np.exp(log_bid)), 1.0)

    brand = np.array(words.BRANDS)[advertiser % len(words.BRANDS)]
    table = pd.DataFrame(
        {
            "industry": np.array(tree.industries)[topic],
            "sector": np.array(tree.sectors)[topic],
            "topic": np.array(tree.topics)[topic],
            "brand": brand,
            "brand_tier": np.array(words.BRAND_TIERS)[tier],
            "price_band": np.array(words.PRICE_BANDS)[price_band],
            "audience": np.array(words.AUDIENCES)[audience],
            "selling_point": np.array(words.SELLING_POINTS)[selling_point],
            "style": np.array(words.STYLES)[vector.argmax(1)],
            "format": np.array(words.FORMATS)[ad_format],
            "advertiser_id": advertiser,
            "campaign_id": campaign,
            "campaign": [f"{b} {words.SEASONS[c % len(words.SEASONS)]}" for b, c in zip(brand, campaign, strict=True)],
            "bid": bid.astype(np.int64),
        },
        index=pd.RangeIndex(1, n + 1, name="item_id"),
    )
    title, description = _write(table, rng)
    table.insert(0, "title", title)
    table.insert(1, "description", description)
    summary = [
        words.SUMMARY.format(
            topic=row.topic,
            sector=row.sector,
            industry=row.industry,
            persona=words.PERSONAS[p],
            appeal=words.APPEALS[a],
        )
        for row, p, a in zip(table.itertuples(), persona, appeal, strict=True)
    ]
    return Catalogue(
        tree=tree, table=table, image=_padded(image), topic=_padded(topic, -1), price_band=_padded(price_band),
        audience=_padded(audience), selling_point=_padded(selling_point), advertiser=_padded(advertiser),
        campaign=_padded(campaign), bid=_padded(bid), vector=_padded(vector), quality=_padded(quality),
        exposure=_padded(exposure / exposure.sum()), persona=_padded(persona), appeal=_padded(appeal),
        community=_padded(community), summary=("", *summary),
    )  # fmt: skip


def _padded(values: Shaped[np.ndarray, "ads *rest"], fill: int = 0) -> Shaped[np.ndarray, "items *rest"]:
    """Put a row for the padding id 0 in front."""
    return np.concatenate([np.full_like(values[:1], fill), values])


def _write(table: pd.DataFrame, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Titles and descriptions of all ads, each from a random template."""
    which = rng.integers([len(words.TITLES), len(words.DESCRIPTIONS)], size=(len(table), 2))
    everybody = {"all": "everybody", "women": "women", "men": "men"}
    fields = [
        {
            "brand": row.brand, "style": row.style, "topic": row.topic, "selling_point": row.selling_point,
            "audience": everybody[str(row.audience)], "price": row.price_band, "tier": row.brand_tier,
        }
        for row in table.itertuples()
    ]  # fmt: skip
    titles = [words.TITLES[k].format(**f) for (k, _), f in zip(which, fields, strict=True)]
    descriptions = [words.DESCRIPTIONS[k].format(**f) for (_, k), f in zip(which, fields, strict=True)]
    return titles, descriptions
