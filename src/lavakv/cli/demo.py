"""`lavakv demo`: a generated document, three questions, the full cache against smaller and smaller ones."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from lavakv.cli import options
from lavakv.cli.checks import check_model
from lavakv.cli.console import human_bytes, notes, print_json, progress, results
from lavakv.cli.loading import load_quietly, starting
from lavakv.models.default import DEFAULT_MODEL, fetched_model_dir

_NUM_FACTS = 3


def demo(
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the document.")] = 0,
    tokens: Annotated[int, typer.Option(metavar="N", min=400, help="Length of the document in tokens.")] = 4000,
    model: options.ModelName = "smollm2",
    max_new_tokens: options.MaxNewTokens = 24,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Ask for three facts in a generated logbook: full cache against LAVa at 50, 25 and 12.5 %."""
    check_model(model, dtype, device, None)
    with starting():
        from lavakv.demo.answers import CacheAnswers, ask_all, variants
        from lavakv.demo.logbook import make_logbook

    if model == DEFAULT_MODEL and fetched_model_dir() is None:
        notes.print(f"Downloading and converting {model} once, about a minute", highlight=False)
    loaded = load_quietly(model, dtype, device, None)
    logbook = make_logbook(tokens, _NUM_FACTS, seed, lambda text: len(loaded.tokenizer(text)["input_ids"]))
    reports = [CacheAnswers(variant) for variant in variants()]
    notes.print(f"Asking {_NUM_FACTS} questions of {len(reports)} caches", highlight=False)
    with progress() as bar:
        asked = ask_all(loaded, logbook, reports, max_new_tokens)
        for _ in bar.track(asked, total=_NUM_FACTS * len(reports), description="Answers"):
            pass
    if as_json:
        facts = [fact._asdict() for fact in logbook.facts]
        print_json({"seed": seed, "model": model, "facts": facts, "caches": [report.record() for report in reports]})
        return
    _show(logbook, reports)


def _show(logbook: Any, reports: list[Any]) -> None:
    from lavakv.demo.answers import budget_picture

    num_tokens = reports[0].num_tokens
    results.print(f"\nA logbook of about {num_tokens:,} tokens. It contains these facts:", highlight=False)
    for fact in logbook.facts:
        results.print(f"  {fact.sentence}", highlight=False)
    results.print(_table(reports))
    for index, fact in enumerate(logbook.facts):
        results.print(f"\n{fact.question}", style="bold", highlight=False)
        results.print(_answers(index, reports))
    quarter = next(report for report in reports if report.variant.keep == 0.25)
    results.print("\nWhat each head of each layer keeps at 25 % (last question):", highlight=False)
    results.print(budget_picture(quarter.head_entries, num_tokens))


def _table(reports: list[Any]) -> Table:
    table = Table()
    table.add_column("cache")
    for heading in ("KV cache", "of the full one", "decode", "right answers"):
        table.add_column(heading, justify="right")
    for report in reports:
        table.add_row(
            _name(report),
            human_bytes(report.kv_bytes),
            f"{report.kv_bytes / reports[0].kv_bytes:.1%}",
            f"{report.tokens_per_second:.1f} tokens/s",
            f"{sum(report.right)} of {len(report.right)}",
        )
    return table


def _answers(index: int, reports: list[Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for report in reports:
        verdict = "[green]right[/]" if report.right[index] else "[red]wrong[/]"
        grid.add_row(f"  {_name(report)}", verdict, escape(" ".join(report.texts[index].split())))
    return grid


def _name(report: Any) -> str:
    return "full cache" if report.variant.policy is None else f"LAVa, {report.variant.budget_label}"
