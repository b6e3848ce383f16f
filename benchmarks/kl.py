"""How far each policy's answers are from the full cache's, over prompts in JSON lines files.

Each line holds `context` and `input` (LongBench's names). Contexts are cut in the middle to --tokens. Query-aware puts
the input behind the context before compressing; query-agnostic compresses the context alone. Writes one JSON line a
prompt, policy and kept fraction to --out, goes on where it stopped, and prints geometric means.

    python benchmarks/kl.py data/qasper.jsonl data/lcc.jsonl --mode aware --out kl.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lavakv
from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from lavakv.models.load import load

SMALLEST = 1e-6


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--mode", choices=["aware", "agnostic"], default="aware")
    parser.add_argument("--policies", help="separated by commas; all if not given")
    parser.add_argument("--extra", type=Path, help="Python file with a list POLICIES of further policies")
    parser.add_argument("--keep", default="0.5,0.25,0.125,0.0625")
    parser.add_argument("--tokens", type=int, default=2500)
    parser.add_argument("--records", default="0,1,2", help="which records of each file")
    parser.add_argument("--positions", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def prompts(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Name, context and input of every record, files in turns."""
    for index in map(int, options.records.split(",")):
        for file in options.files:
            lines = file.read_text(encoding="utf-8").splitlines()
            if index < len(lines):
                record = json.loads(lines[index])
                yield f"{file.stem}/{index}", record["context"], record["input"]


def cut(tokenizer: Any, text: str, most: int) -> Tensor:
    """Token ids `[1, tokens]`, the middle left out where there are more than `most`."""
    ids: Tensor = tokenizer(text, return_tensors="pt").input_ids
    half = most // 2
    return ids if ids.shape[1] <= most else torch.cat([ids[:, :half], ids[:, -(most - half) :]], dim=1)


def run(options: argparse.Namespace) -> None:
    """Measure what is not in the output file yet."""
    loaded = load(options.model, dtype="float32", device="cpu")
    done = {json.loads(line)["prompt"] for line in options.out.open()} if options.out.exists() else set()
    names: list[Any] = options.policies.split(",") if options.policies else list(lavakv.policies())
    if options.extra:
        names += runpy.run_path(str(options.extra))["POLICIES"]
    variants = [Variant(name, keep=float(keep)) for name in names for keep in options.keep.split(",")]
    for prompt, context, question in prompts(options):
        if prompt in done:
            continue
        ids = cut(loaded.tokenizer, context, options.tokens)
        asked = loaded.tokenizer("\n\n" + question, return_tensors="pt", add_special_tokens=False).input_ids
        if options.mode == "aware":
            sweep = Sweep(loaded.model, torch.cat([ids, asked], dim=1), num_positions=options.positions)
        else:
            sweep = Sweep(loaded.model, ids, [asked], num_positions=options.positions)
        rows = [{"prompt": prompt, "keep": row.variant.keep, **row.record()} for row in sweep.run(variants)]
        with options.out.open("a") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
        print(f"{prompt}: {sweep.num_tokens} tokens", flush=True)


def summarise(options: argparse.Namespace) -> None:
    """Geometric mean of the KL divergence a policy and kept fraction; one JSON line last."""
    divergences = defaultdict(list)
    for line in options.out.open():
        row = json.loads(line)
        divergences[row["policy"], row["keep"]].append(max(row["kl_nats"], SMALLEST))
    means = {key: math.exp(sum(map(math.log, values)) / len(values)) for key, values in divergences.items()}
    table: dict[str, dict[float, float]] = defaultdict(dict)
    for (policy, keep), mean in means.items():
        table[policy][keep] = round(mean, 4)
    for policy, row in table.items():
        print(f"{policy:24}", *(f"{row[keep]:8.4f}" for keep in sorted(row, reverse=True)))
    print(json.dumps({"mode": options.mode, "model": options.model, "geometric_mean_kl_nats": table}))


if __name__ == "__main__":
    chosen = arguments()
    run(chosen)
    summarise(chosen)
