"""Compactor's score (arXiv 2507.08143): leverage of keys before their rotation, and non-causal attention in chunks.

The code for kvpress by the paper's first author (`CompactorPress`), as its leaderboard runs it: a sketch of 48 numbers,
attention of chunks of 256 tokens over themselves without a factor on query-key products, leverage weighted by the part
of the prompt that goes; the first 8 and last 4 tokens before all and out of all statistics. Where it draws a sketch for
each head and prompt, all share a fixed one here, as in the authors' own engine (compactor-vllm). Of the last
chunk, rows that are missing pay all its tokens alike, as in both; keys that are missing get nothing, as in the engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lavakv.scoring.blocks import joined
from lavakv.scoring.pooling import average_pool
from lavakv.scoring.random import hashed_noise
from lavakv.scoring.rotation import require_plain_softmax
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow

NUM_FIRST = 8
NUM_LAST = 4
SKETCH_SIZE = 48
RIDGE = 1e-2
CHUNK_SIZE = 256
KERNEL_SIZE = 3
MIN_DEVIATION = 1e-6


def compactor_score(window: ScoringWindow) -> TieredScores:
    """`(1 - b / N) z(leverage) + z(attended)`; the first 8 and last 4 positions are protected. Float32 `[H, n]`.

    `z` takes mean and standard deviation over all heads and entries of the layer. Needs the budget `b`, the prompt's
    queries and rotation.

    Raises:
        UnsupportedError: a logit softcap or attention sinks, which the method does not have.
    """
    assert window.tokens_per_head is not None
    require_plain_softmax("compactor", window.layer, window.softcap, window.sinks)
    heads, count, stop = window.queries.shape[0], window.num_evictable, window.num_tokens - NUM_LAST
    places = torch.arange(count, device=window.queries.device)
    protected = ((places < NUM_FIRST) | (places >= stop)).expand(heads, -1)
    values = torch.zeros(heads, count, dtype=torch.float32, device=window.queries.device)
    if stop > NUM_FIRST:
        whole = window.keys[0] if len(window.keys) == 1 else torch.cat(list(window.keys), dim=1)
        keys = whole[:, NUM_FIRST:stop]
        leverage = standardized(torch.stack([key_leverage(window, key) for key in keys]))
        scores = leverage * max(1 - window.tokens_per_head / window.num_tokens, 0.0)
        scores += standardized(attended(window, keys))
        ranked = scores[:, : max(count - NUM_FIRST, 0)]
        values[:, NUM_FIRST : NUM_FIRST + ranked.shape[1]] = ranked
    return TieredScores(values, protected)


def key_leverage(window: ScoringWindow, keys: Tensor) -> Tensor:
    """`x_i (X^T X + 0.01 I)^-1 x_i` of sketched keys `X`, centred over the tokens; float32 `[tokens]`.

    Args:
        window: whose rotation is undone.
        keys: `[tokens, head_dim]`, of one head from `NUM_FIRST` on.
    """
    mean = torch.zeros(SKETCH_SIZE, dtype=torch.float64, device=keys.device)
    for part in _sketched(window, keys):
        mean += part.sum(dim=0) / len(keys)
    gram = torch.diag(torch.full_like(mean, RIDGE))
    for part in _sketched(window, keys):
        gram += (part - mean).T @ (part - mean)
    factor = torch.linalg.cholesky_ex(gram).L
    leverage = []
    for part in _sketched(window, keys):
        whitened: Tensor = torch.linalg.solve_triangular(factor, (part - mean).T, upper=False)
        leverage.append(whitened.square().sum(dim=0).float())
    return torch.cat(leverage)


def _sketched(window: ScoringWindow, keys: Tensor) -> Iterator[Tensor]:
    """Keys before their rotation times the sketch, in blocks, float64 `[tokens, 48]`; worked out at each call."""
    assert window.rotation is not None
    sketch, start = gaussian_sketch(keys.shape[1], keys.device), NUM_FIRST
    for block in torch.split(keys, max(window.max_block_elements // (2 * max(keys.shape[1], SKETCH_SIZE)), 1)):
        yield (window.rotation.undo(block, start) @ sketch).double()
        start += len(block)


def attended(window: ScoringWindow, keys: Tensor) -> Tensor:
    """Attention received within each chunk, mean over the group, times the value's length, smoothed; `[H, tokens]`.

    Args:
        window: with the prompt's queries.
        keys: `[H, tokens, head_dim]`, from `NUM_FIRST` on.
    """
    assert window.prompt is not None
    stop = NUM_FIRST + keys.shape[1]
    queries = window.prompt.queries[:, :, NUM_FIRST:stop]
    heads, group, count, _ = queries.shape
    num_rows = max(window.max_block_elements // (heads * group * CHUNK_SIZE), 1)
    received = torch.zeros(heads, count, dtype=torch.float32, device=keys.device)
    for start in range(0, count, CHUNK_SIZE):
        chunk = slice(start, start + CHUNK_SIZE)
        own = keys[:, chunk].float()[:, None].transpose(2, 3)
        for rows in torch.split(queries[:, :, chunk], num_rows, dim=2):
            received[:, chunk] += torch.softmax(rows.float() @ own, dim=-1).sum(dim=2).mean(dim=1)
        received[:, chunk] += 1 - own.shape[3] / CHUNK_SIZE
    lengths = joined(block.float().norm(dim=-1) for block in window.value_blocks())
    return average_pool(received * lengths[:, NUM_FIRST:stop], KERNEL_SIZE)


def standardized(scores: Tensor) -> Tensor:
    """Less their mean, over their standard deviation, both over all scores of the layer; float32."""
    deviations = scores.double() - scores.double().mean()
    spread = (deviations.square().sum() / max(scores.numel() - 1, 1)).sqrt()
    return (deviations / spread.clamp(min=MIN_DEVIATION)).float()


def gaussian_sketch(head_dim: int, device: torch.device) -> Tensor:
    """The same normal numbers for all heads, layers and prompts, of variance 1/48; float32 `[head_dim, 48]`."""
    rows, columns = torch.arange(head_dim, device=device)[:, None], torch.arange(SKETCH_SIZE, device=device)
    radii, turns = (hashed_noise((part, rows, columns), device).double() for part in (0, 1))
    normal = (-2 * torch.log1p(-radii)).sqrt() * (2 * math.pi * turns).cos()
    return (normal / math.sqrt(SKETCH_SIZE)).float()
