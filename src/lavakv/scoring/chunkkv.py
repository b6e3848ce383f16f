"""ChunkKV (arXiv 2502.00299): whole chunks of neighbouring tokens stay, by the mean of any score over the chunk.

As in the first author's code (`ChunkKVPress` in kvpress), all KV heads of a layer keep the same chunks, of 20 tokens:
the score is summed over them. Reusing one layer's chunks in the next, which the paper also proposes, is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lavakv.scoring.means import mean_by_group
from lavakv.scoring.window import ScoringWindow

CHUNK_SIZE = 20


@dataclass(frozen=True)
class ChunkedScore:
    """A score that gives each candidate its chunk's mean of another score over all heads.

    Chunks are those of the sequence: positions `0` to `chunk_size - 1` and so on, the last one cut at the window. Where
    heads hold different candidates, the mean runs over those that are held.

    Attributes:
        score: from a window to `[H, n]`.
        chunk_size: tokens of a chunk.
    """

    score: Callable[[ScoringWindow], Tensor]
    chunk_size: int = CHUNK_SIZE

    def __call__(self, window: ScoringWindow) -> Tensor:
        """The chunks' means, the same in all heads that hold them, float32 `[H, n]`."""
        own, size = self.score(window).double(), self.chunk_size
        plain = _means(own, size).expand(len(own), -1)
        if window.caps is None and window.positions is None:
            return plain.float()
        places = torch.arange(window.num_evictable, device=own.device)
        positions = window.without_empty(window.candidate_positions, -size)  # empty places have their own chunk
        ragged = mean_by_group(own, torch.div(positions, size, rounding_mode="floor"))
        return torch.where((positions == places).all(), plain, ragged).float()  # a prompt's, to the bit


def _means(score: Tensor, chunk_size: int) -> Tensor:
    """Mean over heads and the chunk of each place, `[1, n]`, of scores `[H, n]`."""
    summed, count = score.sum(dim=0, keepdim=True), score.shape[1]
    padded = torch.nn.functional.pad(summed, (0, -count % chunk_size)).view(1, -1, chunk_size)
    sizes = (count - torch.arange(0, count, chunk_size, device=score.device)).clamp(max=chunk_size) * len(score)
    means = padded.sum(dim=2) / sizes
    return means.repeat_interleave(chunk_size, dim=1)[:, :count]
