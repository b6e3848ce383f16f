"""What is known of each built-in policy beside what it computes: where its score looks, and what it costs.

Costs are those of `benchmarks/policy_cost.py`: seconds to score, select and copy what is kept, and to replay the prompt
where a policy needs that, over the seconds of reading the prompt. SmolLM2-135M, 2,000 tokens, a quarter kept, float32,
one thread of a CPU (`docs/log.md`). None: not measured yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from lavakv.policy.rules import Policy, ScoredBy


class Facts(NamedTuple):
    """What is known of a policy.

    Attributes:
        scored_by: see `Policy`.
        relative_cost: see `Policy`.
    """

    scored_by: ScoredBy
    relative_cost: float | None = None


FACTS = {
    "lava": Facts("window", 0.016),
    "lava-uniform-layers": Facts("window", 0.015),
    "lava-uniform-heads": Facts("window", 0.016),
    "snapkv": Facts("window", 0.016),
    "pyramidkv": Facts("window", 0.015),
    "ada-snapkv": Facts("window", 0.015),
    "ada-pyramidkv": Facts("window", 0.016),
    "chunkkv": Facts("window", 0.023),
    "cake": Facts("window", 0.04),
    "vatp": Facts("window", 0.016),
    "criticalkv": Facts("window", 0.094),
    "defensivekv": Facts("window", 0.12),
    "layer-defensivekv": Facts("window", 0.12),
    "caote": Facts("window", 0.023),
    "dropkv": Facts("window", 0.026),
    "residual": Facts("window", 0.057),
    "residual-far": Facts("all queries", 0.14),
    "residual-max": Facts("window", 0.054),
    "reach": Facts("all queries"),
    "kvzip": Facts("replay", 2.5),
    "kvzip+": Facts("replay", 2.5),
    "h2o": Facts("all queries", 0.21),
    "tova": Facts("window", 0.014),
    "streaming-llm": Facts("entries", 0.014),
    "knorm": Facts("entries", 0.015),
    "keydiff": Facts("entries", 0.019),
    "lagkv": Facts("entries", 0.042),
    "curdkv": Facts("entries", 0.016),
    "random": Facts("entries", 0.015),
    "expected-attention": Facts("all queries"),
    "compactor": Facts("all queries"),
    "laprox": Facts("window"),
}


def with_facts(policies: Iterable[Policy]) -> dict[str, Policy]:
    """Policies by name, each with what is known of it."""
    return {
        policy.name: replace(policy, **FACTS[policy.name]._asdict()) if policy.name in FACTS else policy
        for policy in policies
    }
