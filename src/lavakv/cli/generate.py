"""`lavakv generate`: one prompt, one answer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lavakv.budgets.spec import DEFAULT_WINDOW, BudgetSpec
from lavakv.cli import options
from lavakv.cli.console import human_bytes, notes, print_json, working
from lavakv.cli.loading import load_quietly
from lavakv.cli.prompts import read_prompt
from lavakv.errors import InputError


def generate(
    prompt: options.Prompt = None,
    file: options.File = None,
    model: options.ModelName = "smollm2",
    budget: Annotated[int | None, typer.Option(help="Mean entries per KV head (256 if no other way is used).")] = None,
    keep: Annotated[float | None, typer.Option(help="Instead: the kept fraction of the prompt, 0.25 say.")] = None,
    max_bytes: Annotated[str | None, typer.Option(help="Instead: bytes for keys and values, 512MiB say.")] = None,
    policy: Annotated[str, typer.Option(help="How to choose what stays: a name from `lavakv.policies()`.")] = "lava",
    full_cache: Annotated[bool, typer.Option("--full-cache", help="Keep everything: no compression.")] = False,
    window: options.Window = DEFAULT_WINDOW,
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the random numbers, above temperature 0.")] = 0,
    chat: options.Chat = True,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    as_json: options.Json = False,
) -> None:
    """Generate text from a prompt with a compressed KV cache."""
    spec = BudgetSpec(budget, keep, max_bytes, window)
    if full_cache and (budget, keep, max_bytes) != (None, None, None):
        raise InputError("--full-cache", expected="no budget beside it", got="one", fix="Leave one of them out.")
    text = read_prompt(prompt, file)
    from lavakv.evaluation.answer import Sampling, answer
    from lavakv.evaluation.encode import encode
    from lavakv.evaluation.variant import Variant
    from lavakv.registry import get_policy

    variant = Variant(None) if full_cache else Variant(get_policy(policy).name, budget, keep, spec.max_bytes, window)
    loaded = load_quietly(model, dtype, device, attention)
    ids = encode(loaded.tokenizer, text, chat=chat)
    sampling = Sampling(max_new_tokens, temperature, seed)
    if as_json:
        with working(f"Reading {ids.shape[1]} tokens"):
            done = answer(loaded, ids, variant, sampling)
        print_json({"model": model, "policy": variant.label, "budget": variant.budget_label, **done.record()})
        return
    done = answer(loaded, ids, variant, sampling, lambda piece: typer.echo(piece, nl=False))
    typer.echo()
    _report(done, variant)


def _report(done: Any, variant: Any) -> None:
    """One line on stderr about what it took."""
    speed = "" if done.tokens_per_second is None else f", {done.tokens_per_second:.1f} tokens/s"
    notes.print(
        f"{variant.label}: {done.prompt_tokens} prompt tokens, {done.kept_fraction:.1%} of their entries kept, "
        f"{human_bytes(done.kv_bytes)} KV cache; prefill {done.prefill_seconds:.1f} s{speed}",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
