"""What an item table says about each item, as UniSID reads it: text, attributes, category path, related items.

Our choices, since the paper's data are private: attributes are the text columns with few different values; items
belong together if they follow one another in a history; the sentence to be written is a template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reclib.data.interactions import Interactions
from reclib.tokenizers.encoders import item_text
from reclib.tokenizers.unisid import ItemContent, number_paths

TREE = ("industry", "sector", "topic")  # columns of a category tree, coarse to fine
EVERYWHERE = 0.95  # a category of more items than this share tells nothing ("Beauty" in Beauty)
FEW = 0.1  # a column is an attribute if it has at most this many different values per item


def category_paths(items: pd.DataFrame) -> list[tuple[str, ...]]:
    """Each item's categories, coarse to fine.

    Columns industry, sector and topic are a path already. A list of categories is one without a reliable order (in the
    Amazon files it is a set), so it is ordered by how many items a category has; ties by name.

    Raises:
        ValueError: neither is there.
    """
    if set(TREE) <= set(items.columns):
        return list(items[list(TREE)].astype(str).itertuples(index=False, name=None))
    if "categories" not in items.columns:
        raise ValueError(
            f"items: no column 'categories' (and no {', '.join(TREE)}); category paths need one, "
            f"the table has {', '.join(map(str, items.columns))}"
        )
    count = Counter(category for row in items["categories"] for category in set(row))
    most = EVERYWHERE * len(items)
    return [
        tuple(sorted({c for c in row if count[c] <= most}, key=lambda c: (-count[c], c))) or ("none",)
        for row in items["categories"]
    ]


def item_content(
    log: Interactions,
    levels: int,
    *,
    image: Float[Tensor, "items features"] | None = None,
    summary: Sequence[str] | None = None,
) -> ItemContent:
    """The content of a log's items.

    Args:
        log: the training events; their neighbours are the pairs, so no held-out event may be among them.
        levels: of the category path.
        image: vectors of pictures, where there are any.
        summary: a sentence per item; default: brand and path in a template.
    """
    items, paths = log.items, category_paths(log.items)
    skip = {"title", "description", "categories", *TREE}
    texts = [c for c in items.columns if c not in skip and pd.api.types.is_string_dtype(items[c].dropna())]
    chosen = [c for c in texts if items[c].nunique() <= FEW * len(items)]
    columns = [1 + pd.factorize(items[c])[0] for c in chosen]  # 0 where nothing is given
    attributes = np.stack(columns, 1) if columns else np.zeros((len(items), 0), dtype=np.int64)
    if summary is None:
        brand = items["brand"].fillna("").astype(str) if "brand" in items.columns else [""] * len(items)
        summary = [f"{b} in {' under '.join(path[::-1])}".strip() for b, path in zip(brand, paths, strict=True)]
    return ItemContent(
        text=item_text(items),
        attributes=torch.from_numpy(attributes.astype(np.int64)),
        path=number_paths(paths, levels),
        image=image,
        pairs=neighbours(log),
        summary=list(summary),
    )


def neighbours(log: Interactions) -> Int[Tensor, "pairs 2"]:
    """All pairs of different items that follow one another in a history."""
    same_user = log.user[1:] == log.user[:-1]
    pair = np.stack([log.item[:-1], log.item[1:]], 1)[same_user]
    return torch.from_numpy(pair[pair[:, 0] != pair[:, 1]])
