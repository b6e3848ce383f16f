"""`lavakv generate`: one prompt, one answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from lavakv.budgets.spec import BudgetSpec, check_kv_bits
from lavakv.cli import options
from lavakv.cli.checks import check_model, check_seed, check_temperature
from lavakv.cli.console import human_bytes, notes, print_json, working
from lavakv.cli.lists import fraction, tolerance
from lavakv.cli.loading import load_quietly, starting
from lavakv.cli.prompts import read_prompt
from lavakv.cli.saved_context import checked_header, dtype_for
from lavakv.errors import InputError
from lavakv.policy.names import require_policy_name, window_for

if TYPE_CHECKING:
    from lavakv.evaluation.answer import Answer, Sampling
    from lavakv.evaluation.variant import Variant
    from lavakv.eviction.saved_header import SavedHeader
    from lavakv.models.load import LoadedModel


_Context = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Ask the prompt of what lavakv compress saved, without reading it again."),
]


class _Run(NamedTuple):
    """What is about to be generated.

    Attributes:
        what: is read first, in words.
        variant: the cache's policy and budget.
        generated: gives the answer, and passes text on to its argument as it comes.
    """

    what: str
    variant: Variant
    generated: Callable[[Callable[[str], None] | None], Answer]


def generate(
    call: typer.Context,
    prompt: options.Prompt = None,
    file: options.File = None,
    model: options.ModelName = "smollm2",
    context: _Context = None,
    budget: options.Budget = None,
    keep: options.Keep = None,
    max_bytes: options.MaxBytes = None,
    kv_bits: options.KvBits = None,
    max_loss: options.MaxLoss = None,
    policy: Annotated[str, typer.Option(metavar="NAME", help="Eviction policy name.")] = "lava",
    full_cache: Annotated[bool, typer.Option("--full-cache", help="Keep everything: no compression.")] = False,
    window: options.Window = None,
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: Annotated[float, typer.Option(metavar="T", min=0.0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Random seed, used above temperature 0.")] = 0,
    chat: options.Chat = True,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    as_json: options.Json = False,
) -> None:
    """Generate text from a prompt with a compressed KV cache."""
    kept = fraction("--keep", keep)
    spec = BudgetSpec(budget, kept, max_bytes, window_for(policy, window), tolerance("--max-loss", max_loss))
    if full_cache and (budget, keep, max_bytes, kv_bits, max_loss) != (None,) * 5:
        raise InputError("--full-cache", expected="no budget beside it", got="one", fix="Give only one of them.")
    bits = check_kv_bits(kv_bits, "--kv-bits")
    check_seed(seed)
    check_temperature(temperature)
    require_policy_name(policy, "--policy")
    check_model(model, dtype, device, attention)
    header = None if context is None else checked_header(call, context, model, dtype)
    text = read_prompt(prompt, file)
    with starting():
        from lavakv.evaluation.answer import Sampling

    sampling = Sampling(max_new_tokens, temperature, seed)
    if context is not None and header is not None:
        loaded = load_quietly(model, dtype_for(header, dtype), device, attention)
        run = _of_context(loaded, context, header, text, sampling)
    else:
        from lavakv.evaluation.variant import Variant
        from lavakv.policy.registry import get_policy

        named = None if full_cache else get_policy(policy).name
        variant = Variant(None) if named is None else Variant.of(named, spec, bits)
        run = _of_prompt(load_quietly(model, dtype, device, attention), text, variant, sampling, chat=chat)
    done = _shown(run, stream=not as_json)
    if as_json:
        about = {"model": model, "policy": run.variant.label, "budget": run.variant.budget_label}
        print_json({**about, **({} if context is None else {"context": str(context)}), **done.record()})
        return
    typer.echo()
    _report(done, run.variant, "their" if context is None else "the context's")


def _of_prompt(loaded: LoadedModel, text: str, variant: Variant, sampling: Sampling, *, chat: bool) -> _Run:
    from lavakv.evaluation.answer import answer
    from lavakv.evaluation.encode import encode

    ids = encode(loaded.tokenizer, text, chat=chat)
    return _Run(f"{ids.shape[1]} tokens", variant, partial(answer, loaded, ids, variant, sampling))


def _of_context(loaded: LoadedModel, context: Path, header: SavedHeader, text: str, sampling: Sampling) -> _Run:
    from lavakv.evaluation.saved_context import ask_saved, variant_of

    return _Run("the question", variant_of(header), partial(ask_saved, loaded, context, header, text, sampling))


def _shown(run: _Run, *, stream: bool) -> Answer:
    """The answer, printed as it is generated if `stream`; a spinner shows the prefill, until the first text."""
    with ExitStack() as spinner:
        spinner.enter_context(working(f"Reading {run.what}"))

        def show(piece: str) -> None:
            spinner.close()
            typer.echo(piece, nl=False)

        return run.generated(show if stream else None)


def _report(done: Answer, variant: Variant, whose: str) -> None:
    """Print lengths, memory and speed in one line on stderr."""
    speed = "" if done.tokens_per_second is None else f", {done.tokens_per_second:.1f} tokens/s"
    kept = f"{done.kept_fraction:.1%} of {whose} entries kept"
    if variant.max_loss is not None:
        kept += f" ({done.tokens_per_head:g} tokens per head, estimated loss {done.relative_loss:.1%})"
    notes.print(
        f"{variant.label}: {done.prompt_tokens} prompt tokens, {kept}, "
        f"{human_bytes(done.kv_bytes)} KV cache; prefill {done.prefill_seconds:.1f} s{speed}",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
