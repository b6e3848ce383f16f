"""`lavakv compress`: a text is read once, and kept compressed in a file that questions can be asked of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lavakv.budgets.spec import BudgetSpec, check_kv_bits
from lavakv.cli import options
from lavakv.cli.checks import check_model
from lavakv.cli.console import human_bytes, notes, print_json, results, working
from lavakv.cli.lists import fraction, tolerance
from lavakv.cli.loading import load_quietly, starting
from lavakv.cli.prompts import read_prompt
from lavakv.files import require_writable
from lavakv.policy.names import require_policy_name, window_for

if TYPE_CHECKING:
    from lavakv.evaluation.saved_context import Compressed
    from lavakv.evaluation.variant import Variant


def compress(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Text to compress; - is stdin.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Output file, e.g. ctx.safetensors.")],
    model: options.ModelName = "smollm2",
    budget: options.Budget = None,
    keep: options.Keep = None,
    max_bytes: options.MaxBytes = None,
    max_loss: options.MaxLoss = None,
    kv_bits: options.KvBits = None,
    policy: Annotated[
        str, typer.Option(metavar="NAME", help="Eviction policy name; the default suits questions that come later.")
    ] = "reach",
    window: options.Window = None,
    chat: options.Chat = True,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    as_json: options.Json = False,
) -> None:
    """Compress a text into a file, to ask questions of it with `lavakv generate --context` without reading it again."""
    kept = fraction("--keep", keep)
    spec = BudgetSpec(budget, kept, max_bytes, window_for(policy, window), tolerance("--max-loss", max_loss))
    bits = check_kv_bits(kv_bits, "--kv-bits")
    require_policy_name(policy, "--policy")
    check_model(model, dtype, device, attention)
    require_writable("--out", out, make_folder=True)
    text = read_prompt(None, file, "FILE")
    with starting():
        from lavakv.evaluation.saved_context import compress_text, save_text
        from lavakv.evaluation.variant import Variant
        from lavakv.policy.registry import get_policy

    variant = Variant.of(get_policy(policy).name, spec, bits)
    loaded = load_quietly(model, dtype, device, attention)
    with working(f"Reading {file}"):
        done = compress_text(loaded, text, variant, chat=chat)
        save_text(done, out, model, chat=chat)
    if as_json:
        print_json({"file": str(out), "model": model, **_record(done, variant), "file_bytes": out.stat().st_size})
        return
    results.print(str(out), style="bold", highlight=False, markup=False, soft_wrap=True)
    _report(done, variant, out)


def _record(done: Compressed, variant: Variant) -> dict[str, object]:
    """What was compressed how, ready for JSON."""
    about = {name: value for name, value in done._asdict().items() if name != "cache"}
    return {"policy": variant.label, "budget": variant.budget_label, **about}


def _report(done: Compressed, variant: Variant, out: Path) -> None:
    """Print lengths, memory and time in one line on stderr."""
    notes.print(
        f"{variant.label}: {done.tokens} tokens, {done.kept_fraction:.1%} of their entries kept, "
        f"{human_bytes(done.kv_bytes)} KV cache, {human_bytes(out.stat().st_size)} file; {done.seconds:.1f} s",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
