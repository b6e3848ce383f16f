"""How well estimates of the loss order real divergence: rank correlations with the KL from the full cache.

Prompts and modes are those of `kl.py`. Each prompt is read once and compressed by each policy to several fractions and
budgets; what is evicted gives the estimates, the full cache's own continuation the KL. Estimates, all of them worked
out from the window's attention and the values:

- bound: evicted attention times the head's largest value norm, over that of evicting everything before the window
- layer mean: the same ratio of each layer, averaged
- absolute: the bound itself
- mass: evicted attention, averaged over heads and layers
- own values: evicted attention times the entry's own value norm, over that of evicting everything
- over stream: the bound of each layer over the norm of its residual stream, over that of evicting everything
- outputs: change of the window's attention outputs, over their norms, averaged; a pass over the window's
  attention for each budget, so it is what the window could tell rather than a candidate

Correlations are Spearman's: over prompts at equal budgets (the mean over budgets), and over budgets within prompts (the
mean over prompts). With `--max-loss`, budgets that a tolerance leads to are compared with their mean as one fraction
kept of all prompts: geometric mean and spread of the KL over prompts, for the fraction interpolated in each prompt.

    python benchmarks/loss_estimate.py data/*.jsonl --half choose --limit 40 --out estimates.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from kl import MIN_NATS, MODES, prompts, read, truncated
from torch import Tensor

from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from lavakv.hf import LavaCache
from lavakv.models.load import load
from lavakv.scoring.lava import eviction_loss
from lavakv.scoring.window import ScoringWindow

WINDOW = 32
Row = dict[str, Any]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="none: only the table of what --out holds")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--half", choices=["choose", "report"], default="choose")
    parser.add_argument("--limit", type=int, default=40, help="number of prompts, drawn from the files in turns")
    parser.add_argument("--policies", default="lava,residual-max")
    parser.add_argument("--keep", default="0.5,0.25,0.125,0.0625")
    parser.add_argument("--budgets", default="64,128,256")
    parser.add_argument("--max-loss", default="0.1,0.2,0.3", help="tolerances, empty for none")
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--positions", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    """Measure the prompts that the output file does not hold yet."""
    loaded = load(options.model, dtype="float32", device="cpu")
    sizes: list[dict[str, Any]] = [{"keep": float(keep)} for keep in options.keep.split(",")]
    sizes += [{"budget": int(budget)} for budget in options.budgets.split(",")]
    sizes += [{"max_loss": float(loss)} for loss in options.max_loss.split(",") if loss]
    variants = [Variant(name, window=WINDOW, **size) for name in options.policies.split(",") for size in sizes]
    done = {(row["prompt"], row["mode"], row["policy"], row["budget"]) for row in read(options.out)}
    for prompt in prompts(options):
        names = [(prompt.name, mode, each.label, each.budget_label) for mode in MODES for each in variants]
        if done.issuperset(names):
            continue
        ids = truncated(loaded.tokenizer, prompt.context, options.tokens)
        asked = loaded.tokenizer("\n\n" + prompt.question, return_tensors="pt", add_special_tokens=False).input_ids
        aware = Sweep(loaded.model, torch.cat([ids, asked], dim=1), num_positions=options.positions)
        for mode, sweep in zip(MODES, (aware, aware.asked_later(ids.shape[1])), strict=True):
            open_ = [v for v in variants if (prompt.name, mode, v.label, v.budget_label) not in done]
            rows = measured(sweep, open_)
            about = {"prompt": prompt.name, "mode": mode, "tokens": sweep.num_tokens}
            with options.out.open("a") as out:
                out.writelines(json.dumps({**about, **row}) + "\n" for row in rows)
        print(f"{prompt.name}: {ids.shape[1]} + {asked.shape[1]} tokens", flush=True)


def measured(sweep: Sweep, variants: Sequence[Variant]) -> list[Row]:
    """KL and estimates of each variant that evicts anything."""
    rows = []
    for compared in sweep.run([each for each in variants if (each.budget or 0) < sweep.num_tokens]):
        cache = sweep.filled(compared.variant)
        windows = [sweep.recording.layers[index].windows[WINDOW] for index in cache.layer_indices]
        evicted = [_evicted(cache, layer, one) for layer, one in zip(cache.layer_indices, windows, strict=True)]
        record = compared.record()
        about = {name: record[name] for name in ("policy", "budget", "kl_nats", "kept_fraction")}
        rows.append({**about, "estimates": estimates(windows, evicted)})
    return rows


def _evicted(cache: LavaCache, layer: int, window: ScoringWindow) -> Tensor:
    """Which candidates of a layer are gone, bool `[H, n]`."""
    gone = torch.ones(window.queries.shape[0], window.num_tokens, dtype=torch.bool)
    for head, row in enumerate(gone):
        row[cache.kept_positions(layer, 0, head)] = False
    return gone[:, : window.num_evictable]


@torch.no_grad()
def estimates(windows: Sequence[ScoringWindow], evicted: Sequence[Tensor]) -> dict[str, float]:
    """Each estimate by name.

    Args:
        windows: one a layer.
        evicted: bool `[H, n]` each.
    """
    pairs = list(zip(windows, evicted, strict=True))
    losses, own = [eviction_loss(window) for window in windows], [_own_values(window) for window in windows]
    assert all(window.residual_norms is not None for window in windows)
    over = [loss / window.residual_norms.mean() for loss, window in zip(losses, windows, strict=True)]  # type: ignore[union-attr]
    return {
        "bound": _share(losses, evicted),
        "layer mean": _mean(_share([loss], [gone]) for loss, gone in zip(losses, evicted, strict=True)),
        "absolute": sum(float(loss[gone].sum()) for loss, gone in zip(losses, evicted, strict=True)),
        "mass": _mean(_mass(window, gone) for window, gone in pairs),
        "own values": _share(own, evicted),
        "over stream": _share(over, evicted),
        "outputs": _mean(_outputs(window, gone) for window, gone in pairs),
    }


def _own_values(window: ScoringWindow) -> Tensor:
    """`[H, n]`."""
    return window.mean_attention.amax(dim=1) * window.value_norms[:, : window.num_evictable]


def _mass(window: ScoringWindow, gone: Tensor) -> float:
    return float((window.mean_attention * gone[:, None]).sum(dim=-1).mean())


def _outputs(window: ScoringWindow, gone: Tensor) -> float:
    """Change of the outputs when what is left is normalised again, over their norms."""
    attention, values = window.attention, torch.cat(list(window.values), dim=1).float()[:, None]
    left = attention.clone()
    left[..., : window.num_evictable].masked_fill_(gone[:, None, None], 0)
    before, after = attention @ values, left @ values / left.sum(dim=-1, keepdim=True)
    return float((before - after).norm() / before.norm())


def _share(losses: Sequence[Tensor], evicted: Sequence[Tensor]) -> float:
    """What is evicted over all, summed over layers."""
    gone = sum(float(loss[own].double().sum()) for loss, own in zip(losses, evicted, strict=True))
    return gone / sum(float(loss.double().sum()) for loss in losses)


def _mean(numbers: Iterable[float]) -> float:
    found = list(numbers)
    return sum(found) / len(found)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation; ties share their mean rank."""
    ranks = torch.tensor([_ranks(first), _ranks(second)], dtype=torch.float64)
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(numbers: Sequence[float]) -> list[float]:
    return [
        sum(other < number for other in numbers) + (sum(other == number for other in numbers) - 1) / 2
        for number in numbers
    ]


def grouped(rows: Iterable[Row], by: Callable[[Row], Any], name: str) -> float:
    """Mean rank correlation of an estimate with the KL over groups of rows."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[by(row)].append(row)
    return _mean(
        spearman([row["estimates"][name] for row in group], [row["kl_nats"] for row in group])
        for group in groups.values()
        if len(group) > 3
    )


def summarise(options: argparse.Namespace) -> None:
    """A table a mode and policy."""
    everything = read(options.out)
    fraction_of = {Variant("lava", keep=float(keep)).budget_label: float(keep) for keep in options.keep.split(",")}
    for mode in MODES:
        for policy in options.policies.split(","):
            rows = [row for row in everything if (row["mode"], row["policy"]) == (mode, policy)]
            fractions = [{**row, "keep": fraction_of[row["budget"]]} for row in rows if row["budget"] in fraction_of]
            counts = [row for row in rows if row["budget"].isdigit()]
            tolerances = [row for row in rows if row["budget"].startswith("loss")]
            print(f"{mode}, {policy}: {len({row['prompt'] for row in rows})} prompts")
            print(f"{'estimate':12} {'fractions':>10} {'budgets':>10} {'in prompts':>10}")
            for name in rows[0]["estimates"]:
                found = [grouped(some, lambda row: row["budget"], name) for some in (fractions, counts)]
                found.append(grouped(fractions + counts, lambda row: row["prompt"], name))
                print(f"{name:12}", *(f"{number:10.2f}" for number in found))
            for budget in dict.fromkeys(row["budget"] for row in tolerances):
                against_fraction([row for row in tolerances if row["budget"] == budget], fractions)


def against_fraction(rows: Sequence[Row], fractions: Sequence[Row]) -> None:
    """One line: a tolerance, and the fraction of the same size."""
    kept = [row["kept_fraction"] for row in rows]
    plain = [_at_fraction(row["prompt"], _mean(kept), fractions) for row in rows]
    found = [math.log(max(row["kl_nats"], MIN_NATS)) for row in rows]
    print(
        f"{rows[0]['budget']}: kept {_mean(kept):.1%} ({min(kept):.1%} to {max(kept):.1%}), KL {_told(found)}; "
        f"that fraction of each: KL {_told(plain)}"
    )


def _at_fraction(prompt: str, kept: float, fractions: Sequence[Row]) -> float:
    """Logarithm of a prompt's KL at a kept fraction, in a line between the measured ones, both as logarithms."""
    own = [row for row in fractions if row["prompt"] == prompt]
    points = sorted((math.log(row["keep"]), math.log(max(row["kl_nats"], MIN_NATS))) for row in own)
    place = math.log(kept)
    pairs = list(pairwise(points))
    (left, low), (right, high) = next((pair for pair in pairs if place <= pair[1][0]), pairs[-1])
    return low + (high - low) * (place - left) / (right - left)


def _told(logs: Sequence[float]) -> str:
    """Geometric mean, and the factor that one standard deviation is."""
    return f"{math.exp(_mean(logs)):.4f} */ {math.exp(statistics.pstdev(logs)):.2f}"


if __name__ == "__main__":
    chosen = arguments()
    torch.set_num_threads(1)
    if chosen.files:
        run(chosen)
    summarise(chosen)
