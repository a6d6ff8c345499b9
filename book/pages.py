"""Writes the pages of the book that are computed: the ledger of claims and the status of the chapters.

python book/pages.py
"""

from pathlib import Path

from reclib import ledger, notebooks

BOOK = Path(__file__).parent


def pages() -> dict[Path, str]:
    """What each computed page should say now."""
    return {BOOK / "ledger.md": ledger.to_markdown(), BOOK / "status.md": notebooks.to_markdown()}


if __name__ == "__main__":
    for path, text in pages().items():
        changed = not path.exists() or path.read_text(encoding="utf-8") != text
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(BOOK.parent)}: {'written' if changed else 'up to date'}")
