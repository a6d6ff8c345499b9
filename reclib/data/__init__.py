"""Data: the log of events, loaders for real and simulated sets, and the folder format for your own.

Names are looked up on first use, because `Interactions` needs torch and listing data sets does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reclib.data.catalogue import CATALOGUE as CATALOGUE
    from reclib.data.catalogue import MissingDataset as MissingDataset
    from reclib.data.catalogue import UnknownDataset as UnknownDataset
    from reclib.data.files import DataError as DataError
    from reclib.data.folder import from_log as from_log
    from reclib.data.folder import read_folder as read_folder
    from reclib.data.folder import save_folder as save_folder
    from reclib.data.interactions import Cases as Cases
    from reclib.data.interactions import HistoryBatch as HistoryBatch
    from reclib.data.interactions import Interactions as Interactions
    from reclib.data.interactions import Split as Split
    from reclib.data.load import load_dataset as load_dataset
    from reclib.data.open_bandit import LoggedFeedback as LoggedFeedback
    from reclib.data.open_bandit import load_open_bandit as load_open_bandit

_HOME = {
    "CATALOGUE": "catalogue",
    "MissingDataset": "catalogue",
    "UnknownDataset": "catalogue",
    "DataError": "files",
    "from_log": "folder",
    "read_folder": "folder",
    "save_folder": "folder",
    "Cases": "interactions",
    "HistoryBatch": "interactions",
    "Interactions": "interactions",
    "Split": "interactions",
    "load_dataset": "load",
    "LoggedFeedback": "open_bandit",
    "load_open_bandit": "open_bandit",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
