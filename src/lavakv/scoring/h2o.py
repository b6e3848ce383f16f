"""H2O's score (arXiv 2306.14048): the attention a position has received from all later ones."""

from __future__ import annotations

import torch
from torch import Tensor

from lavakv.scoring.blocks import QueryRows, masked_logits, plain_logits
from lavakv.scoring.received import add_causal
from lavakv.scoring.window import ScoringWindow

BLOCK_ROWS = 256


def h2o_score(window: ScoringWindow) -> Tensor:
    """Group mean of the attention received, summed over all rows, float32 `[H, n]`. Needs the prompt's queries.

    A round after the prompt has only the window's rows at hand (`caps` is given, `prompt` is not): then the sum runs
    over those, which ranks a head's entries as their mean attention does.

    Computed in blocks of one head's rows, in the same memory, so that the whole attention matrix never exists; the
    longer the prompt, the fewer rows.
    """
    if window.prompt is None and window.caps is not None:
        return window.reduce(lambda rows: rows.sum(dim=2)).mean(dim=1)
    assert window.prompt is not None
    keys = window.keys[0] if len(window.keys) == 1 else torch.cat(list(window.keys), dim=1)
    queries, visible, _ = window.prompt
    heads, num_tokens = keys.shape[:2]
    received = torch.zeros(heads, num_tokens, dtype=torch.float32, device=keys.device)
    row_elements = queries.shape[1] * (num_tokens + 1)
    num_rows = max(min(BLOCK_ROWS, num_tokens, window.max_block_elements // row_elements), 1)
    workspace = received.new_empty(2, num_rows * row_elements)
    for start in range(0, num_tokens, num_rows):
        stop = min(start + num_rows, num_tokens)
        seen = num_tokens if visible is not None else stop
        shown = None if visible is None else visible(start, stop)
        for head in range(heads):
            rows = QueryRows(queries[head : head + 1, :, start:stop], start, shown)
            _add(received[head, :seen], window, rows, head, keys[head : head + 1, :seen], workspace)
    return received[:, : window.num_evictable]


def _add(received: Tensor, window: ScoringWindow, rows: QueryRows, head: int, keys: Tensor, workspace: Tensor) -> None:
    """Add what some rows of a head pay, to `[tokens]`."""
    group = rows.queries.shape[1]
    if rows.visible is None and window.sinks is None and received.device.type == "cpu":
        logits = plain_logits(rows, keys, window.scaling, window.softcap, workspace[0])[0]
        if add_causal(logits, rows.first, 1 / group, received):
            return
    sinks = None if window.sinks is None else window.sinks[head : head + 1]
    logits = masked_logits(rows, keys, window.scaling, window.softcap, sinks, workspace[0])
    paid = torch.softmax(logits, dim=-1, out=workspace[1, : logits.numel()].view(logits.shape))
    received += paid[0, ..., : len(received)].sum(dim=(0, 1)) / group
