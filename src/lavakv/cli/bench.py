"""`lavakv bench`: what compression costs and saves on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lavakv.budgets.spec import DEFAULT_WINDOW
from lavakv.cli import options
from lavakv.cli.bench_run import Lengths, measure, subject_of
from lavakv.cli.lists import whole_numbers

_MODEL_HELP = "Hugging Face id, directory, GGUF file, or smollm2, the default without --shape."


def bench(
    model: Annotated[str | None, typer.Option("--model", "-m", help=_MODEL_HELP)] = None,
    shape: Annotated[str | None, typer.Option(help="Random weights in a named shape, such as llama-3.1-8b.")] = None,
    tokens: Annotated[str, typer.Option(help="Prompt lengths, with commas; max is the model's limit.")] = "4096",
    budgets: Annotated[str, typer.Option(help="Mean entries per KV head, such as 256,512.")] = "512",
    batch_sizes: Annotated[str, typer.Option(help="Sequences at once, such as 1,8.")] = "1",
    policy: Annotated[str, typer.Option(help="A policy.")] = "lava",
    window: options.Window = DEFAULT_WINDOW,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of decode steps.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Decode steps of each contender in a round.")] = 8,
    prefill_rounds: Annotated[int, typer.Option(min=0, help="Timed prefills of each contender.")] = 3,
    masked: Annotated[bool, typer.Option("--masked/--no-masked", help="Masks on the full cache, too.")] = True,
    attention_part: Annotated[bool, typer.Option("--attention-part", help="A layer's attention alone, too.")] = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    out: Annotated[Path | None, typer.Option(help="New folder for results.jsonl and curves.svg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the JSON line.")] = False,
) -> None:
    """Measure prefill, time per token and memory against the full cache, a cut one and masks; one JSON line last."""
    lengths = Lengths.parsed(tokens)
    settings = {
        "budgets": tuple(whole_numbers("--budgets", budgets)),
        "batch_sizes": tuple(whole_numbers("--batch-sizes", batch_sizes)),
        "policy": policy,
        "window": window,
        "rounds": rounds,
        "steps": steps,
        "prefill_rounds": prefill_rounds,
        "masked": masked,
        "attention_part": attention_part,
    }
    lengths.check(settings)
    subject = subject_of(model, shape, dtype, device, attention)
    measure(subject, lengths.settings(subject, settings), out, quiet=as_json)
