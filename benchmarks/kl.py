"""KL divergence of each policy from the full cache, over prompts in JSON lines files.

Each line holds `context` and `input` (LongBench's names), or the whole prompt in `input` (RULER's), whose last line is
taken as the question. Contexts are truncated in the middle to --tokens. Query-aware puts the question behind the
context before compressing; query-agnostic compresses the context alone; both come from one prefill. Records are split
into two halves by a hash of their context, one to choose on and one to report. Writes one JSON line a prompt, mode,
policy and kept fraction to --out, resumes an interrupted run, and prints geometric means.

    python benchmarks/kl.py data/*.jsonl --half report --limit 20 --out kl.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import runpy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import lavakv
from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from lavakv.models.load import load

MIN_NATS = 1e-6
HASHED_CHARACTERS = 1000
HALVES = ("choose", "report")
MODES = ("aware", "agnostic")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--half", choices=["choose", "report"], required=True)
    parser.add_argument("--limit", type=int, default=20, help="number of prompts, drawn from the files in turns")
    parser.add_argument("--policies", help="separated by commas; all if not given")
    parser.add_argument("--extra", type=Path, help="Python file with a list POLICIES of further policies")
    parser.add_argument("--keep", default="0.5,0.25,0.125,0.0625")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--positions", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


class Prompt(NamedTuple):
    """One record."""

    name: str
    context: str
    question: str

    @property
    def half(self) -> str:
        """The half it belongs to, determined by its context."""
        digest = hashlib.sha256(self.context[:HASHED_CHARACTERS].encode()).hexdigest()
        return HALVES[int(digest, 16) % 2]


def prompts(options: argparse.Namespace) -> list[Prompt]:
    """The half's records, each context once; files in turns, in another order each turn."""
    seen: set[str] = set()
    found: list[list[Prompt]] = []
    for file in sorted(options.files):
        found.append([])
        for index, line in enumerate(file.open(encoding="utf-8")):
            prompt = as_prompt(f"{file.parent.name}/{file.stem}/{index}", json.loads(line))
            if prompt.context[:HASHED_CHARACTERS] not in seen and prompt.half == options.half:
                found[-1].append(prompt)
            seen.add(prompt.context[:HASHED_CHARACTERS])
    drawn: list[Prompt] = []
    for turn in range(max(map(len, found))):
        order = random.Random(turn).sample(found, len(found))
        drawn += [rows[turn] for rows in order if turn < len(rows)]
    return drawn[: options.limit]


def as_prompt(name: str, record: dict[str, Any]) -> Prompt:
    """A record of LongBench, or of RULER, which has context and question in one text."""
    context, question = record.get("context"), record["input"]
    if context is None:
        context, _, question = question.rpartition("\n")
    return Prompt(name, context, question)


def truncated(tokenizer: Any, text: str, max_tokens: int) -> Tensor:
    """Token ids `[1, tokens]`, without the middle if there are more than `max_tokens`."""
    ids: Tensor = tokenizer(text, return_tensors="pt").input_ids
    half = max_tokens // 2
    return ids if ids.shape[1] <= max_tokens else torch.cat([ids[:, :half], ids[:, -(max_tokens - half) :]], dim=1)


def run(options: argparse.Namespace) -> None:
    """Measure what the output file does not hold yet."""
    loaded = load(options.model, dtype="float32", device="cpu")
    names: list[Any] = options.policies.split(",") if options.policies else list(lavakv.policies())
    if options.extra:
        names += runpy.run_path(str(options.extra))["POLICIES"]
    variants = [Variant(name, keep=float(keep)) for name in names for keep in options.keep.split(",")]
    done = {key(row) for row in read(options.out)}
    for prompt in prompts(options):
        open_ = {m: [v for v in variants if (prompt.name, m, v.label, v.keep) not in done] for m in MODES}
        if not any(open_.values()):
            continue
        ids = truncated(loaded.tokenizer, prompt.context, options.tokens)
        asked = loaded.tokenizer("\n\n" + prompt.question, return_tensors="pt", add_special_tokens=False).input_ids
        aware = Sweep(loaded.model, torch.cat([ids, asked], dim=1), num_positions=options.positions)
        for mode, sweep in zip(MODES, (aware, aware.asked_later(ids.shape[1])), strict=True):
            about = {"prompt": prompt.name, "mode": mode, "tokens": sweep.num_tokens}
            with options.out.open("a") as out:
                for row in sweep.run(open_[mode]):
                    out.write(json.dumps({**about, "keep": row.variant.keep, **row.record()}) + "\n")
        print(f"{prompt.name}: {ids.shape[1]} + {asked.shape[1]} tokens", flush=True)


def read(file: Path) -> list[dict[str, Any]]:
    """The measurements so far; an incomplete line is measured again."""
    rows = []
    for line in file.open() if file.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{file}: an incomplete line is skipped")
    return rows


def key(row: dict[str, Any]) -> tuple[str, str, str, float]:
    """The prompt, mode, policy and kept fraction of a row."""
    return row["prompt"], row["mode"], row["policy"], row["keep"]


def summarise(options: argparse.Namespace) -> None:
    """Geometric means over the prompts that have all policies and fractions; one JSON line last."""
    rows = {key(row): max(row["kl_nats"], MIN_NATS) for row in read(options.out)}
    policies = list(dict.fromkeys(policy for _, _, policy, _ in rows))
    keeps = sorted({keep for *_, keep in rows}, reverse=True)
    columns = [(mode, keep) for mode in MODES for keep in keeps]
    everything = [(mode, policy, keep) for mode, keep in columns for policy in policies]
    names = [
        name for name in dict.fromkeys(row[0] for row in rows) if all((name, *cell) in rows for cell in everything)
    ]
    table: dict[str, dict[str, float]] = {policy: {} for policy in policies}
    print(f"{len(names)} prompts; {', '.join(f'{mode} {keep:g}' for mode, keep in columns)}")
    for policy in policies:
        for mode, keep in columns:
            logs = [math.log(rows[name, mode, policy, keep]) for name in names]
            table[policy][f"{mode} {keep:g}"] = round(math.exp(sum(logs) / max(len(logs), 1)), 5)
        print(f"{policy:24}", *(f"{value:9.5f}" for value in table[policy].values()))
    print(json.dumps({"model": options.model, "half": options.half, "prompts": len(names), "geometric_mean_kl": table}))


if __name__ == "__main__":
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    run(chosen)
    summarise(chosen)
