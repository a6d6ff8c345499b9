"""Makes the pages work without a network, from ``file://`` and with a screen reader; falls back to a CDN if need be."""

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.ext.mathjax import MATHJAX_URL
from sphinx.util import logging

WIDGETS_URL = "https://cdn.jsdelivr.net/npm/@jupyter-widgets/html-manager@1.0.14/dist/embed.js"
MENDS = (
    # The theme's font preloads: browsers refuse them on file://, and its icons do not need them.
    (re.compile(r'\s*<link rel="preload"[^>]*as="font"[^>]*>'), ""),
    # Sphinx calls the references a list, but what is in it are no list items.
    (re.compile(r'<div role="list" class="citation-list">'), '<div class="citation-list">'),
)


def choose_scripts(app: Sphinx, config: Config) -> None:
    """Keep the local scripts if they are all there; else take the CDN for all and say so."""
    vendor = Path(app.srcdir) / "book" / "_extra" / "vendor"
    if (vendor / "mathjax" / "tex-mml-chtml.js").exists() and (vendor / "embed.js").exists():
        return
    config.mathjax_path = MATHJAX_URL
    config.nb_ipywidgets_js = {WIDGETS_URL: {}}
    logging.getLogger(__name__).info(
        "Mathematics and widgets will be loaded from a CDN: these pages need a network. "
        "Install npm and run `make book` again for pages that do not."
    )


def mend_pages(app: Sphinx, error: Exception | None) -> None:
    """Apply `MENDS` to every page."""
    if error is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            before = text = page.read_text(encoding="utf-8")
            for pattern, replacement in MENDS:
                text = pattern.sub(replacement, text)
            if text != before:
                page.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", choose_scripts)
    app.connect("build-finished", mend_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
