"""What UniSID reads of an item table."""

import numpy as np
import pandas as pd
import pytest

from reclib.data import Interactions
from reclib.tokenizers.content import category_paths, item_content, neighbours
from reclib.world import AdWorld, AdWorldConfig


def log_of(columns, histories=((1, 2, 3), (2, 2, 1))):
    n_items = len(columns["title"])
    return Interactions(
        user=np.repeat(np.arange(len(histories)), [len(h) for h in histories]),
        item=np.concatenate(histories).astype(np.int64),
        time=None,
        n_items=n_items,
        items=pd.DataFrame(columns, index=pd.RangeIndex(1, n_items + 1, name="item_id")),
    )


def test_categories_are_ordered_from_the_common_to_the_rare():
    rows = [["nails", "shop", "makeup"], ["makeup", "shop"], ["shop", "skin"], ["shop", "makeup", "lips"], ["shop"]]
    items = pd.DataFrame({"categories": rows})
    assert category_paths(items) == [("makeup", "nails"), ("makeup",), ("skin",), ("makeup", "lips"), ("none",)]


def test_a_tree_of_columns_is_taken_as_it_is():
    log = AdWorld(AdWorldConfig.preset("tiny", seed=0)).simulate()
    paths = category_paths(log.items)
    assert paths[0] == tuple(log.items.iloc[0][["industry", "sector", "topic"]])
    content = item_content(log, 3)
    assert content.path.shape == (log.n_items, 3)
    assert content.attributes.shape[0] == log.n_items
    assert content.attributes.shape[1] > 0


def test_a_table_without_categories_is_refused():
    with pytest.raises(ValueError, match="no column 'categories'"):
        category_paths(pd.DataFrame({"title": ["a", "b"]}))


def test_neighbours_are_of_one_user_and_different():
    log = log_of({"title": ["a", "b", "c"]})
    assert neighbours(log).tolist() == [[1, 2], [2, 3], [2, 1]]


def test_columns_with_few_values_become_attributes():
    n = 40
    log = log_of(
        {
            "title": [f"thing {i}" for i in range(n)],
            "categories": [["all", "even" if i % 2 else "odd"] for i in range(n)],
            "brand": [["nova", "lumen", None][i % 3] for i in range(n)],
            "code": [f"x{i}" for i in range(n)],
        }
    )
    content = item_content(log, 2)
    assert content.attributes.shape == (n, 1)  # brand; code has too many values
    assert content.attributes[:6, 0].tolist() == [1, 2, 0, 1, 2, 0]
    assert content.summary[0] == "nova in odd"
    assert content.summary[2] == "in odd"
    assert content.text[1] == "thing 1 lumen all even"
