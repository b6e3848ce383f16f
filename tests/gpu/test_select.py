"""Selection on a GPU keeps what it keeps on the CPU, and the host does not wait for kept positions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import lavakv
from lavakv.scoring.entropy import head_statistics
from lavakv.scoring.tiers import TieredScores
from lavakv.selection.kept import kept_positions
from lavakv.selection.ranking import rank
from tests.eviction.controlled import CONTROLLED, controlled_scores

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def _on_gpu(score: Tensor | TieredScores) -> Tensor | TieredScores:
    return TieredScores(*(part.cuda() for part in score)) if isinstance(score, TieredScores) else score.cuda()


@pytest.mark.parametrize("is_ragged", [False, True])
@pytest.mark.parametrize("name", [name for name, policy in CONTROLLED.items() if policy.layer_rule != "entropy"])
def test_a_gpu_keeps_the_same(name: str, is_ragged: bool) -> None:
    """Entropies of the two may differ in their last bit, so policies that follow them are left out."""
    generator = torch.Generator().manual_seed(0)
    policy, heads, n = CONTROLLED[name], 4, 900
    scores = [
        controlled_scores(policy, torch.randint(1, 50, (heads, n), generator=generator).float()) for _ in range(3)
    ]
    caps = [torch.randint(0, n + 1, (heads,), generator=generator) for _ in scores] if is_ragged else None
    given = [1.0, 2.0, 3.0] if callable(policy.layer_rule) else None
    there, here = (
        lavakv.select(policy, layers, 100, 8, layer_weights=given, caps=caps)
        for layers in ([_on_gpu(score) for score in scores], scores)
    )
    assert all(flat.is_cuda for flat in there.flat_positions)
    assert torch.equal(there.counts, here.counts)
    assert torch.equal(there.positions, here.positions)


def test_kept_positions_wait_for_nothing() -> None:
    ranking = rank(torch.rand(3, 700, device="cuda"))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        kept = kept_positions(ranking.positions, [5, 0, 700], 8)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert kept.tolist() == kept_positions(ranking.positions.cpu(), [5, 0, 700], 8).tolist()


@pytest.mark.parametrize("n", [1, 33, 1000, 40_001])
def test_statistics_of_a_head_do_not_depend_on_the_others(n: int) -> None:
    scores = torch.rand(8, n, device="cuda")
    whole = head_statistics(scores)
    for size in (1, 2, 3):
        assert torch.equal(torch.cat([head_statistics(part) for part in scores.split(size)]), whole)
