"""`lavakv bench`: what compression costs and saves on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lavakv.cli import options
from lavakv.cli.bench_run import Lengths, check_out, check_subject, measure, subject_of
from lavakv.cli.lists import whole_numbers
from lavakv.policy.names import require_policy_name

_MODEL_HELP = "Hugging Face id, directory, GGUF file, or smollm2 (the default without --shape)."

_Generate = Annotated[
    bool, typer.Option("--generate/--no-generate", help="Also measure model.generate, in CUDA graphs on a GPU.")
]
_NewTokens = Annotated[int, typer.Option(metavar="N", min=1, help="Tokens whose time in generate is measured.")]
_Compiled = Annotated[
    bool, typer.Option("--compiled", help="Also measure generate with compilation; on a GPU, minutes.")
]
_Seconds = Annotated[
    float | None, typer.Option(metavar="S", help="Time limit: what would take longer is skipped and named.")
]


def bench(
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="MODEL", help=_MODEL_HELP)] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="NAME", help="Random weights in a named shape, e.g. llama-3.1-8b.")
    ] = None,
    tokens: Annotated[
        str, typer.Option(metavar="LIST", help="Prompt lengths, e.g. 1024,4096; max is the model's limit.")
    ] = "4096",
    budgets: Annotated[str, typer.Option(metavar="LIST", help="Mean entries per KV head, e.g. 256,512.")] = "512",
    batch_sizes: Annotated[str, typer.Option(metavar="LIST", help="Sequences per batch, e.g. 1,8.")] = "1",
    policy: Annotated[str, typer.Option(metavar="NAME", help="Eviction policy name.")] = "lava",
    window: options.Window = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Rounds of decode steps.")] = 7,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Decode steps of each cache in a round.")] = 8,
    prefill_rounds: Annotated[int, typer.Option(metavar="N", min=0, help="Timed prefills of each cache.")] = 3,
    masked: Annotated[bool, typer.Option("--masked/--no-masked", help="Also measure masks on the full cache.")] = True,
    attention_part: Annotated[
        bool, typer.Option("--attention-part", help="Also measure a layer's attention alone.")
    ] = False,
    generate: _Generate = True,
    new_tokens: _NewTokens = 32,
    compiled: _Compiled = False,
    seconds: _Seconds = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New folder for results.jsonl and curves.svg.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the JSON line.")] = False,
) -> None:
    """Measure prefill, time per token and memory of a compressed cache against the full one; one JSON line last."""
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
        "generate": generate,
        "new_tokens": new_tokens,
        "compiled": compiled,
        "seconds": seconds,
    }
    require_policy_name(policy, "--policy")
    check_subject(model, shape, (dtype, device, attention))
    lengths.check(settings, shape)
    check_out(out)
    subject = subject_of(model, shape, dtype, device, attention)
    measure(subject, lengths.settings(subject, settings), out, quiet=as_json)
