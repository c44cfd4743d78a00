"""The manual says what the code does: references are up to date, links lead somewhere, examples are real."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    [*DOCS.glob("*.md"), *DOCS.glob("decisions/*.md"), *ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md"]
)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_references_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "reference.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} in {page.name}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link} in {page.name}"


def test_every_setting_has_a_row():
    from framework._config.options import options

    text = (DOCS / "configuration.md").read_text()
    assert [name for name in options() if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize(
    ("group", "page"),
    [("framework.transports", "transports.md"), ("framework.pools", "pools.md"), ("framework.results", "results.md")],
)
def test_every_built_in_plugin_has_a_heading(group, page):
    text = (DOCS / page).read_text()
    names = [point.name for point in entry_points(group=group) if point.dist and point.dist.name == "framework"]
    assert names
    assert [name for name in names if f"\n### {name}\n" not in text] == []


def test_every_command_has_a_heading():
    from framework._cli.program import COMMANDS

    text = (DOCS / "cli.md").read_text()
    assert [name for name in COMMANDS if f"\n### framework {name}\n" not in text] == []


def test_every_family_has_a_row():
    from framework._boot.families import FAMILIES

    text = (DOCS / "plugins.md").read_text()
    assert [family.name for family in FAMILIES.values() if f"| {family.name} | `{family.group}` |" not in text] == []


def test_every_decision_is_numbered_once():
    numbers = [page.name[:4] for page in DOCS.glob("decisions/[0-9]*.md")]
    assert numbers
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_examples_compile(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if not block.startswith(">>>"):
            compile(block, str(page), "exec")


def test_make_help_explains_every_target():
    makefile = (ROOT / "Makefile").read_text()
    listed = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    explained = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert listed == explained
