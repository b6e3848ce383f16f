"""What is known of each built-in policy beside what it computes: where its score looks, and what it costs.

Costs are those of `make compare-policies`: seconds to score, select and copy what is kept, and to replay the prompt
where a policy needs that, over the seconds of reading the prompt. SmolLM2-135M, 4,096 tokens, a quarter kept, float32,
one thread of a CPU (`docs/log.md`).
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
    "lava": Facts("window", 0.013),
    "lava-uniform-layers": Facts("window", 0.013),
    "lava-uniform-heads": Facts("window", 0.014),
    "snapkv": Facts("window", 0.013),
    "pyramidkv": Facts("window", 0.013),
    "ada-snapkv": Facts("window", 0.013),
    "ada-pyramidkv": Facts("window", 0.013),
    "chunkkv": Facts("window", 0.013),
    "cake": Facts("window", 0.028),
    "vatp": Facts("window", 0.013),
    "criticalkv": Facts("window", 0.073),
    "defensivekv": Facts("window", 0.091),
    "layer-defensivekv": Facts("window", 0.09),
    "caote": Facts("window", 0.019),
    "dropkv": Facts("window", 0.021),
    "residual": Facts("window", 0.041),
    "residual-far": Facts("all queries", 0.094),
    "residual-max": Facts("window", 0.035),
    "reach": Facts("all queries", 0.036),
    "reach-question": Facts("all queries", 0.054),  # on another machine, where `reach` took 0.047
    "kvzip": Facts("replay", 2.7),
    "kvzip+": Facts("replay", 2.7),
    "h2o": Facts("all queries", 0.27),
    "tova": Facts("window", 0.013),
    "streaming-llm": Facts("entries", 0.013),
    "knorm": Facts("entries", 0.014),
    "keydiff": Facts("entries", 0.017),
    "lagkv": Facts("entries", 0.034),
    "r-kv": Facts("window"),
    "curdkv": Facts("entries", 0.013),
    "random": Facts("entries", 0.013),
    "expected-attention": Facts("all queries", 0.063),
    "compactor": Facts("all queries", 0.088),
    "laprox": Facts("window", 0.024),
}


def with_facts(policies: Iterable[Policy]) -> dict[str, Policy]:
    """Policies by name, each with what is known of it."""
    return {
        policy.name: replace(policy, **FACTS[policy.name]._asdict()) if policy.name in FACTS else policy
        for policy in policies
    }
