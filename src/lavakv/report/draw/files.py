"""A drawing as a file of its own: SVG in the colours of the light theme, or PNG and PDF converted from it."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lavakv.errors import MissingExtraError, UnsupportedError
from lavakv.files import write_output
from lavakv.report.draw.layout import Sheet
from lavakv.report.page import as_bytes, render, require_jinja

ENDINGS = ("png", "svg", "pdf")
_PNG_SCALE = 2.0


def require_drawable(option: str, file: Path) -> None:
    """Check before the work that a drawing of this format can be made.

    Args:
        option: the argument that names the file.
        file: its path; the ending is the format.

    Raises:
        UnsupportedError: the ending is none of `ENDINGS`, or jinja2 is not installed.
        MissingExtraError: the format needs vl-convert, which is not installed.
    """
    ending = _ending(file)
    if ending not in ENDINGS:
        raise UnsupportedError(option, expected="a .png, .svg or .pdf file", got=str(file), fix="Rename it.")
    require_jinja(option)
    if ending != "svg":
        _converter(option)


def write_drawing(option: str, file: Path, svg: str) -> None:
    """Write an SVG drawing in the format of the file's ending.

    Raises:
        InputError: the file cannot be written.
        DiskError: the disk is full or broken.
        MissingExtraError: the format needs vl-convert, which is not installed.
    """
    data = as_bytes(svg)
    if _ending(file) == "png":
        data = _converter(option).svg_to_png(svg, scale=_PNG_SCALE)
    elif _ending(file) == "pdf":
        data = _converter(option).svg_to_pdf(svg)
    write_output(option, file, data)


def sheet_svg(kind: str, title: str, page: Sheet) -> str:
    """A sheet as a self-contained SVG document.

    Args:
        kind: of its pictures: `charts`, `scatter`, `needle` or `budgets`.
        title: what the pictures show, for readers who do not see them.
        page: the sheet.

    Raises:
        UnsupportedError: jinja2 is not installed.
    """
    return render("report/sheet.svg", kind=kind, title=title, sheet=page, colours=light_colours())


def light_colours() -> dict[str, str]:
    """The pages' colours of the light theme, by name."""
    css = (files("lavakv.report") / "templates" / "shared" / "colours.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--(\w+): light-dark\((#\w+),", css))


def _ending(file: Path) -> str:
    return file.suffix.removeprefix(".").lower()


def _converter(option: str) -> Any:
    """The module `vl_convert`, which renders SVG without a browser or system libraries."""
    try:
        return import_module("vl_convert")
    except ImportError as error:
        got = "none" if find_spec("vl_convert") is None else f"one that cannot be imported ({error})"
        fix = "Install it: pip install 'lavakv[plot]', or name a .svg file, which does not need it."
        raise MissingExtraError(option, expected="vl-convert-python for PNG and PDF", got=got, fix=fix) from error
