"""Links between the pages, and the files that pages and docstrings name, exist. No site needs to be built for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
HISTORY = {DOCS / "log.md", ROOT / "CHANGELOG.md"}  # they name what was there at the time
FOREIGN = {"src/prompt.py"}  # files of other projects that pages name
FOLDERS = ("src", "tests", "benchmarks", "compat", ".ci", "docs", "hub")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!\w+:)([^)\s]*)\)")
_HEADING = re.compile(r"^#+ (.+?) *$", re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(text: str) -> set[str]:
    """What headings can be linked by: their words in lower case, punctuation left out, hyphens between them."""
    found = set[str]()
    for heading in _HEADING.findall(text):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-{sum(each.startswith(slug) for each in found)}")
    return found


def dead_links(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there."""
    dead = []
    for link in _LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(prose(target))):
            dead.append(link)
    return dead


@pytest.fixture(scope="module")
def files() -> set[str]:
    """All files of the repository's folders, from its root."""
    return {f"/{file.relative_to(ROOT)}" for folder in FOLDERS for file in (ROOT / folder).rglob("*.*")}


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY], ids=page_id)
def test_files_that_a_page_names_exist(page: Path, files: set[str]) -> None:
    named = set(re.findall(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|md|c|h|toml))`", prose(page))) - FOREIGN
    assert {name for name in named if not any(file.endswith(f"/{name}") for file in files)} == set()


def test_pages_that_code_names_exist() -> None:
    sources = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    named = {name for file in [*sources, ROOT / "Makefile"] for name in _pages_named(file)}
    assert len(named) > 5
    assert {name for name in named if not (ROOT / name).exists()} == set()


def _pages_named(file: Path) -> list[str]:
    return re.findall(r"\bdocs/\w+\.md", file.read_text(encoding="utf-8"))


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# A `b` & c\n\n```sh\n# no heading\n```\n\n## Same\n\n## Same\n")
    page.write_text(
        "# Here\n[1](other.md#a-b--c) [2](other.md#same-1) [3](#here) [4](https://example.org/x)\n"
        "[5](gone.md) [6](other.md#no-heading) [7](#there)\n```\n[8](in-code.md)\n```\n"
    )
    assert dead_links(page) == ["gone.md", "other.md#no-heading", "#there"]
