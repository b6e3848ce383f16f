"""Options that several commands share; defaults come from the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Prompt = Annotated[str | None, typer.Argument(help="Prompt text; read from stdin without this and --file.")]
File = Annotated[
    Path | None,
    typer.Option("--file", "-f", metavar="FILE", help="Text before the prompt, or the whole prompt; - is stdin."),
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Hugging Face id, directory, GGUF file, or smollm2 (downloaded automatically).",
    ),
]
Budget = Annotated[int | None, typer.Option(metavar="N", help="Mean entries kept per KV head (256 without a budget).")]
MaxBytes = Annotated[str | None, typer.Option(metavar="BYTES", help="Maximum size of keys and values, e.g. 512MiB.")]
KvBits = Annotated[int | None, typer.Option(metavar="BITS", help="Bits of each number behind the window: 8 or 4.")]
Policies = Annotated[str, typer.Option(metavar="LIST", help="Eviction policy names separated by commas, or all.")]
Budgets = Annotated[str | None, typer.Option(metavar="LIST", help="Mean entries per KV head, e.g. 128,256.")]
Window = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Observation window: last prompt tokens, always kept and used for scoring. "
        "32 by default, 8 with reach and reach-question.",
    ),
]
Chat = Annotated[bool, typer.Option("--chat/--no-chat", help="Use the model's chat template, if it has one.")]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", "-n", metavar="N", min=1, help="Maximum number of tokens to generate.")
]
Text = Annotated[bool, typer.Option("--text/--no-text", help="Generate answers as well.")]
Dtype = Annotated[str, typer.Option(metavar="DTYPE", help="float32, bfloat16, float16, or auto (float32 on a CPU).")]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="A torch device, e.g. cpu or cuda, or auto.")]
Attention = Annotated[
    str | None, typer.Option(metavar="NAME", help="Attention implementation, e.g. sdpa; the model's own by default.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
MaxLoss = Annotated[
    str | None,
    typer.Option(
        metavar="LOSS", help="Instead of a budget: the smallest cache whose estimated loss is at most this, e.g. 5%."
    ),
]
MaxBytesList = Annotated[
    str | None, typer.Option(metavar="LIST", help="Maximum sizes of keys and values, e.g. 16MiB,32MiB.")
]
MaxLossList = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Largest estimated losses, each in the smallest cache, e.g. 5%,20%."),
]
KEEP_FLOOR = "A sequence keeps at least window + 1 entries per head."
Keep = Annotated[
    str | None,
    typer.Option(metavar="FRACTION", help=f"Kept fraction of the prompt, e.g. 0.25 or 25%. {KEEP_FLOOR}"),
]


def question(more: str = "") -> Any:
    """The option `--question` of commands that compress a prompt alone, with more to say about it."""
    return typer.Option("--question", "-q", metavar="TEXT", help=f"Compress the prompt alone, then ask this{more}.")


def kept_fractions(default: str) -> Any:
    """The option `--keep` of commands that take many.

    Args:
        default: what holds where no budget is given, as the help says it; lines break only at spaces.
    """
    return typer.Option(
        metavar="LIST",
        help=f"Kept fractions of the prompt, e.g. 0.25 or 25%. {KEEP_FLOOR} Without any budget: {default}.",
    )


def is_given(call: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = call.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
