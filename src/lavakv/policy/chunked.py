"""Any policy over chunks: its score decides which chunks of neighbouring tokens stay (ChunkKV, arXiv 2502.00299)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from lavakv.errors import PolicyError
from lavakv.policy.rules import Policy
from lavakv.scoring.chunkkv import CHUNK_SIZE, chunked_score
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow


def chunked(policy: Policy, chunk_size: int = CHUNK_SIZE) -> Policy:
    """Wrap a policy so that all heads of a layer keep the same chunks, whole ones but for the last.

    The wrapped policy needs what the given one needs and divides over layers as it does. Its name is `chunkkv-` and the
    given one's.

    Args:
        policy: its score, meaned over the heads of a layer and over a chunk, ranks the chunks.
        chunk_size: tokens of a chunk.

    Raises:
        PolicyError: a policy that scores in two tiers, which a chunk can lie across, or no whole number of tokens from
            1. A policy's score that returns tiers although its `tiered` does not say so is refused when it does.
    """
    if policy.tiered:
        raise _in_tiers(policy)
    if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1:
        fix = f"The paper uses {CHUNK_SIZE}."
        raise PolicyError("chunk_size", expected="a whole number of tokens from 1", got=repr(chunk_size), fix=fix)

    def score(window: ScoringWindow) -> Tensor:
        own = policy.score(window)
        if isinstance(own, TieredScores):
            raise _in_tiers(policy)
        return own

    return replace(
        policy,
        name=f"chunkkv-{policy.name}",
        summary=f"ChunkKV (arXiv 2502.00299) on {policy.name}: chunks of {chunk_size} tokens",
        score=chunked_score(score, chunk_size),
        head_rule="equal",
        across_heads="the mean score of all heads of the layer, which takes an all-reduce",
    )


def _in_tiers(policy: Policy) -> PolicyError:
    return PolicyError(
        "policy",
        expected="one whose score is a single number for each entry",
        got=f"{policy.name!r}, which protects some entries whatever their score",
        fix="Wrap the score that it starts from: `snapkv` has `criticalkv`'s.",
    )
