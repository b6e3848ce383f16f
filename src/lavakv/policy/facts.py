"""What is known of each built-in policy beside what it computes: where its score looks, and what it costs.

Costs are those of `benchmarks/policy_cost.py`: seconds to score, select and copy what is kept, and to replay the prompt
where a policy needs that, over the seconds of reading the prompt. SmolLM2-135M, 4,000 tokens, a quarter kept, float32,
one thread of a CPU (`docs/log.md`). They grow with the length for what looks at all queries.
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
    "lava": Facts("window"),
    "lava-uniform-layers": Facts("window"),
    "lava-uniform-heads": Facts("window"),
    "snapkv": Facts("window"),
    "pyramidkv": Facts("window"),
    "ada-snapkv": Facts("window"),
    "ada-pyramidkv": Facts("window"),
    "chunkkv": Facts("window"),
    "cake": Facts("window"),
    "vatp": Facts("window"),
    "criticalkv": Facts("window"),
    "defensivekv": Facts("window"),
    "layer-defensivekv": Facts("window"),
    "caote": Facts("window"),
    "dropkv": Facts("window"),
    "residual": Facts("window"),
    "residual-far": Facts("all queries"),
    "residual-max": Facts("window"),
    "reach": Facts("all queries"),
    "kvzip": Facts("replay"),
    "kvzip+": Facts("replay"),
    "h2o": Facts("all queries"),
    "tova": Facts("window"),
    "streaming-llm": Facts("entries"),
    "knorm": Facts("entries"),
    "keydiff": Facts("entries"),
    "lagkv": Facts("entries"),
    "curdkv": Facts("entries"),
    "random": Facts("entries"),
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
