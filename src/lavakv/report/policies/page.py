"""The page on policies as Markdown with pictures beside it; a hand-written part between two markers is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from lavakv.errors import InputError
from lavakv.evaluation.bootstrap import FEW, FEW_IN_TASK, LEVEL
from lavakv.files import write_output
from lavakv.report.draw.chart import Frame
from lavakv.report.draw.files import sheet_svg
from lavakv.report.draw.layout import Picture, sheet
from lavakv.report.draw.scatter import Dot, Scatter, scatter
from lavakv.report.page import as_bytes, render
from lavakv.report.policies.contents import MODE_NAMES, BenchmarkPart, Cell, PoliciesPage

START, END = "<!-- advice: written by hand, kept when the page is drawn again -->", "<!-- end of advice -->"
_WIDTH, _HEIGHT = 560, 400
_DRAWN = ("25%", "12.5%")  # kept fractions of the picture, where they were run
_MIN_COST = 0.01  # percent of the prefill, for the logarithm
_OTHER, _BASELINE = 1, 0  # colours


def require_page(option: str, file: Path) -> None:
    """Check before the work that a page can be drawn into a file.

    Raises:
        InputError: the name does not end in .md, or the file holds something else.
    """
    if file.suffix != ".md":
        raise InputError(option, expected="a .md file", got=str(file), fix="Name it e.g. policies-compared.md.")
    advice_of(option, file)


def advice_of(option: str, file: Path) -> str:
    """What stands between the markers of a page; empty if there is no page yet.

    Raises:
        InputError: the file cannot be read, or lacks the markers, so that drawing it would lose what is in it.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise InputError(option, expected="a page that can be read", got=str(error), fix="Check the path.") from error
    _, start, rest = text.partition(START)
    advice, end, _ = rest.partition(END)
    if not start or not end:
        raise InputError(
            option, expected="a new file, or a page that was drawn before", got=f"{file} without the two markers",
            fix=f"Give another file, or put {START!r} and {END!r} around what to keep.",
        )  # fmt: skip
    return advice.strip("\n")


def write_page(page: PoliciesPage, file: Path, option: str = "--page") -> list[Path]:
    """Write the Markdown and its picture, and return their paths, the Markdown first.

    Raises:
        InputError: as `advice_of`, or a file cannot be written.
        DiskError: the disk is full or broken.
        UnsupportedError: jinja2 is not installed.
    """
    drawn = {f"results/{file.stem}.svg": svg for svg in [picture(page)] if svg is not None}
    texts = {file.name: markdown(page, advice_of(option, file), next(iter(drawn), None)), **drawn}
    for name, text in texts.items():
        write_output(option, file.parent / name, as_bytes(text), make_folder=True)
    return [file.parent / name for name in texts]


def markdown(page: PoliciesPage, advice: str, drawn: str | None) -> str:
    """The page as Markdown.

    Args:
        page: its contents.
        advice: written by hand, between the markers.
        drawn: path of the picture, or None without one.
    """
    return render(
        "report/policies.md",
        page=page,
        mode_names=MODE_NAMES,
        advice=advice,
        markers=(START, END),
        drawn=drawn,
        level=LEVEL,
        few=FEW,
        few_in_task=FEW_IN_TASK,
    )


def picture(page: PoliciesPage) -> str | None:
    """Share of the full cache's score against added time, a row of plots a benchmark and mode; None without costs."""
    rows = [list(_plots(page, part, mode)) for part in page.benchmarks for mode in page.modes]
    rows = [row for row in rows if row]
    if not rows:
        return None
    title = "Share of the full cache's score against what a policy adds to the prefill"
    return sheet_svg("scatter", title, sheet(rows))


def _plots(page: PoliciesPage, part: BenchmarkPart, mode: str) -> Iterator[Picture]:
    lead = f"{part.name}, {MODE_NAMES[mode].lower()}" if len(page.benchmarks) > 1 else MODE_NAMES[mode]
    chosen = [budget for budget in page.budgets if budget.label in _DRAWN] or page.budgets[:2]
    for budget in chosen:
        plot = _plot(page, part, (mode, budget.label))
        if plot is not None:
            yield Picture(f"{lead}, {budget.name} kept", _WIDTH, _HEIGHT, plot)


def _plot(page: PoliciesPage, part: BenchmarkPart, cell: Cell) -> Scatter | None:
    dots = []
    for one in part.standings[cell]:
        cost = page.cost(one.policy)
        if not math.isnan(cost):
            tip = f"{one.policy}: {one.share.mean:.0f} % of the full cache's score, {cost:.2g} % of the prefill"
            colour = _BASELINE if one.policy == part.baseline else _OTHER
            dots.append(Dot(one.policy, max(cost, _MIN_COST), max(one.share.mean, 0.0), tip, colour))
    return scatter(dots, Frame(_WIDTH, _HEIGHT, "added to the prefill, % of its time", "% of the full cache's score"))
