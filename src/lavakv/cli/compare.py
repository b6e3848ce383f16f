"""`lavakv compare`: one prompt through the full cache and through policies and budgets."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from lavakv.budgets.spec import DEFAULT_WINDOW
from lavakv.cli import options
from lavakv.cli.console import human_bytes, print_json, progress, results
from lavakv.cli.lists import names, numbers, whole_numbers
from lavakv.cli.loading import load_quietly
from lavakv.cli.prompts import read_prompt

_DEFAULT_KEEP = "0.5,0.25,0.125"
_WIDE = 120


def compare(
    prompt: options.Prompt = None,
    file: options.File = None,
    model: options.ModelName = "smollm2",
    policies: Annotated[str, typer.Option(help="Policies, separated by commas.")] = "lava",
    budgets: Annotated[str | None, typer.Option(help="Mean entries per KV head, such as 128,256.")] = None,
    keep: Annotated[str | None, typer.Option(help=f"Kept fractions; {_DEFAULT_KEEP} if no budgets.")] = None,
    window: options.Window = DEFAULT_WINDOW,
    max_new_tokens: options.MaxNewTokens = 64,
    chat: options.Chat = True,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    as_json: options.Json = False,
) -> None:
    """Compare answers, memory and speed of the full cache with those of policies and budgets."""
    text = read_prompt(prompt, file)
    from lavakv.evaluation.answer import Sampling, answer
    from lavakv.evaluation.encode import encode
    from lavakv.evaluation.variant import Variant
    from lavakv.policy import get_policy

    sizes: list[dict[str, Any]] = [{"budget": n} for n in whole_numbers("--budgets", budgets)]
    fractions = _DEFAULT_KEEP if budgets is None and keep is None else keep
    sizes += [{"keep": fraction} for fraction in numbers("--keep", fractions)]
    chosen = [get_policy(name).name for name in names("--policies", policies)]
    variants = [Variant(None), *(Variant(name, window=window, **size) for name in chosen for size in sizes)]
    loaded = load_quietly(model, dtype, device, attention)
    for variant in variants:
        variant.new_cache(loaded.model.config)  # finds what is wrong before minutes are spent
    ids = encode(loaded.tokenizer, text, chat=chat)
    records = []
    with progress() as bar:
        for variant in bar.track(variants, description=f"{ids.shape[1]} tokens"):
            done = answer(loaded, ids, variant, Sampling(max_new_tokens))
            records.append({"policy": variant.label, "budget": variant.budget_label, **done.record()})
            del done
    if as_json:
        print_json({"model": model, "runs": records})
        return
    wide = results.width >= _WIDE
    results.print(_table(records, with_answers=wide))
    if not wide:
        results.print(_answers(records))


def _table(records: list[dict[str, Any]], with_answers: bool) -> Table:
    table = Table(title=f"{records[0]['prompt_tokens']} prompt tokens")
    table.add_column("policy", overflow="fold")
    for heading in ("budget", "kept entries", "kept", "KV cache", "prefill", "decode"):
        table.add_column(heading, justify="right")
    if with_answers:
        table.add_column("answer", ratio=1, overflow="fold")
    for record in records:
        speed = record["tokens_per_second"]
        cells = [
            record["policy"],
            record["budget"],
            f"{record['kept_entries']:,}",
            f"{record['kept_fraction']:.1%}",
            human_bytes(record["kv_bytes"]),
            f"{record['prefill_seconds']:.2f} s",
            "-" if speed is None else f"{speed:.1f} tok/s",
        ]
        table.add_row(*cells, *([_answer(record)] if with_answers else []))
    return table


def _answers(records: list[dict[str, Any]]) -> Table:
    """The answers on their own, for terminals too narrow for a column more."""
    grid = Table.grid(padding=(0, 2))
    for record in records:
        grid.add_row(record["policy"], record["budget"], _answer(record))
    return grid


def _answer(record: dict[str, Any]) -> str:
    return escape(" ".join(record["text"].split()))
