"""Options that several commands share; defaults come from the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lavakv.budgets.spec import DEFAULT_WINDOW

Prompt = Annotated[str | None, typer.Argument(help="The prompt; read from stdin if neither it nor --file is given.")]
File = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="Text to put before the prompt, or the whole prompt; - is stdin."),
]
ModelName = Annotated[
    str, typer.Option("--model", "-m", help="Hugging Face id, directory, GGUF file, or smollm2, which fetches itself.")
]
Policies = Annotated[str, typer.Option(help="Policies, separated by commas, or all.")]
Budgets = Annotated[str | None, typer.Option(help="Mean entries per KV head, such as 128,256.")]
Window = Annotated[int, typer.Option(help=f"Last prompt tokens: always kept, and they score ({DEFAULT_WINDOW}).")]
Chat = Annotated[bool, typer.Option("--chat/--no-chat", help="Use the model's chat template, if it has one.")]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Most tokens to generate.")]
Text = Annotated[bool, typer.Option("--text/--no-text", help="Generate answers, too.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: float32 on a CPU.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ..., or auto.")]
Attention = Annotated[str | None, typer.Option(help="sdpa, eager, ...; the model's default if not given.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def question(more: str = "") -> Any:
    """The option `--question` of commands that compress a prompt alone, with more to say about it."""
    return typer.Option("--question", "-q", help=f"Compress the prompt alone and ask this afterwards{more}.")


def kept_fractions(default: str) -> Any:
    """The option `--keep` of commands that take many, with what holds where nothing is given."""
    return typer.Option(help=f"Kept fractions of the prompt. Without any budget: {default}.")
