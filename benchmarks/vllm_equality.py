"""What vLLM with eviction keeps and answers, beside `LavaCache` on the same prompts, in one dtype.

    PYTHONPATH=src:. .venv-vllm/bin/python benchmarks/vllm_equality.py [--model FOLDER] [--dtype bfloat16] [--keep 0.25]

Prompts are docstrings of the standard library. Beside the difference between the engine and `LavaCache` (sdpa) stands
that between `LavaCache` with sdpa and with eager attention, which is what rounding alone makes of the same model. Two
lines have no such rounding between them: the worker's scores ranked by the core, and the worker's queries, keys and
values through the tests' reference, which shares no code with lavakv. Answers are fed to all, so that each
token is predicted from the same text. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import torch
from tests.oracle import reference
from tests.real.texts import docstrings
from torch import Tensor

import lavakv

LENGTHS = (777, 600, 1500, 512)
WINDOW = 32
Kept = list[list[Tensor]]


def main() -> None:
    """Run the engine, then the same prompts under transformers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--new", type=int, default=48)
    options = parser.parse_args()
    from lavakv.models.default import default_model_dir

    folder = options.model or str(default_model_dir())
    prompts = make_prompts(folder)
    engine = of_engine(folder, options, prompts)
    found: dict[str, Any] = {"dtype": options.dtype, "keep": options.keep, "prompts": list(LENGTHS)}
    found["entries"] = sum(len(head) for one in engine for layer in one["kept"] for head in layer)
    found["ranked by the core from the worker's scores: differ"] = total(engine, "kept", engine, "ranked")
    found["reference on the worker's queries, keys and values: differ"] = total(engine, "kept", engine, "reference")
    ours = {name: of_lavacache(folder, name, options, prompts, engine) for name in ("sdpa", "eager")}
    full = of_lavacache(folder, "sdpa", argparse.Namespace(**vars(options) | {"dtype": "float32"}), prompts, engine)
    for name, one, other in (
        ("engine and LavaCache", engine, ours["sdpa"]),
        ("LavaCache with sdpa and with eager", ours["sdpa"], ours["eager"]),
        ("LavaCache in this dtype and in float32", ours["sdpa"], full),
        ("engine, and LavaCache in float32", engine, full),
    ):
        found[name] = compared(one, other)
    for name, value in found.items():
        print(f"{name}: {value}")
    print(json.dumps(found))


def make_prompts(folder: str) -> list[list[int]]:
    """One after the other from the text."""
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(docstrings()).input_ids
    starts = [sum(LENGTHS[:index]) for index in range(len(LENGTHS))]
    return [ids[start : start + length] for start, length in zip(starts, LENGTHS, strict=True)]


def of_engine(folder: str, options: argparse.Namespace, prompts: list[list[int]]) -> list[dict[str, Any]]:
    """Answers and kept positions of the engine, each prompt alone; `ranked` and `reference` are what should be kept."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")
    from tests.vllm.engine import captured
    from vllm import LLM, SamplingParams

    from lavakv.vllm import engine_arguments
    from lavakv.vllm.state import installed

    llm = LLM(
        folder, dtype=options.dtype, enforce_eager=True, num_gpu_blocks_override=80, max_model_len=2048,
        kv_cache_memory_bytes=1 << 30, distributed_executor_backend="uni",
        **engine_arguments(keep=options.keep, window=WINDOW),
    )  # fmt: skip
    greedy = SamplingParams(temperature=0, max_tokens=options.new, logprobs=0, ignore_eos=True)
    evicted: list[Any] = []
    installed().on_evicted.append(lambda prompt, selection: evicted.append((prompt, selection)))
    found = []
    for tokens in prompts:
        with captured() as captures:
            (result,) = llm.generate([{"prompt_token_ids": tokens}], greedy, use_tqdm=False)
        (output,), (read, selection) = result.outputs, evicted[-1]
        ranked = lavakv.select("lava", read.scores, read.plan.tokens_per_head, WINDOW)
        expected = reference.survivors(captures, read.plan.tokens_per_head, WINDOW)
        found.append({
            "kept": by_head(selection), "ranked": by_head(ranked),
            "reference": [[torch.tensor(head) for head in expected[layer]] for layer in sorted(expected)],
            "tokens": list(output.token_ids),
            "logprobs": [next(iter(chosen.values())).logprob for chosen in output.logprobs],
        })  # fmt: skip
    return found


def of_lavacache(
    folder: str, attention: str, options: argparse.Namespace, prompts: list[list[int]], told: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The same of `LavaCache`, fed with the engine's answers; `tokens` are those that it would have chosen."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, options.dtype), attn_implementation=attention
    ).eval()
    lavakv.enable(model)
    found = []
    for tokens, engine in zip(prompts, told, strict=True):
        cache = lavakv.LavaCache(model.config, keep=options.keep, window=WINDOW)
        chosen, logprobs = [], []
        with torch.no_grad():
            out = model(torch.tensor([tokens]), past_key_values=cache)
            heads = range(model.config.num_key_value_heads)
            kept = [[cache.kept_positions(layer, 0, head) for head in heads] for layer in cache.layer_indices]
            for token in engine["tokens"]:
                scores = out.logits[0, -1].float().log_softmax(-1)
                chosen.append(int(scores.argmax()))
                logprobs.append(float(scores[token]))
                out = model(torch.tensor([[token]]), past_key_values=cache)
        found.append({"kept": kept, "tokens": chosen, "logprobs": logprobs})
    return found


def by_head(selection: Any) -> Kept:
    """Kept positions of each layer and head."""
    return [
        list(torch.split(flat, counts.tolist()))
        for flat, counts in zip(selection.flat_positions, selection.counts, strict=True)
    ]


def total(one: list[dict[str, Any]], key: str, other: list[dict[str, Any]], other_key: str) -> int:
    """Entries that only the first keeps, of all prompts."""
    return sum(
        len(set(mine.tolist()) - set(theirs.tolist()))
        for prompt, of_other in zip(one, other, strict=True)
        for layer, of_layer in zip(prompt[key], of_other[other_key], strict=True)
        for mine, theirs in zip(layer, of_layer, strict=True)
    )


def compared(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, Any]:
    """How far apart two are."""
    apart = [
        abs(mine - theirs)
        for prompt, of_other in zip(one, other, strict=True)
        for mine, theirs in zip(prompt["logprobs"], of_other["logprobs"], strict=True)
    ]
    same = [
        mine == theirs
        for prompt, of_other in zip(one, other, strict=True)
        for mine, theirs in zip(prompt["tokens"], of_other["tokens"], strict=True)
    ]
    return {
        "entries that differ": total(one, "kept", other, "kept"), "same token": f"{sum(same)} of {len(same)}",
        "log probabilities apart, mean": float(f"{sum(apart) / len(apart):.2g}"), "most": float(f"{max(apart):.2g}"),
    }  # fmt: skip


if __name__ == "__main__":
    main()
