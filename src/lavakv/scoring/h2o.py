"""H2O's score (arXiv 2306.14048): the attention a position has received from all later ones."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.logits import QueryRows, masked_logits
from lavakv.scoring.window import ScoringWindow

BLOCK_ROWS = 256


def h2o_score(window: ScoringWindow) -> Tensor:
    """Group mean of the attention received, summed over all rows, float32 `[H, n]`. Needs the prompt's queries.

    Computed in blocks of one head's rows, in the same memory, so that the whole attention matrix never exists; the
    longer the prompt, the fewer rows.
    """
    assert window.prompt is not None
    keys = window.keys[0] if len(window.keys) == 1 else torch.cat(list(window.keys), dim=1)
    queries, visible = window.prompt
    heads, num_tokens = keys.shape[:2]
    received = torch.zeros(heads, num_tokens, device=keys.device)
    row_numbers = queries.shape[1] * (num_tokens + 1)
    num_rows = max(min(BLOCK_ROWS, num_tokens, window.block_numbers // row_numbers), 1)
    room = received.new_empty(2, num_rows * row_numbers)
    for start in range(0, num_tokens, num_rows):
        stop = min(start + num_rows, num_tokens)
        seen = num_tokens if visible is not None else stop
        shown = None if visible is None else visible(start, stop)
        for head in range(heads):
            one = slice(head, head + 1)
            rows = QueryRows(queries[one, :, start:stop], start, shown)
            sinks = None if window.sinks is None else window.sinks[one]
            logits = masked_logits(rows, keys[one, :seen], window.scaling, window.softcap, sinks, room[0])
            paid = torch.softmax(logits, dim=-1, out=room[1, : logits.numel()].view(logits.shape))
            received[head, :seen] += paid[0, ..., :seen].sum(dim=(0, 1)) / queries.shape[1]
    return received[:, : window.num_evictable]
