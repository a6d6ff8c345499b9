"""The files that say what to install agree with one another and with what the tests run on."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from reclib.notebooks import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name):
    """Package to the one version of it."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(package): pinned for package, pinned in (line.split("==") for line in lines)}


def test_the_tests_run_on_the_exact_set():
    found = {name: version(name).partition("+")[0] for name in pins("requirements.txt")}  # 2.13.0+cpu is a 2.13.0
    assert found == pins("requirements.txt")


@pytest.mark.parametrize("needed", [None, "book", "dev"])
def test_the_exact_set_has_all_that_the_package_needs(needed):
    exact = pins("requirements.txt")
    for line in PROJECT["dependencies"] if needed is None else PROJECT["optional-dependencies"][needed]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(exact[canonicalize_name(requirement.name)]), line


def test_rendering_needs_a_part_of_the_exact_set_without_torch():
    rendering, exact = pins("requirements-book.txt"), pins("requirements.txt")
    assert rendering.items() < exact.items()
    assert not {"torch", "numpy", "pandas"} & set(rendering)
    for line in PROJECT["optional-dependencies"]["book"]:
        assert canonicalize_name(Requirement(line).name) in rendering


def test_the_package_itself_imports_nothing_heavy():
    code = "import sys, reclib; print(sorted({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_make_target_is_listed_by_help():
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r"make (\w+)", shown)) == set(phony.split())


def test_the_scripts_of_the_page_are_the_versions_the_fallback_names():
    locked = (ROOT / "package.json").read_text()
    fallback = (ROOT / "book" / "_ext" / "mend_pages.py").read_text()
    (ours,) = re.findall(r'"@jupyter-widgets/html-manager": "([\d.]+)"', locked)
    assert f"html-manager@{ours}/dist/embed.js" in fallback
