"""Sphinx extension: pages of the site whose text lies elsewhere in the repository, the README first of all."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
START = "index"
ELSEWHERE = {
    START: ROOT / "README.md",
    "contributing": ROOT / "CONTRIBUTING.md",
    "changelog": ROOT / "CHANGELOG.md",
    "store": ROOT / "src" / "lavakv" / "store" / "layout.md",
}
_LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:|#)([^)\s]+)\)")


def for_site(text: str, folder: Path) -> str:
    """Markdown of a file in `folder` with its links as a page of the site needs them.

    A link to a folder becomes its text; one to something that does not exist stays, and Sphinx complains of it.
    """
    pages = {file.resolve(): f"{page}.md" for page, file in ELSEWHERE.items()}

    def rewritten(match: re.Match[str]) -> str:
        path, mark, anchor = match[2].partition("#")
        target = (folder / path).resolve()
        if not target.exists():
            return match[0]
        if target.is_dir():
            return match[1]
        return f"[{match[1]}]({pages.get(target) or os.path.relpath(target, DOCS)}{mark}{anchor})"

    return _LINK.sub(rewritten, text)


def _read(app: Sphinx, page: str, content: list[str]) -> None:
    """Take the text from elsewhere; only the start page adds something of its own, the tables of contents."""
    here = app.env.doc2path(page)
    if page in ELSEWHERE:
        file = ELSEWHERE[page]
        app.env.note_dependency(str(file))
        own = content[0] if page == START else ""
        content[0] = for_site(file.read_text(encoding="utf-8"), file.parent) + "\n" + own
    else:
        content[0] = for_site(content[0], here.parent) if here.parent == DOCS else content[0]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
