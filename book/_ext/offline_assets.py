"""Makes the pages work without a network and from ``file://``; falls back to a CDN where the scripts are missing."""

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.ext.mathjax import MATHJAX_URL
from sphinx.util import logging

WIDGETS_URL = "https://cdn.jsdelivr.net/npm/@jupyter-widgets/html-manager@1.0.14/dist/embed.js"
FONT_PRELOAD = re.compile(r'\s*<link rel="preload"[^>]*as="font"[^>]*>')


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


def drop_font_preloads(app: Sphinx, error: Exception | None) -> None:
    """Take out the theme's font preloads: browsers refuse them on ``file://``, and its icons do not need them."""
    if error is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text(encoding="utf-8")
            if FONT_PRELOAD.search(text):
                page.write_text(FONT_PRELOAD.sub("", text), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", choose_scripts)
    app.connect("build-finished", drop_font_preloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
