"""docs/environment.md lists every LAVAKV_* variable that is read, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
OURS, _, OTHERS = PAGE.partition("## In the tests")
_VARIABLE = re.compile(r"LAVAKV_[A-Z][A-Z_]*")
_SUFFIXES = {".py", ".c", ".h", ".md", ".html", ".js"}


def named_in(*folders: Path) -> set[str]:
    """Variables that files in these folders, or these files, name."""
    return {name for file in files(folders) for name in _VARIABLE.findall(file.read_text(encoding="utf-8"))}


def files(folders: tuple[Path, ...]) -> Iterator[Path]:
    """Every text file in the folders, and the files among them."""
    for folder in folders:
        found = folder.rglob("*") if folder.is_dir() else [folder]
        yield from (file for file in found if file.suffix in _SUFFIXES or file.name in ("Makefile", "run"))


def rows(text: str) -> dict[str, str]:
    """Lines of the page's tables by the LAVAKV_* variable they are about."""
    return {match[1]: match[0] for match in re.finditer(r"^\| `(LAVAKV_\w+)` \|.*$", text, re.MULTILINE)}


def test_every_variable_of_the_package_is_on_the_page_and_vice_versa() -> None:
    package = named_in(ROOT / "src", ROOT / "benchmarks", ROOT / "compat", ROOT / "Makefile")
    assert package
    assert rows(OURS).keys() == package


@pytest.mark.parametrize("variable", rows(OURS))
def test_the_file_that_reads_it_names_it(variable: str) -> None:
    (file,) = re.findall(r"in `([\w/]+\.py)` \|$", rows(OURS)[variable])
    assert variable in (ROOT / "src" / "lavakv" / file).read_text(encoding="utf-8")


def test_what_only_the_tests_read_is_on_the_page_and_vice_versa() -> None:
    with_suites = named_in(ROOT / "tests" / "real", ROOT / "tests" / "tasks", ROOT / "tests" / "test_readme.py")
    assert rows(OTHERS).keys() == with_suites - rows(OURS).keys()
