"""H2O's score (arXiv 2306.14048): the attention a position has received from all later ones."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.logits import QueryRows, masked_logits
from lavakv.scoring.window import ScoringWindow

BLOCK_ROWS = 256


def h2o_score(window: ScoringWindow) -> Tensor:
    """Group mean of the attention received, summed over all rows, float32 `[H, n]`. Needs the prompt's queries.

    Computed in blocks of rows, so that the whole attention matrix never exists.
    """
    assert window.prompt is not None
    keys = torch.cat(list(window.keys), dim=1)
    queries, visible = window.prompt
    num_tokens, received = keys.shape[1], torch.zeros(keys.shape[:2], device=keys.device)
    for start in range(0, num_tokens, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, num_tokens)
        seen = num_tokens if visible is not None else stop
        rows = QueryRows(queries[:, :, start:stop], start, None if visible is None else visible(start, stop))
        logits = masked_logits(rows, keys[:, :seen], window.scaling, window.softcap, window.sinks)
        received[:, :seen] += torch.softmax(logits, dim=-1)[..., :seen].sum(dim=2).mean(dim=1)
    return received[:, : window.num_evictable]
