"""`lavakv chat`: a conversation in the terminal whose cache stays within its budget."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lavakv.budgets.limits import check_bound
from lavakv.budgets.spec import BudgetSpec, check_kv_bits
from lavakv.cli import options
from lavakv.cli.checks import check_model, check_seed, check_temperature
from lavakv.cli.console import human_bytes, notes, print_json, working
from lavakv.cli.lists import fraction
from lavakv.cli.loading import load_quietly, starting
from lavakv.cli.prompts import read_prompt
from lavakv.errors import InputError
from lavakv.policy.names import require_policy_name, window_for

if TYPE_CHECKING:
    from lavakv.evaluation.conversation import Conversation, Turn

_QUIT = ("/quit", "/exit")
_NO_BUDGET = 512


def chat(
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System message, never evicted.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="File with the system message.")
    ] = None,
    model: options.ModelName = "smollm2",
    budget: Annotated[
        int | None,
        typer.Option(metavar="N", help=f"Mean entries kept per KV head ({_NO_BUDGET} without a budget)."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(metavar="FRACTION", help=f"Kept fraction of all that was said, e.g. 25%. {options.KEEP_FLOOR}"),
    ] = None,
    max_bytes: options.MaxBytes = None,
    kv_bits: options.KvBits = None,
    max_tokens_per_head: Annotated[
        int | None,
        typer.Option(metavar="N", help="Evict inside an answer as soon as a head holds this many entries on average."),
    ] = None,
    policy: Annotated[str, typer.Option(metavar="NAME", help="Eviction policy name.")] = "lava",
    window: options.Window = None,
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: Annotated[float, typer.Option(metavar="T", min=0.0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Random seed, used above temperature 0.")] = 0,
    template: options.Chat = True,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    as_json: options.Json = False,
) -> None:
    """Chat in the terminal; after every message the cache is evicted back to its budget.

    Messages are read line by line, from the terminal or from stdin; /quit or the end of the input ends the chat. A line
    on stderr says what the cache has seen and what it holds.
    """
    kept = fraction("--keep", keep)
    if budget is None and kept is None and max_bytes is None:
        budget = _NO_BUDGET
    spec = BudgetSpec(budget, kept, max_bytes, window_for(policy, window))
    bits = check_kv_bits(kv_bits, "--kv-bits")
    check_bound(max_tokens_per_head, spec.budget)
    check_seed(seed)
    check_temperature(temperature)
    require_policy_name(policy, "--policy")
    check_model(model, dtype, device, attention)
    if system is not None and file is not None:
        raise InputError("--system", expected="a text or a file", got="both", fix="Give only one of them.")
    said = read_prompt(system, file) if system is not None or file is not None else ""
    with starting():
        from lavakv.evaluation.answer import Sampling
        from lavakv.evaluation.conversation import Conversation
        from lavakv.hf import LavaCache

    loaded = load_quietly(model, dtype, device, attention)

    def new_cache(num_system_tokens: int) -> LavaCache:
        return LavaCache(
            loaded.model.config, spec.budget, policy, window, keep=kept, max_bytes=spec.max_bytes, evict="turns",
            max_tokens_per_head=max_tokens_per_head, protect=num_system_tokens, kv_bits=bits,
        )  # fmt: skip

    conversation = Conversation(
        loaded, new_cache, Sampling(max_new_tokens, temperature, seed), chat=template, system=said
    )
    turns = [_turn(conversation, message, stream=not as_json) for message in _messages()]
    if as_json:
        print_json({"model": model, "policy": policy, "turns": [turn.record() for turn in turns]})


def _messages() -> Iterator[str]:
    """Lines of the terminal or of stdin, blank ones left out, until one of them ends the chat."""
    while True:
        if sys.stdin is not None and sys.stdin.isatty():
            notes.print("> ", end="", style="bold")
        line = sys.stdin.readline() if sys.stdin is not None and not sys.stdin.closed else ""
        if not line or line.strip() in _QUIT:
            return
        if line.strip():
            yield line.strip()


def _turn(conversation: Conversation, message: str, *, stream: bool) -> Turn:
    """Ask, print the answer as it comes if `stream`, and say on stderr what the cache holds."""
    with ExitStack() as spinner:
        spinner.enter_context(working("Reading"))

        def show(piece: str) -> None:
            spinner.close()
            typer.echo(piece, nl=False)

        turn = conversation.ask(message, show if stream else None)
    if stream:
        typer.echo()
    notes.print(
        f"{turn.tokens_seen} tokens seen, {turn.tokens_per_head:.0f} per head held "
        f"({turn.tokens_per_head / turn.tokens_seen:.0%}), {human_bytes(turn.kv_bytes)}; "
        f"first token after {turn.first_token_seconds:.1f} s",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    return turn
