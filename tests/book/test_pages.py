"""Renders the book and reads it in a real browser without a network, as a reader would.

Every page, over http and from a file, on a phone and on a desk, light and dark; and every control of every widget.
"""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from reclib.notebooks import ROOT, chapters

pytestmark = pytest.mark.slow

SITE = ROOT / "book" / "_build" / "html"
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
PAGES = [TOC["root"], *(entry["file"] for part in TOC["parts"] for entry in part["chapters"])]
WITH_WIDGETS = [page for page in PAGES if page.startswith("chapters/")]
SIZES = {"phone": {"width": 390, "height": 844}, "desk": {"width": 1300, "height": 900}}
CONTROLS = ":scope > .widget-hbox > *"  # inside a widget of reclib.figures
NO_NETWORK = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


# ---------------------------------------------------------------- the book, a server, a browser


@pytest.fixture(scope="module")
def site():
    """Renders the book as `make book` does: any warning is an error."""
    if not (ROOT / "book" / "_extra" / "vendor" / ".complete").exists():
        pytest.fail("book/_extra/vendor has no MathJax and widget manager: run `make book` where npm is installed")
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "--path-output", "book"]
    command += ["--config", "book/_config.yml", "--toc", "book/_toc.yml", "--all", "-W", "-n", "--keep-going"]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-6000:]
    return SITE


@pytest.fixture(scope="module")
def address(site):
    """Where the site is: by scheme."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"http": f"http://127.0.0.1:{server.server_port}/", "file": site.as_uri() + "/"}
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.fail("no Chromium found: install it (apt-get install chromium) or name it in CHROMIUM")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=NO_NETWORK)
        yield started
        started.close()


@pytest.fixture
def read(browser, address):
    """Opens a page and waits until mathematics and widgets are drawn; whatever went wrong is in `page.troubles`."""
    contexts = []

    def opened(name: str, scheme: str = "http", size: str = "desk", theme: str = "light") -> Page:
        context = browser.new_context(viewport=SIZES[size], color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.troubles = []
        page.on("console", lambda m: m.type == "error" and page.troubles.append(f"console: {m.text} {m.location}"))
        page.on("pageerror", lambda error: page.troubles.append(f"script: {error}"))
        page.on("requestfailed", lambda request: page.troubles.append(f"request failed: {request.url[:200]}"))
        page.on("response", lambda r: r.status >= 400 and page.troubles.append(f"status {r.status}: {r.url}"))
        page.goto(f"{address[scheme]}{name}.html", wait_until="load")
        page.wait_for_function(
            """() => !document.querySelector('.math.notranslate') || Boolean(window.MathJax?.startup?.promise)"""
        )
        page.evaluate("async () => { await window.MathJax?.startup?.promise }")
        page.wait_for_function(
            """() => document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]').length
                     === document.querySelectorAll('.reclib-frames').length"""
        )
        return page

    yield opened
    for context in contexts:
        context.close()


# ---------------------------------------------------------------- every page


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("name", PAGES)
def test_page(read, name, scheme):
    page = read(
        name, scheme, size="desk" if scheme == "http" else "phone", theme="light" if scheme == "http" else "dark"
    )
    assert page.locator("article.bd-article h1").count() == 1

    drawn, errors = page.locator(".math.notranslate mjx-container").count(), page.locator("mjx-merror").count()
    assert drawn >= page.locator(".math.notranslate").count(), "some mathematics was not drawn"
    assert errors == 0, page.locator("mjx-merror").first.inner_text()

    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        for size, viewport in SIZES.items():
            page.set_viewport_size(viewport)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{wide} pixels too wide on a {size}"

    broken = page.evaluate("() => [...document.images].filter(i => i.offsetParent && !i.naturalWidth).map(i => i.src)")
    assert broken == [], "pictures that did not load"
    silent = page.locator("article.bd-article img").evaluate_all(
        "all => all.filter(i => !i.alt.trim()).map(i => i.outerHTML.slice(0, 200))"
    )
    assert silent == [], "pictures without alternative text"

    raw = page.locator("article.bd-article p").filter(has_text=re.compile(r"^\|.*\|", re.DOTALL)).all_inner_texts()
    assert raw == [], "tables that were not drawn"

    assert page.troubles == []


@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible(read, name):
    page = read(name)
    # Colours fade from one theme to the other; half-way, a button is grey on grey.
    page.add_style_tag(content="*, *::before, *::after { transition: none !important; animation: none !important; }")
    found = []
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        found += [(theme, violation) for violation in Axe().run(page).response["violations"]]
    serious = [
        f"{theme}: {violation['id']}: {node['html'][:160]} ({node['any'][0]['message'][:160] if node['any'] else ''})"
        for theme, violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
    assert serious == []


# ---------------------------------------------------------------- every widget


def visible_picture(view) -> str:
    """The one frame of this widget that is on the page."""
    frames = view.locator(".reclib-frame img").evaluate_all("all => all.filter(i => i.offsetParent).map(i => i.src)")
    assert len(frames) == 1, f"{len(frames)} frames are visible at once"
    return frames[0]


def operate(page: Page, control, forward: bool) -> None:
    """Move a control one step from its first position, or back, as a reader at the keyboard does."""
    if control.locator("select").count():
        control.locator("select").select_option(index=int(forward))
    elif control.locator("input[type=radio]").count():
        control.locator("input[type=radio]").nth(int(forward)).check()
    else:
        control.locator(".noUi-handle").focus()
        page.keyboard.press("ArrowRight" if forward else "ArrowLeft")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("name", WITH_WIDGETS)
def test_every_control_moves_its_picture(read, name, scheme, size):
    page = read(name, scheme, size)
    views = page.locator(".reclib-frames").all()
    assert len(views) >= 2
    for view in views:
        controls = view.locator(CONTROLS).all()
        assert controls
        first = visible_picture(view)
        caption = view.locator(".reclib-frame figcaption:visible").inner_text()
        for control in controls:
            label = control.locator("label.widget-label").inner_text()
            before = first
            operate(page, control, forward=True)
            page.wait_for_timeout(100)
            assert visible_picture(view) != before, f"{label!r} does not move its picture"
            operate(page, control, forward=False)
            page.wait_for_timeout(100)
            assert visible_picture(view) == before, f"{label!r} does not move its picture back"
        # All controls together reach a frame that none reaches alone, and its text moves with it.
        for control in controls:
            operate(page, control, forward=True)
        page.wait_for_timeout(100)
        assert visible_picture(view) != first
        assert view.locator(".reclib-frame figcaption:visible").inner_text() != caption
    assert page.troubles == []


@pytest.mark.parametrize("name", WITH_WIDGETS)
def test_controls_have_names(read, name):
    page = read(name)
    page.wait_for_timeout(300)
    for view in page.locator(".reclib-frames").all():
        for control in view.locator(CONTROLS).all():
            label = control.locator("label.widget-label").inner_text().strip()
            named = control.locator("select, .noUi-handle, [role=radiogroup]").first
            assert label
            assert named.get_attribute("aria-label") == label


# ---------------------------------------------------------------- links and search


class Links(HTMLParser):
    """Collects where a page points to, and which anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        self.targets += [found[key] for key in ("href", "src") if found.get(key)]


def pages_of(site: Path) -> list[Path]:
    """Every page, without the templates that the theme leaves in its own folder."""
    return [path for path in site.rglob("*.html") if "_static" not in path.parts]


def test_links_inside_the_book_lead_somewhere(site):
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in pages_of(site)}
    dead = []
    for path, page in pages.items():
        for target in page.targets:
            if re.match(r"[a-z]+:", target):
                continue
            file, anchor = urldefrag(target)
            file = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            if not file.exists() or (anchor and file in pages and unquote(anchor) not in pages[file].anchors):
                dead.append(f"{path.relative_to(site)}: {target}")
    assert dead == []


def test_pages_ask_nothing_of_other_servers(site):
    elsewhere = []
    for path in pages_of(site):
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", path.read_text(encoding="utf-8")):
            if re.search(r"""(?:src|href)=["'](?:https?:)?//""", tag) and 'rel="canonical"' not in tag:
                elsewhere.append(f"{path.relative_to(site)}: {tag}")
    assert elsewhere == []


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_finds_a_term(read, scheme):
    page = read("search", scheme)
    page.goto(f"{page.url}?q=propensity", wait_until="load")
    page.wait_for_selector("#search-results li a")
    assert "glossary" in " ".join(page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)"))


def test_every_chapter_can_be_downloaded_as_a_notebook(site):
    sources = {path.name for path in (site / "_sources").rglob("*.ipynb")}
    assert sources == {chapter.path.name for chapter in chapters()}


def test_offline_scripts_come_from_the_site(read):
    page = read(WITH_WIDGETS[0])
    scripts = page.evaluate("() => [...document.scripts].map(s => s.src).filter(Boolean)")
    assert any(re.search(r"vendor/mathjax/tex-mml-chtml\.js", script) for script in scripts)
    assert any(re.search(r"vendor/embed\.js", script) for script in scripts)
    assert Path(SITE / "vendor" / "embed.js").stat().st_size > 1_000_000


def test_readers_can_replay_an_agent(read, address):
    """Inspect's viewer lists the logs, opens one, and shows the calls of a task."""
    page = read("book/replay")
    page.get_by_role("link", name="Open the viewer").click()
    page.wait_for_url("**/replay/index.html*")
    page.get_by_text("scripted/without_rules").first.wait_for()
    page.get_by_text("scripted/without_rules").first.click()
    page.get_by_text("L3-capped_users-1").first.wait_for()
    page.get_by_text("L3-capped_users-1").first.click()
    page.get_by_text("resolve_date").first.wait_for()
    # It asks for two files that a folder of logs may have, and stops reading when it knows a log's length.
    expected = re.compile(r"logs/(eval-set\.json|flow\.yaml|[a-z-]+\.eval$)|^request failed: .*\.eval$")
    assert [trouble for trouble in page.troubles if not expected.search(trouble)] == []
