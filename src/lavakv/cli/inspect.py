"""`lavakv inspect`: a page that shows which tokens of a prompt survive, in which layers and heads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lavakv.cli import options
from lavakv.cli.checks import check_model, check_questions
from lavakv.cli.console import print_json, progress, results, working
from lavakv.cli.loading import starting
from lavakv.cli.prompts import read_prompt
from lavakv.cli.variants import fitting, load_for, parse_variants
from lavakv.files import require_writable, write_output

_DEFAULT_KEEP = "75%,50%,35%,25%,18%,12.5%,9%,6.25%"


def inspect(
    prompt: options.Prompt = None,
    file: options.File = None,
    model: options.ModelName = "smollm2",
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Output HTML page.")] = Path("inspect.html"),
    question: Annotated[str | None, options.question()] = None,
    policies: options.Policies = "lava,snapkv",
    budgets: options.Budgets = None,
    keep: Annotated[str | None, options.kept_fractions(_DEFAULT_KEEP.replace(",", ", "))] = None,
    max_bytes: options.MaxBytesList = None,
    max_loss: options.MaxLossList = None,
    window: options.Window = None,
    text: options.Text = True,
    max_new_tokens: options.MaxNewTokens = 32,
    chat: options.Chat = True,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    as_json: options.Json = False,
) -> None:
    """Write a page that shows which tokens of a prompt survive: by token, layer, head, policy and budget."""
    from lavakv.report.page import as_bytes, require_jinja

    variants = parse_variants(policies, budgets, keep, _DEFAULT_KEEP, window, max_bytes, max_loss)
    check_questions([] if question is None else [question])
    check_model(model, dtype, device, attention)
    require_jinja("lavakv inspect")
    require_writable("--out", out, make_folder=True)
    context = read_prompt(prompt, file)
    with starting():
        from lavakv.evaluation.encode import encode_parts
        from lavakv.report.survival.document import inspection_page
        from lavakv.report.survival.inspection import Inspector

    loaded, variants = load_for(variants, policies, model, dtype, device, attention)
    ids, asked = encode_parts(loaded.tokenizer, context, [] if question is None else [question], chat=chat)
    variants = fitting(variants, ids.shape[1], policies, loaded.model.config)
    with working(f"Reading {ids.shape[1]} tokens"):
        inspector = Inspector(loaded, ids, asked[0] if asked else None, max_new_tokens if text else 0)
    with progress() as bar:
        found = list(bar.track(inspector.run(variants), total=len(variants), description="Policies and budgets"))
    page = inspection_page(inspector, found, model, min(variant.window_tokens for variant in variants))
    write_output("--out", out, as_bytes(page), make_folder=True)
    if as_json:
        shares = [{"policy": one.policy, "budget": one.budget, "kept_fraction": one.kept_fraction} for one in found]
        print_json({"file": str(out), "model": model, "prompt_tokens": int(ids.shape[1]), "variants": shares})
    else:
        results.print(str(out), style="bold", highlight=False, markup=False, soft_wrap=True)
