"""`lavakv compare`: one prompt, read once, through the full cache and through policies and budgets."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from lavakv.budgets.spec import DEFAULT_WINDOW
from lavakv.cli import options
from lavakv.cli.comparison import print_comparison, write_csv
from lavakv.cli.console import print_json, progress, working
from lavakv.cli.prompts import read_prompt
from lavakv.cli.variants import asked_variants, load_for
from lavakv.errors import InputError
from lavakv.files import require_writable

_DEFAULT_KEEP = "0.5,0.25,0.125"


def compare(
    prompt: options.Prompt = None,
    file: options.File = None,
    model: options.ModelName = "smollm2",
    question: Annotated[list[str] | None, options.question("; may be repeated")] = None,
    policies: options.Policies = "lava",
    budgets: options.Budgets = None,
    keep: Annotated[str | None, options.kept_fractions(_DEFAULT_KEEP)] = None,
    window: options.Window = DEFAULT_WINDOW,
    positions: Annotated[int, typer.Option(min=1, help="Tokens whose distributions are compared.")] = 32,
    text: options.Text = True,
    max_new_tokens: options.MaxNewTokens = 64,
    chat: options.Chat = True,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    csv: Annotated[Path | None, typer.Option(help="Write the rows here, too.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw KL divergence against kept fraction here.")] = None,
    as_json: options.Json = False,
) -> None:
    """Compare policies and budgets with the full cache: KL divergence, answers, memory, speed; from one prefill."""
    context = read_prompt(prompt, file)
    from lavakv.evaluation.compare import Comparer
    from lavakv.evaluation.encode import encode_parts
    from lavakv.evaluation.plot import plot_divergence

    _require_files(csv, plot)
    variants = asked_variants(policies, budgets, keep, _DEFAULT_KEEP, window)
    loaded = load_for(variants, model, dtype, device, attention)
    ids, asked = encode_parts(loaded.tokenizer, context, question or [], chat=chat)
    with working(f"Reading {ids.shape[1]} tokens"):
        comparer = Comparer(loaded, ids, asked, positions, max_new_tokens if text else 0)
    with progress() as bar:
        total = (len(variants) + 1) * max(len(asked), 1)
        records = list(bar.track(comparer.run(variants), total=total, description="Variants"))
    about: dict[str, Any] = comparer.about()
    with ExitStack() as each:  # is tried, whatever becomes of the others: the work is done
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
    from lavakv.evaluation.plot import require_plottable

    if csv is not None:
        require_writable("--csv", csv)
    if plot is not None:
        require_plottable(plot)
    if csv is not None and plot is not None and csv.resolve() == plot.resolve():
        raise InputError("--plot", expected="another file than --csv", got=str(plot), fix="Rename one of them.")
