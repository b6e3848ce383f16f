"""The cost of measuring the output projection relative to a prefill, for models that do not expose their weights.

A policy that needs `W_O` and one that does not are run in turns on the default model and random tokens. Kinds whose
library is not installed are skipped with a message.

    PYTHONPATH=src python benchmarks/projection.py --tokens 2000 --repeats 5
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

import lavakv
from lavakv.hf import projection
from lavakv.models.default import default_model_dir

_PROJECTION: Any = projection  # where the function is replaced


def main() -> None:
    """Print a line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--policy", default="criticalkv", help="one that needs the output projection")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    given = parser.parse_args()
    for kind in given.kinds:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(default_model_dir(), dtype=getattr(torch, given.dtype)).eval()
        try:
            model = lavakv.enable(KINDS[kind](model))
        except ImportError as error:
            print(f"{kind:14} left out: {error}")
            continue
        print(f"{kind:14} {_costs(model, given)}", flush=True)


def _costs(model: nn.Module, given: argparse.Namespace) -> str:
    ids = torch.randint(100, 40_000, (1, given.tokens))
    times: dict[str, list[float]] = {"lava": [], given.policy: [], "measuring": []}
    for repeat in range(given.repeats + 1):
        for policy in ("lava", given.policy):
            spent = _Stopwatch()
            _PROJECTION.measure = spent
            cache = lavakv.LavaCache(model.config, budget=64, policy=policy)
            start = time.perf_counter()
            with torch.no_grad():
                model(ids, past_key_values=cache, logits_to_keep=1)
            if repeat:  # the first one warms up
                times[policy].append(time.perf_counter() - start)
                if policy != "lava":
                    times["measuring"].append(spent.seconds)
    lava, other, measuring = (statistics.median(each) for each in times.values())
    return (
        f"{given.tokens} tokens: lava {lava:.3f} s, {given.policy} {other:.3f} s, "
        f"of which measuring {measuring:.3f} s, {measuring / lava:.1%} of the prefill"
    )


class _Stopwatch:
    """Measures projections and the time this takes."""

    _measure = staticmethod(_PROJECTION.measure)

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, *given: Any) -> Any:
        start = time.perf_counter()
        found = self._measure(*given)
        self.seconds += time.perf_counter() - start
        return found


def _torchao(model: Any, config: str) -> Any:
    library = importlib.import_module("torchao.quantization")
    library.quantize_(model, getattr(library, config)())
    return model


def _quanto(model: Any, weights: str) -> Any:
    library = importlib.import_module("optimum.quanto")
    library.quantize(model, weights=getattr(library, weights))
    library.freeze(model)
    return model


def _lora(model: Any) -> Any:
    library = importlib.import_module("peft")
    return library.get_peft_model(model, library.LoraConfig(r=16, target_modules=["q_proj", "v_proj", "o_proj"])).eval()


def _offloaded(model: Any) -> Any:
    return importlib.import_module("accelerate").cpu_offload(model, execution_device=torch.device("cpu"))


KINDS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda model: model,
    "lora": _lora,
    "offloaded": _offloaded,
    "torchao int8": lambda model: _torchao(model, "Int8WeightOnlyConfig"),
    "torchao float8": lambda model: _torchao(model, "Float8WeightOnlyConfig"),
    "quanto int8": lambda model: _quanto(model, "qint8"),
    "quanto int4": lambda model: _quanto(model, "qint4"),
}

if __name__ == "__main__":
    main()
