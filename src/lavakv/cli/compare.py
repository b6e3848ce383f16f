"""`lavakv compare`: one prompt, read once, through the full cache and through policies and budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lavakv.budgets.spec import DEFAULT_WINDOW
from lavakv.cli import options
from lavakv.cli.comparison import print_comparison, write_csv
from lavakv.cli.console import print_json, progress, working
from lavakv.cli.lists import names, numbers, whole_numbers
from lavakv.cli.loading import load_quietly
from lavakv.cli.prompts import read_prompt

_DEFAULT_KEEP = "0.5,0.25,0.125"


def compare(
    prompt: options.Prompt = None,
    file: options.File = None,
    model: options.ModelName = "smollm2",
    question: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", help="Compress the prompt alone and ask this afterwards; may be repeated."),
    ] = None,
    policies: Annotated[str, typer.Option(help="Policies, separated by commas, or all.")] = "lava",
    budgets: Annotated[str | None, typer.Option(help="Mean entries per KV head, such as 128,256.")] = None,
    keep: Annotated[str | None, typer.Option(help=f"Kept fractions; {_DEFAULT_KEEP} if no budgets.")] = None,
    window: options.Window = DEFAULT_WINDOW,
    positions: Annotated[int, typer.Option(min=1, help="Tokens whose distributions are compared.")] = 32,
    text: Annotated[bool, typer.Option("--text/--no-text", help="Generate answers, too.")] = True,
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
    from lavakv.evaluation.compare import Comparer, variants_of
    from lavakv.evaluation.encode import encode_parts
    from lavakv.registry import policies as known

    fractions = _DEFAULT_KEEP if budgets is None and keep is None else keep
    chosen = list(known()) if policies == "all" else names("--policies", policies)
    variants = variants_of(chosen, whole_numbers("--budgets", budgets), numbers("--keep", fractions), window)
    loaded = load_quietly(model, dtype, device, attention)
    for variant in variants:
        variant.new_cache(loaded.model.config)  # finds what is wrong before minutes are spent
    ids, asked = encode_parts(loaded.tokenizer, context, question or [], chat=chat)
    with working(f"Reading {ids.shape[1]} tokens"):
        comparer = Comparer(loaded, ids, asked, positions, max_new_tokens if text else 0)
    with progress() as bar:
        total = (len(variants) + 1) * max(len(asked), 1)
        records = list(bar.track(comparer.run(variants), total=total, description="Variants"))
    if csv is not None:
        write_csv(records, csv)
    if plot is not None:
        from lavakv.evaluation.plot import plot_divergence

        plot_divergence(records, plot)
    about: dict[str, Any] = comparer.about()
    if as_json:
        print_json({"model": model, **about, "questions": question or [], "runs": records})
    else:
        print_comparison(about, question or [], records)
