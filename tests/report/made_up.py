"""A made-up run: invented questions, invented answers, scores that follow a simple law. No model, no benchmark text."""

from __future__ import annotations

import json
import random
from pathlib import Path

LAYERS, HEADS = 6, 3
TASKS = {
    "longbench_qasper": ("LongBench", "Single-document QA", "F1", 0.42),
    "longbench_hotpotqa": ("LongBench", "Multi-document QA", "F1", 0.35),
    "longbench_samsum": ("LongBench", "Few-shot learning", "ROUGE-L", 0.38),
    "longbench_lcc": ("LongBench", "Code completion", "edit similarity", 0.55),
    "ruler_niah_single_1": ("RULER", "Retrieval", "all references found", 0.9),
    "needle": ("Needle in a Haystack", "Needle", "words found", 0.85),
}
QUALITY = {"lava": 1.0, "snapkv": 0.93, "streaming-llm": 0.5}
BUDGETS = {"128": 0.06, "256": 0.12, "512": 0.25}
ANSWERS = ("the lighthouse", "a green bicycle", "in the year 1873", "Ottilie the baker", "three copper kettles")


def records(num_examples: int = 4, seed: int = 0) -> list[dict]:
    """Records of every task, policy and budget, the full cache among them."""
    chance = random.Random(seed)
    found = []
    for task in TASKS:
        for example in _examples(task, num_examples):
            luck = chance.random()
            gold = chance.choice(ANSWERS)
            for policy, budget in [("full cache", "all"), *((p, b) for p in QUALITY for b in BUDGETS)]:
                found.append(_record(task, example, policy, budget, gold, luck, chance))
    return found


def _examples(task: str, num_examples: int) -> list[dict]:
    if task == "needle":
        places = [(length, depth) for length in (1000, 2000, 4000) for depth in (0.0, 25.0, 50.0, 75.0, 100.0)]
        return [{"example": f"s{n}", "group": "", "length": n, "depth": d} for n, d in places]
    lengths = (2048, 4096) if task.startswith("ruler") else (None,)
    return [
        {"example": f"e{index}", "group": "", "length": length, "depth": None}
        for length in lengths
        for index in range(num_examples)
    ]


def _record(task, example, policy, budget, gold, luck, chance) -> dict:
    benchmark, group, metric, level = TASKS[task]
    full = policy == "full cache"
    kept = 1.0 if full else BUDGETS[budget]
    strength = 1.0 if full else QUALITY[policy] * (1 - 0.08 / kept**0.5)
    right = luck < level * 1.3 * max(strength, 0.05)
    score = round(min(1.0, level + 0.4 * chance.random()), 4) if right else round(0.2 * chance.random(), 4)
    if metric in ("words found", "all references found"):
        score = float(right)
    tokens = example["length"] or 2000
    per_head = round(kept * tokens)
    wrong = chance.choice([answer for answer in ANSWERS if answer != gold])
    entries = [[max(33, per_head + (7 - 3 * layer) * (head + 1)) for head in range(HEADS)] for layer in range(LAYERS)]
    return {
        "schema": 1, "task": task, "task_version": "paper-1", "benchmark": benchmark, "task_group": group,
        "metric": metric, **example,
        "prompt_hash": f"{task}-{example['example']}", "prompt_tokens": tokens, "truncated": example["example"] == "e0",
        "policy": policy, "budget": budget, "mode": "query-aware", "window": 32,
        "tokens_per_head": None if full else per_head, "kept_fraction": kept,
        "kept_entries": per_head * LAYERS * HEADS, "layer_entries": [sum(row) for row in entries],
        "head_entries": entries, "estimated_loss": 0.0 if full else 1.5 / kept,
        "prediction": f"It was {gold}." if right else f"It may have been {wrong}, who knows.",
        "answers": [gold], "classes": [], "prompt_head": "Here is a tale that nobody has told before. " * 8,
        "prompt_tail": "So much for the tale.\n\nWhat was it about? Answer in a few words.", "score": score,
        "new_tokens": 12, "kv_bytes": round(23_040 * tokens * kept), "full_kv_bytes": 23_040 * tokens,
        "seconds": {"prefill": tokens / 900, "fill": 0.0 if full else 0.05, "decode": 0.8 + 0.3 * kept},
        "run": {
            "model": "made-up-135m", "dtype": "float32", "device": "cpu", "revision": None,
            "arguments": {"tasks": list(TASKS), "limit": 4, "seed": 42}, "passed": ["tasks", "limit"],
            "versions": {"lavakv": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "lm_eval": "0.4.13"},
        },
    }  # fmt: skip


def write_run(folder: Path, found: list[dict]) -> Path:
    """Write a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in found]
    (folder / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps({"schema": 1, "policies": list(QUALITY), "budgets": list(BUDGETS)}))
    return folder
