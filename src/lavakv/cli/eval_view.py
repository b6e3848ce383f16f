"""Printing an evaluation's summary, and the list of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from lavakv.cli.console import print_json, results

_PADDING = (0, 2, 0, 0)
_WORDS = {"task", "policy", "on", "by", "holds"}


def print_summary(summary: dict[str, Any], out: Path) -> None:
    """Scores, the ablation if there is one, and costs."""
    results.print(_scores(summary["scores"]))
    if "ablation" in summary:
        results.print(_ablation(summary["ablation"]))
    results.print(_costs(summary["cost"]))
    results.print(_verdict(summary["cost"]), highlight=False)
    results.print(f"{summary['records']} records in {out}; lavakv report {out} renders a report", highlight=False)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", box=None, padding=_PADDING, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in _WORDS else "right", overflow="fold")
    return table


def _scores(scores: Sequence[dict[str, Any]]) -> Table:
    """A row for each policy and budget, so that any number of them fits; a block for each task."""
    table = _table("Scores (0 to 100)", "task", "policy", "budget", "score", "prompts")
    before = None
    for cell in scores:
        name = cell["row"] if cell["row"] != before else ""
        table.add_row(name, cell["policy"], cell["budget"], f"{cell['score']:.2f}", str(cell["prompts"]))
        before = cell["row"]
    return table


def _ablation(gains: Sequence[dict[str, Any]]) -> Table:
    from lavakv.evaluation.bootstrap import FEW, FEW_IN_TASK

    headings = ("on", "by", "budget", "gain", "95 % interval", "prompts", "holds")
    table = _table("Gain of each kind of budget, in points", *headings)
    for gain in gains:
        low, high = gain["interval"]
        table.add_row(
            gain["kind"] + (" *" if gain["insight"] else ""), gain["without"], gain["budget"], f"{gain['gain']:+.1f}",
            f"{low:+.1f} to {high:+.1f}", str(gain["prompts"]), gain["holds"],
        )  # fmt: skip
    table.caption = (
        f"* claimed by the paper; holds: the interval excludes 0 and rests on at least {FEW} prompts, "
        f"{FEW_IN_TASK} of each task"
    )
    table.caption_justify = "left"
    return table


def _costs(cost: dict[str, Any]) -> Table:
    table = _table("Seconds, all prompts", "policy", "budget", "score and select", "decode", "scoring", "all / decode")
    for pair in cost["pairs"]:
        seconds = [f"{pair[part]:.2f}" for part in ("fill", "decode", "score")]
        table.add_row(pair["policy"], pair["budget"], *seconds, _ratio(pair["ratio"]))
    return table


def _verdict(cost: dict[str, Any]) -> str:
    added = [pair for pair in cost["pairs"] if pair["budget"] != "all"]
    return (
        f"Prefill {cost['prefill_seconds']:.1f} s, once for each of the prompts: {cost['prompts']}. "
        f"Added pairs: {_ratio(cost['ratio'])} times their decoding alone; "
        f"{cost['within_goal']} of {len(added)} within the goal of {cost['goal']}."
    )


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3f}"


def show_tasks(as_json: bool) -> None:
    """Print all tasks, with a line about each."""
    from lavakv.tasks import task_names

    known = dict(task_names())
    if as_json:
        print_json(known)
        return
    table = Table(box=None, padding=_PADDING, show_header=False)
    for name, line in known.items():
        table.add_row(name, line)
    results.print(table)
