"""Expected Attention's score (arXiv 2510.00636): what later queries will probably pay, told from those of the prompt.

The authors' code (`ExpectedAttentionPress` in kvpress) with the settings of their leaderboard: queries of the 512
positions to come, the first 4 tokens left out of all statistics and kept before all others, `epsilon` 0.01, Ada-KV's
budgets. Where they divide by `sqrt(head_dim)`, this takes the model's own factor on query-key products, which some
models set otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lavakv.scoring.blocks import joined, token_blocks
from lavakv.scoring.held import at_first_positions
from lavakv.scoring.rotation import require_plain_softmax
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow

NUM_FIRST = 4
NUM_AHEAD = 512
EPSILON = 1e-2


def expected_attention_score(window: ScoringWindow) -> TieredScores:
    """`(mean_q softmax_i(z_q[i]) + epsilon) ||v_i||_2`; the first 4 positions are protected.

    `z_q[i] = s k_i R m_q + s^2/2 k_i R C_q R^T k_i`, with the mean `m_q` and covariance `C_q` of the query head's
    queries before their rotation, the mean rotation `R` of the next 512 positions, and the model's factor `s` on
    query-key products. The softmax is over all entries but the first 4. Float32 `[H, n]`. Needs the prompt's queries
    and rotation.

    Raises:
        UnsupportedError: a logit softcap or attention sinks, which the formula does not have.
    """
    require_plain_softmax("expected-attention", window.layer, window.softcap, window.sinks)
    first = at_first_positions(window, NUM_FIRST)
    if window.num_tokens <= NUM_FIRST:
        return TieredScores(torch.zeros_like(first, dtype=torch.float32), first)
    logits = joined(_logits(window, *_expected_queries(window)))
    logits[..., :NUM_FIRST] = -torch.inf
    shares = logits.softmax(dim=-1)[..., : window.num_evictable].mean(dim=1)
    lengths = joined(block.float().norm(dim=-1) for block in window.value_blocks())[:, : window.num_evictable]
    return TieredScores(((shares + EPSILON) * lengths).masked_fill(first, 0.0), first)


def _expected_queries(window: ScoringWindow) -> tuple[Tensor, Tensor]:
    """Mean and covariance of each query head's queries to come, float32 `[H, G, 1, d]` and `[H, G, d, d]`."""
    heads, group, _, size = window.queries.shape
    mean = torch.zeros(heads, group, 1, size, dtype=torch.float32, device=window.queries.device)
    for part in _unrotated(window):
        mean += part.sum(dim=2, keepdim=True)
    mean /= window.num_tokens - NUM_FIRST
    products = mean.new_zeros(heads, group, size, size)
    for part in _unrotated(window):
        centred = part - mean
        products += centred.transpose(2, 3) @ centred
    assert window.rotation is not None
    ahead = window.rotation.mean_ahead(NUM_AHEAD)
    covariance = ahead.turn(ahead.turn(products / (window.num_tokens - NUM_FIRST)).transpose(2, 3))
    return ahead.turn(mean), covariance


def _unrotated(window: ScoringWindow) -> Iterator[Tensor]:
    """The prompt's queries before their rotation but for the first rows, in blocks, float32 `[H, G, rows, d]`."""
    assert window.prompt is not None
    assert window.rotation is not None
    queries = window.prompt.queries[:, :, NUM_FIRST:]
    heads, group, _, size = queries.shape
    start = NUM_FIRST
    for part in torch.split(queries, max(window.max_block_elements // (heads * group * size), 1), dim=2):
        yield window.rotation.undo(part, start)
        start += part.shape[2]


def _logits(window: ScoringWindow, mean: Tensor, covariance: Tensor) -> Iterator[Tensor]:
    """The logarithm of what each entry may expect of each query head, in blocks, float32 `[H, G, tokens]`."""
    heads, group, _, size = mean.shape
    tokens = max(window.max_block_elements // (heads * group * size), 1)
    for block in token_blocks(window.keys, tokens):
        keys = (window.scaling * block.float())[:, None]
        yield ((keys @ covariance / 2 + mean) * keys).sum(dim=-1)
