"""Budgets as a picture of characters: one column a layer, one row a head."""

from __future__ import annotations

from rich.text import Text
from torch import Tensor

_STEPS = "▁▂▃▄▅▆▇█"
_COLOURS = ("grey37", "steel_blue", "dark_cyan", "sea_green3", "yellow3", "orange3", "orange_red1", "red3")


def budget_picture(head_entries: Tensor, num_tokens: int) -> Text:
    """Draw how much of a prompt each head of each layer keeps, from nothing (low) to all of it (high).

    Args:
        head_entries: int64 `[layers, heads]`, kept entries, window included; 0 for a head that a layer lacks.
        num_tokens: prompt length.
    """
    layers, heads = head_entries.shape
    picture = Text(no_wrap=True)
    for head in range(heads):
        picture.append(f"head {head:<3} ")
        for layer in range(layers):
            entries = int(head_entries[layer, head])
            step = min(entries * len(_STEPS) // num_tokens, len(_STEPS) - 1)
            picture.append(_STEPS[step] if entries else " ", style=_COLOURS[step])
        share = float(head_entries[:, head].sum()) / (layers * num_tokens)
        picture.append(f" {share:.0%}\n")
    picture.append(f"layer    0{'':<{max(layers - 1 - len(str(layers - 1)), 0)}}{layers - 1}")
    return picture
