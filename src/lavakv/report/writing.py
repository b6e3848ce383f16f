"""All files of a report, written into a folder."""

from __future__ import annotations

from pathlib import Path

from lavakv.files import write_output
from lavakv.report.contents import Report
from lavakv.report.html import html
from lavakv.report.markdown import markdown
from lavakv.report.page import as_bytes
from lavakv.report.pictures import pictures
from lavakv.report.run import HTML

MARKDOWN = "report.md"


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write page, Markdown and its pictures, and return their paths, the page first.

    Raises:
        InputError: the folder cannot be written to.
        DiskError: the disk is full or broken.
        UnsupportedError: jinja2 is not installed.
    """
    drawn = pictures(report)
    texts = {HTML: html(report), MARKDOWN: markdown(report, {name: title for name, (title, _) in drawn.items()})}
    texts |= {name: svg for name, (_, svg) in drawn.items()}
    for name, text in texts.items():
        write_output("--out", folder / name, as_bytes(text), make_folder=True)
    return [folder / name for name in texts]
