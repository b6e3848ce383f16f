"""Any policy over chunks: its score decides which chunks of neighbouring tokens stay (ChunkKV, arXiv 2502.00299)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from lavakv.errors import PolicyError
from lavakv.policy.rules import Policy
from lavakv.scoring.chunkkv import CHUNK_SIZE, ChunkedScore
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
        PolicyError: no policy, one that scores in two tiers, which a chunk can lie across, or no whole number of tokens
            from 1. A score that returns tiers although its policy's `tiered` does not say so is refused when it does.
    """
    if not isinstance(policy, Policy):
        fix = "`lavakv.policy.registry.get_policy` finds one by its name."
        raise PolicyError("policy", expected="a Policy", got=repr(policy), fix=fix)
    if policy.tiered:
        raise _in_tiers(policy)
    if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1:
        fix = f"Its first author's code uses {CHUNK_SIZE}."
        raise PolicyError("chunk_size", expected="a whole number of tokens from 1", got=repr(chunk_size), fix=fix)

    return replace(
        policy,
        name=f"chunkkv-{policy.name}",
        summary=f"ChunkKV (arXiv 2502.00299) on {policy.name}: chunks of {chunk_size} tokens",
        score=ChunkedScore(_OneTier(policy), chunk_size),
        head_rule="equal",
        across_heads="the mean score of all heads of the layer, which takes an all-reduce",
        relative_cost=None,  # measured of the given one alone
    )


@dataclass(frozen=True)
class _OneTier:
    """A policy's score, which must not be in tiers."""

    policy: Policy

    def __call__(self, window: ScoringWindow) -> Tensor:
        score = self.policy.score(window)
        if isinstance(score, TieredScores):
            raise _in_tiers(self.policy)
        return score


def _in_tiers(policy: Policy) -> PolicyError:
    return PolicyError(
        "policy",
        expected="one whose score is a single number for each entry",
        got=f"{policy.name!r}, which protects some entries whatever their score",
        fix="Wrap a policy that compares all entries by one score, for example `snapkv`.",
    )
