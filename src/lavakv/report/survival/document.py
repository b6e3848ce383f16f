"""The page of `lavakv inspect`."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lavakv.report.numbers import TIED, percent, size
from lavakv.report.page import render
from lavakv.report.sections.about import model_name
from lavakv.report.survival.inspection import Inspector, Survivors


def inspection_page(inspector: Inspector, survivors: Sequence[Survivors], model: str, window: int) -> str:
    """Write the page; it asks the network for nothing, and forbids itself to.

    Args:
        inspector: the prompt.
        survivors: of every policy and budget.
        model: name to show.
        window: last tokens that are always kept.

    Raises:
        UnsupportedError: jinja2 is not installed.
    """
    return render("inspect/page.html", model=model_name(model), data=page_data(inspector, survivors, window))


def page_data(inspector: Inspector, survivors: Sequence[Survivors], window: int) -> dict[str, Any]:
    """What the page's script reads; budgets from small to large, the same ones for every policy."""
    shares: dict[str, list[float]] = {}
    for one in survivors:
        shares.setdefault(one.budget, []).append(one.kept_fraction)
    budgets = sorted(shares, key=lambda budget: sum(shares[budget]) / len(shares[budget]))
    found = {(one.policy, one.budget): one for one in survivors}
    policies = list(dict.fromkeys(one.policy for one in survivors))
    return {
        "texts": inspector.texts,
        "question": "".join(inspector.question_texts),
        "queryAware": not inspector.question_texts,
        "heads": inspector.heads,
        "window": min(window, len(inspector.texts)),
        "budgets": [budget.replace("%", f"{TIED}%") if "%" in budget else f"{budget} a head" for budget in budgets],
        "fullAnswer": inspector.full_answer,
        "fullBytes": size(inspector.full_bytes),
        "policies": [
            {"name": policy, "sizes": [_size(found[policy, budget], inspector.full_bytes) for budget in budgets]}
            for policy in policies
        ],
    }


def _size(one: Survivors, full_bytes: int) -> dict[str, Any]:
    return {
        "kept": percent(one.kept_fraction),
        "perHead": round(one.kept_fraction * one.kept.shape[1]),
        "bytes": size(one.kv_bytes),
        "share": percent(one.kv_bytes / full_bytes),
        "loss": f"{one.estimated_loss:,.0f}" if one.estimated_loss >= 100 else f"{one.estimated_loss:.3g}",
        "answer": one.answer,
        "mask": packed(one.kept),
    }


def packed(kept: Any) -> str:
    """Bits, row after row, the lowest bit first; deflated, in base64."""
    return base64.b64encode(zlib.compress(np.packbits(kept, axis=None, bitorder="little").tobytes(), 9)).decode("ascii")
