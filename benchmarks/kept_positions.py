"""Records what every policy keeps, and compares a later state of the code with that record.

A case is a policy, a store, a budget and a prompt (one alone, or a left-padded batch) on a tiny random model of every
architecture of `tests/hf/zoo.py`, and on the default model. Of each the record holds the kept positions of every layer,
sequence and head after generating some tokens, `lengths()`, the entries of `budgets()` and the generated tokens, so
that a comparison can name the layer and head that differ. A refusal is recorded by its error class.

`compare` exits with 1 if a case differs, and prints one JSON line last. Layer weights and estimated losses are
compared as a digest of their bits, which `--exact` makes count too. Everything runs on the CPU with one thread, as sums
of other threads round otherwise; a record is good for one machine and one set of packages.

    PYTHONPATH=src:. python benchmarks/kept_positions.py record before.jsonl
    PYTHONPATH=src:. python benchmarks/kept_positions.py compare before.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from tests.hf import zoo
from torch import Tensor, nn

import lavakv
from lavakv.models.load import load

DEFAULT = "smollm2"
VISION = ("qwen2_vl", "gemma3")
STORES = ("ragged", "masked")
WINDOW = 8
TINY_LENGTHS = {"alone": [72], "batch": [61, 86]}
TINY_BUDGETS: tuple[dict[str, Any], ...] = ({"budget": 20}, {"keep": 0.4})
DEFAULT_SENTENCES = [24, 31]
DEFAULT_BUDGET = {"keep": 0.2}
NEW_TOKENS = 5
SHOWN = 20
NOUNS = ("lamp", "bridge", "garden", "letter", "harbour", "engine", "window", "ladder", "mirror", "barrel", "compass")
PLACES = ("cellar of the old mill", "tower by the river", "market square", "yard behind the school", "small bakery")

Case = dict[str, Any]
Inputs = dict[str, Tensor]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("file", type=Path, help="JSON lines: a header, then a case a line")
    parser.add_argument("--models", help="separated by commas; all architectures and the default model if not given")
    parser.add_argument("--policies", help="separated by commas; all if not given")
    parser.add_argument("--exact", action="store_true", help="weights and losses must be equal to the bit, too")
    return parser.parse_args()


def all_models() -> list[str]:
    """Names of the tiny architectures, and the default model's."""
    return [*zoo.TEXT, *VISION, DEFAULT]


def cases(models: list[str], policies: list[str]) -> Iterator[tuple[str, Case]]:
    """Every case by its name `model/prompt/policy/store/budget`."""
    for name in models:
        model, prompts, budgets = default_model() if name == DEFAULT else tiny_model(name)
        lavakv.enable(model)
        for prompt, inputs in prompts.items():
            for policy in policies:
                for store in STORES:
                    for budget in budgets:
                        label = ",".join(f"{way}={value}" for way, value in budget.items())
                        settings = {**budget, "policy": policy, "store": store, "window": WINDOW}
                        yield f"{name}/{prompt}/{policy}/{store}/{label}", outcome(model, inputs, settings)


def tiny_model(kind: str) -> tuple[nn.Module, dict[str, Inputs], tuple[dict[str, Any], ...]]:
    """A tiny architecture with its prompts and budgets."""
    model = zoo.tiny_vision(kind) if kind in VISION else zoo.tiny(kind)
    prompts = {
        name: padded([zoo.prompt(length, seed=length)[0].tolist() for length in lengths])
        for name, lengths in TINY_LENGTHS.items()
    }
    return model, prompts, TINY_BUDGETS


def default_model() -> tuple[nn.Module, dict[str, Inputs], tuple[dict[str, Any], ...]]:
    """SmolLM2 with a left-padded batch of two texts of several hundred tokens."""
    loaded = load(DEFAULT, dtype="float32", device="cpu")
    texts = [made_up_text(count, seed) for seed, count in enumerate(DEFAULT_SENTENCES)]
    return loaded.model, {"batch": padded([loaded.tokenizer(text).input_ids for text in texts])}, (DEFAULT_BUDGET,)


def made_up_text(num_sentences: int, seed: int) -> str:
    """Notes with a fact each and a question about one of them; the same on every machine."""
    draw = random.Random(seed)
    facts = [(draw.choice(NOUNS), draw.choice(PLACES), draw.randrange(100, 1000)) for _ in range(num_sentences)]
    notes = [f"Note {i}: the {noun} in the {place} has number {code}." for i, (noun, place, code) in enumerate(facts)]
    noun, place, _ = draw.choice(facts)
    return " ".join([*notes, f"Question: which number has the {noun} in the {place}? Answer:"])


def padded(rows: list[list[int]]) -> Inputs:
    """Token ids and mask of rows padded on the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def outcome(model: Any, inputs: Inputs, settings: dict[str, Any]) -> Case:
    """What one cache keeps and generates, or which error it raises."""
    try:
        cache = lavakv.LavaCache(model.config, **settings)
        text = model.generate(
            **inputs, past_key_values=cache, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
    except lavakv.LavaError as error:
        return {"error": type(error).__name__}
    budgets = cache.budgets()
    return {
        "lengths": cache.lengths().tolist(),
        "layer_entries": budgets.layer_entries.tolist(),
        "head_entries": budgets.head_entries.tolist(),
        "kept": kept_bits(cache),
        "tokens": text[:, inputs["input_ids"].shape[1] :].tolist(),
        "bits": digest(budgets.layer_weights) + digest(budgets.estimated_loss),
    }


def kept_bits(cache: Any) -> dict[str, str]:
    """`layer/sequence/head` to the kept positions: bit `i` of a hexadecimal number is set if position `i` is kept."""
    kept = {}
    for row, layer in enumerate(cache.layer_indices):
        for sequence, heads in enumerate(cache.budgets().head_entries[row].tolist()):
            for head, entries in enumerate(heads):
                if entries:
                    positions = cache.kept_positions(layer, sequence, head).tolist()
                    kept[f"{layer}/{sequence}/{head}"] = f"{sum(1 << position for position in positions):x}"
    return kept


def digest(numbers: Tensor) -> str:
    """Of the exact bits of a tensor; the sign and payload of a NaN play no part."""
    return hashlib.sha256(torch.nan_to_num(numbers, nan=-1.0).numpy().tobytes()).hexdigest()[:16]


def header() -> Case:
    """What a record depends on besides the code."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def record(file: Path, found: Iterator[tuple[str, Case]]) -> dict[str, Any]:
    """Write every case; returns what the last line says."""
    counts = {"cases": 0, "refused": 0}
    with file.open("w") as out:
        out.write(json.dumps(header()) + "\n")
        for name, case in found:
            out.write(json.dumps({"case": name, **case}) + "\n")
            counts["cases"] += 1
            counts["refused"] += "error" in case
    return counts


def compare(
    known: dict[str, Case], found: Iterator[tuple[str, Case]], is_chosen: Callable[[str], bool], exact: bool
) -> dict[str, Any]:
    """Print which cases differ and where; returns what the last line says."""
    num_cases, different, rounded = 0, [], 0
    for name, case in found:
        num_cases += 1
        before = known.pop(name, {})
        where = differences(before, case)
        if not where and before.get("bits") != case.get("bits"):
            rounded += 1
            where = ["the bits of weights or losses"] if exact else []
        if where:
            different.append(name)
            print(f"{name}: {'; '.join(where) if before else 'not in the record'}", flush=True)
    missing = [name for name in known if is_chosen(name)]
    for name in missing:
        print(f"{name}: in the record only")
    return {"cases": num_cases, "different": len(different), "missing": len(missing), "other_rounding": rounded}


def differences(before: Case, now: Case) -> list[str]:
    """Which parts of a case differ, kept positions by layer, sequence and head."""
    found = []
    for part in sorted((before.keys() | now.keys()) - {"case", "bits"}):
        old, new = before.get(part), now.get(part)
        if part == "kept" and old and new:
            places = sorted(place for place in old.keys() | new.keys() if old.get(place) != new.get(place))
            found += [f"kept {place} ({changed(old.get(place), new.get(place))})" for place in places[:SHOWN]]
            found += [f"and {len(places) - SHOWN} more heads"] if len(places) > SHOWN else []
        elif old != new:
            found.append(f"{part}: {old} became {new}" if part == "error" else part)
    return found


def changed(old: str | None, new: str | None) -> str:
    """How many positions are gone and how many are new."""
    before, after = int(old or "0", 16), int(new or "0", 16)
    return f"-{(before & ~after).bit_count()} +{(after & ~before).bit_count()}"


def main() -> int:
    """Record or compare; the exit code."""
    options = arguments()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    models = options.models.split(",") if options.models else all_models()
    policies = options.policies.split(",") if options.policies else list(lavakv.policies())
    with torch.no_grad():
        found = cases(models, policies)
        if options.command == "record":
            print(json.dumps(record(options.file, found)))
            return 0
        first, *rows = [json.loads(line) for line in options.file.read_text().splitlines()]
        if first != header():
            print(f"recorded with {first}, compared with {header()}")

        def is_chosen(name: str) -> bool:
            model, _, policy, *_ = name.split("/")
            return model in models and policy in policies

        result = compare({row["case"]: row for row in rows}, found, is_chosen, options.exact)
    print(json.dumps(result))
    return int(bool(result["different"] or result["missing"]))


if __name__ == "__main__":
    sys.exit(main())
