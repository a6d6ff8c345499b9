"""A vocabulary of whole words. Texts are cut at white space, so whoever writes them puts spaces around each word."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

PAD, END = "<pad>", "<end>"


class Vocabulary:
    """Words and their numbers: `<pad>` is 0, `<end>` is 1, special tokens follow, then the words.

    Attributes
    ----------
    tokens: every token, in the order of its number.
    unk: the token that stands for unknown words; None: an unknown word is an error.
    pad_id, end_id: 0 and 1.
    """

    pad_id, end_id = 0, 1

    def __init__(self, words: Iterable[str], *, special: Iterable[str] = (), unk: str | None = None) -> None:
        """Number the words in the order they come in; of a word that comes twice the first counts.

        Args:
            words: the words.
            special: tokens such as tags that should have a number even where no text of the moment holds them.
            unk: the token for unknown words, e.g. "<unk>".

        Raises:
            ValueError: a word that is empty or holds white space, so that no text could ever contain it.
        """
        self.unk = unk
        self.tokens = tuple(dict.fromkeys([PAD, END, *special, *([] if unk is None else [unk]), *words]))
        for token in self.tokens:
            if token.split() != [token]:
                raise ValueError(f"words: {token!r} is empty or holds white space; cut texts with Vocabulary.of_texts")
        self._number = {token: i for i, token in enumerate(self.tokens)}

    @classmethod
    def of_texts(cls, texts: Iterable[str], *, special: Iterable[str] = (), unk: str | None = None) -> Vocabulary:
        """Every word of some texts, sorted."""
        return cls(sorted({word for text in texts for word in text.split()}), special=special, unk=unk)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and (self.tokens, self.unk) == (other.tokens, other.unk)

    def __hash__(self) -> int:
        return hash((self.tokens, self.unk))

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens)"

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's words.

        Raises:
            ValueError: a word that is not in the vocabulary, where there is no `unk`.
        """
        try:
            return [self._number[word] if self.unk is None else self._or_unknown(word) for word in text.split()]
        except KeyError as error:
            raise ValueError(
                f"text: the word {error.args[0]!r} is not in the vocabulary of {len(self)} tokens; "
                'add it, or build the vocabulary with unk="<unk>"'
            ) from None

    def _or_unknown(self, word: str) -> int:
        assert self.unk is not None
        return self._number.get(word, self._number[self.unk])

    def decode(self, ids: Sequence[int] | Int[Tensor, "tokens"]) -> str:
        """The text of some numbers, without `<pad>` and `<end>`.

        Raises:
            ValueError: a number that no token has.
        """
        numbers = [int(i) for i in ids]
        outside = [i for i in numbers if not 0 <= i < len(self)]
        if outside:
            raise ValueError(f"ids: {outside[0]} is no token; the vocabulary has 0 … {len(self) - 1}")
        return " ".join(self.tokens[i] for i in numbers if i not in (self.pad_id, self.end_id))

    # ------------------------------------------------------------------------------------------------------ files

    def to_json(self) -> str:
        """As text."""
        return json.dumps({"tokens": self.tokens, "unk": self.unk})

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """The vocabulary that `to_json` wrote.

        Raises:
            ValueError: text of something else.
        """
        try:
            about = json.loads(text)
            tokens, unk = about["tokens"], about["unk"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError("text: is no vocabulary; write one with `to_json` or `save`") from error
        if list(tokens[:2]) != [PAD, END]:
            raise ValueError(f"text: a vocabulary begins with {PAD} and {END}, this one with {tokens[:2]}")
        return cls(tokens, special=tokens[2:], unk=unk)

    def save(self, path: str | Path) -> None:
        """Write it to a file, as JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read what `save` wrote.

        Raises:
            ValueError: a file of something else.
        """
        return cls.from_json(Path(path).read_text(encoding="utf-8"))
