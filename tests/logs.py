"""Small logs that several test modules write down by hand."""

import numpy as np
import pandas as pd

from reclib.data.interactions import Interactions


def make_log(histories, n_items):
    """One user per list of item ids, without times."""
    return Interactions(
        user=np.repeat(np.arange(len(histories)), [len(h) for h in histories]),
        item=np.concatenate(histories).astype(np.int64),
        time=None,
        n_items=n_items,
        items=pd.DataFrame(index=pd.RangeIndex(1, n_items + 1, name="item_id")),
    )
