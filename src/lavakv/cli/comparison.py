"""Printing a comparison, and writing it as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from lavakv.cli.console import human_bytes, results
from lavakv.files import write_output

_WIDE = 150


def print_comparison(about: dict[str, Any], questions: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    """A table for each question; the answers inside it, or below where the terminal is narrow."""
    prefill = f"prefill {about['prefill_seconds']:.2f} s, once for all"
    results.print(f"{about['prompt_tokens']} prompt tokens, {about['mode']}; {prefill}", highlight=False)
    for index in range(max(len(questions), 1)):
        rows = [record for record in records if record["question"] == index]
        title = escape(questions[index]) if questions else None
        wide = results.width >= _WIDE and rows[0]["text"] is not None
        results.print(_table(rows, title, with_answers=wide))
        if not wide and rows[0]["text"] is not None:
            results.print(_answers(rows))
    for note in about["notes"]:
        results.print(f"* {note}", highlight=False, markup=False)


def _table(rows: Sequence[dict[str, Any]], title: str | None, with_answers: bool) -> Table:
    table = Table(title=title, title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for heading in ("budget", "entries", "KV cache", "KL", "top-1", "loss", "tok/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    if with_answers:
        table.add_column("answer", ratio=1, overflow="fold")
    for row in rows:
        speed = row["tokens_per_second"]
        cells = [
            row["policy"],
            row["budget"],
            f"{row['kept_entries']:,}" + (" *" if row["same_entries_as"] or row["at_minimum"] else "  "),
            human_bytes(row["kv_bytes"]),
            f"{row['kl_nats']:.4f}",
            f"{row['top1_agreement']:.0%}",
            _short(row["estimated_loss"]),
            "-" if speed is None else f"{speed:.1f}",
        ]
        table.add_row(*cells, *([_answer(row)] if with_answers else []))
    return table


def _short(loss: float) -> str:
    return f"{loss:.0f}" if loss >= 100 else f"{loss:.3g}"


def _answers(rows: Sequence[dict[str, Any]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        grid.add_row(row["policy"], row["budget"], _answer(row))
    return grid


def _answer(row: dict[str, Any]) -> str:
    return escape(" ".join(row["text"].split()))


def write_csv(records: Sequence[dict[str, Any]], file: Path) -> None:
    """One row a variant and question.

    Raises:
        InputError: the file cannot be written.
        DiskError: the disk is full or broken.
    """
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(records[0]))
    writer.writeheader()
    writer.writerows({**record, "same_entries_as": ", ".join(record["same_entries_as"])} for record in records)
    write_output("--csv", file, out.getvalue().encode("utf-8", "replace"))
