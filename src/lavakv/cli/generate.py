"""`lavakv generate`: one prompt, one answer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lavakv.budgets.spec import DEFAULT_WINDOW, BudgetSpec
from lavakv.cli import options
from lavakv.cli.checks import check_model, check_seed, check_temperature
from lavakv.cli.console import human_bytes, notes, print_json, working
from lavakv.cli.lists import fraction, tolerance
from lavakv.cli.loading import load_quietly, starting
from lavakv.cli.prompts import read_prompt
from lavakv.errors import InputError
from lavakv.policy.names import require_policy_name

if TYPE_CHECKING:
    from lavakv.evaluation.answer import Answer, Sampling
    from lavakv.evaluation.variant import Variant


def generate(
    prompt: options.Prompt = None,
    file: options.File = None,
    model: options.ModelName = "smollm2",
    budget: Annotated[
        int | None, typer.Option(metavar="N", help="Mean entries kept per KV head (256 without a budget).")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(metavar="FRACTION", help=f"Kept fraction of the prompt, e.g. 0.25 or 25%. {options.KEEP_FLOOR}"),
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option(metavar="BYTES", help="Maximum size of keys and values, e.g. 512MiB.")
    ] = None,
    max_loss: options.MaxLoss = None,
    policy: Annotated[str, typer.Option(metavar="NAME", help="Eviction policy name.")] = "lava",
    full_cache: Annotated[bool, typer.Option("--full-cache", help="Keep everything: no compression.")] = False,
    window: options.Window = DEFAULT_WINDOW,
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
    spec = BudgetSpec(budget, kept, max_bytes, window, tolerance("--max-loss", max_loss))
    if full_cache and (budget, keep, max_bytes, max_loss) != (None, None, None, None):
        raise InputError("--full-cache", expected="no budget beside it", got="one", fix="Give only one of them.")
    check_seed(seed)
    check_temperature(temperature)
    require_policy_name(policy, "--policy")
    check_model(model, dtype, device, attention)
    text = read_prompt(prompt, file)
    with starting():
        from lavakv.evaluation.answer import Sampling
        from lavakv.evaluation.encode import encode
        from lavakv.evaluation.variant import Variant
        from lavakv.policy.registry import get_policy

    variant = Variant(None) if full_cache else Variant.of(get_policy(policy).name, spec)
    loaded = load_quietly(model, dtype, device, attention)
    ids = encode(loaded.tokenizer, text, chat=chat)
    done = _answered(loaded, ids, variant, Sampling(max_new_tokens, temperature, seed), stream=not as_json)
    if as_json:
        print_json({"model": model, "policy": variant.label, "budget": variant.budget_label, **done.record()})
        return
    typer.echo()
    _report(done, variant)


def _answered(loaded: Any, ids: Any, variant: Variant, sampling: Sampling, *, stream: bool) -> Answer:
    """The answer, printed as it is generated if `stream`; a spinner shows the prefill, until the first text."""
    from lavakv.evaluation.answer import answer

    with ExitStack() as spinner:
        spinner.enter_context(working(f"Reading {ids.shape[1]} tokens"))

        def show(piece: str) -> None:
            spinner.close()
            typer.echo(piece, nl=False)

        return answer(loaded, ids, variant, sampling, show if stream else None)


def _report(done: Answer, variant: Variant) -> None:
    """Print lengths, memory and speed in one line on stderr."""
    speed = "" if done.tokens_per_second is None else f", {done.tokens_per_second:.1f} tokens/s"
    kept = f"{done.kept_fraction:.1%} of their entries kept"
    if variant.max_loss is not None:
        kept += f" ({done.tokens_per_head:g} tokens per head, estimated loss {done.relative_loss:.1%})"
    notes.print(
        f"{variant.label}: {done.prompt_tokens} prompt tokens, {kept}, "
        f"{human_bytes(done.kv_bytes)} KV cache; prefill {done.prefill_seconds:.1f} s{speed}",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
