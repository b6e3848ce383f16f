"""`lavakv inspect`: a page that shows which tokens of a prompt survive, in which layers and heads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lavakv.budgets.spec import DEFAULT_WINDOW
from lavakv.cli import options
from lavakv.cli.console import print_json, progress, results, working
from lavakv.cli.lists import names, numbers, whole_numbers
from lavakv.cli.loading import load_quietly
from lavakv.cli.prompts import read_prompt

_DEFAULT_KEEP = "0.75,0.5,0.35,0.25,0.18,0.125,0.09,0.0625"


def inspect(
    prompt: options.Prompt = None,
    file: options.File = None,
    model: options.ModelName = "smollm2",
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("inspect.html"),
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="Compress the prompt alone and ask this afterwards.")
    ] = None,
    policies: Annotated[str, typer.Option(help="Policies, separated by commas, or all.")] = "lava,snapkv",
    budgets: Annotated[str | None, typer.Option(help="Mean entries per KV head, such as 128,256.")] = None,
    keep: Annotated[str | None, typer.Option(help=f"Kept fractions; {_DEFAULT_KEEP} if no budgets.")] = None,
    window: options.Window = DEFAULT_WINDOW,
    text: Annotated[bool, typer.Option("--text/--no-text", help="Generate answers, too.")] = True,
    max_new_tokens: options.MaxNewTokens = 32,
    chat: options.Chat = True,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    as_json: options.Json = False,
) -> None:
    """Write a page in which you see what survives of one prompt: by token, layer, head, policy and budget."""
    context = read_prompt(prompt, file)
    from lavakv.evaluation.compare import variants_of
    from lavakv.evaluation.encode import encode_parts
    from lavakv.registry import policies as known
    from lavakv.report.page import require_writable, write
    from lavakv.report.survival.document import inspection_page
    from lavakv.report.survival.inspection import Inspector

    fractions = _DEFAULT_KEEP if budgets is None and keep is None else keep
    chosen = list(known()) if policies == "all" else names("--policies", policies)
    variants = variants_of(chosen, whole_numbers("--budgets", budgets), numbers("--keep", fractions), window)
    require_writable(out)
    loaded = load_quietly(model, dtype, device, attention)
    for variant in variants:
        variant.new_cache(loaded.model.config)  # finds what is wrong before minutes are spent
    ids, asked = encode_parts(loaded.tokenizer, context, [] if question is None else [question], chat=chat)
    with working(f"Reading {ids.shape[1]} tokens"):
        inspector = Inspector(loaded, ids, asked[0] if asked else None, max_new_tokens if text else 0)
    with progress() as bar:
        found = list(bar.track(inspector.run(variants), total=len(variants), description="Policies and budgets"))
    write(out, inspection_page(inspector, found, model, window))
    if as_json:
        shares = [{"policy": one.policy, "budget": one.budget, "kept_fraction": one.kept_fraction} for one in found]
        print_json({"file": str(out), "model": model, "prompt_tokens": int(ids.shape[1]), "variants": shares})
    else:
        results.print(str(out), style="bold", highlight=False, markup=False, soft_wrap=True)
