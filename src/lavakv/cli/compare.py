"""`lavakv compare`: one prompt, read once, through the full cache and through policies and budgets."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from lavakv.cli import options
from lavakv.cli.checks import check_model, check_questions
from lavakv.cli.comparison import print_comparison, write_csv
from lavakv.cli.console import print_json, progress, working
from lavakv.cli.loading import starting
from lavakv.cli.prompts import read_prompt
from lavakv.cli.variants import fitting, load_for, parse_variants
from lavakv.errors import InputError
from lavakv.files import require_writable

_DEFAULT_KEEP = "50%,25%,12.5%"


def compare(
    prompt: options.Prompt = None,
    file: options.File = None,
    model: options.ModelName = "smollm2",
    question: Annotated[list[str] | None, options.question("; can be repeated")] = None,
    policies: options.Policies = "lava",
    budgets: options.Budgets = None,
    keep: Annotated[str | None, options.kept_fractions(_DEFAULT_KEEP.replace(",", ", "))] = None,
    max_bytes: options.MaxBytesList = None,
    max_loss: options.MaxLossList = None,
    window: options.Window = None,
    positions: Annotated[
        int, typer.Option(metavar="N", min=1, help="Next-token distributions that are compared.")
    ] = 32,
    text: options.Text = True,
    max_new_tokens: options.MaxNewTokens = 64,
    chat: options.Chat = True,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the rows as CSV.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also plot KL divergence against kept fraction.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare policies and budgets with the full cache: KL divergence, answers, memory and speed, from one prefill."""
    _require_files(csv, plot)
    variants = parse_variants(policies, budgets, keep, _DEFAULT_KEEP, window, max_bytes, max_loss)
    check_questions(question or [])
    check_model(model, dtype, device, attention)
    context = read_prompt(prompt, file)
    with starting():
        from lavakv.evaluation.compare import Comparer
        from lavakv.evaluation.encode import encode_parts
        from lavakv.evaluation.same_entries import notes_on_budgets, with_same_entries
        from lavakv.report.divergence import plot_divergence

    loaded, variants = load_for(variants, policies, model, dtype, device, attention)
    ids, asked = encode_parts(loaded.tokenizer, context, question or [], chat=chat)
    variants = fitting(variants, ids.shape[1], policies, loaded.model.config)
    with working(f"Reading {ids.shape[1]} tokens"):
        comparer = Comparer(loaded, ids, asked, positions, max_new_tokens if text else 0)
    with progress() as bar:
        total = (len(variants) + 1) * max(len(asked), 1)
        found = list(bar.track(comparer.run(variants), total=total, description="Variants"))
    records = with_same_entries(found, variants, comparer.num_tokens)
    about: dict[str, Any] = {**comparer.about(), "notes": notes_on_budgets(records, comparer.num_tokens)}
    with ExitStack() as each:  # every output is tried, even if another cannot be written
        if plot is not None:
            each.callback(plot_divergence, records, plot)
        if csv is not None:
            each.callback(write_csv, records, csv)
        if as_json:
            print_json({"model": model, **about, "questions": question or [], "runs": records})
        else:
            print_comparison(about, question or [], records)


def _require_files(csv: Path | None, plot: Path | None) -> None:
    """Find out before the work whether both can be written."""
    from lavakv.report.divergence import require_plottable

    if csv is not None:
        require_writable("--csv", csv)
    if plot is not None:
        require_plottable(plot)
    if csv is not None and plot is not None and csv.resolve() == plot.resolve():
        raise InputError("--plot", expected="another file than --csv", got=str(plot), fix="Rename one of them.")
