"""The page of `lavakv inspect`."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from lavakv.report.numbers import TIED, percent, size
from lavakv.report.page import render
from lavakv.report.sections.about import model_name
from lavakv.report.survival.inspection import Inspector, Survivors

_LABEL_ROUNDING = 0.0005  # budgets are named in tenths of a percent


def inspection_page(inspector: Inspector, survivors: Sequence[Survivors], model: str, window: int) -> str:
    """The page as HTML, self-contained and without any network access.

    Args:
        inspector: the prompt.
        survivors: for every policy and budget.
        model: name to show.
        window: last tokens that every policy always keeps.

    Raises:
        UnsupportedError: jinja2 is not installed.
    """
    return render("inspect/page.html", model=model_name(model), data=page_data(inspector, survivors, window))


def page_data(inspector: Inspector, survivors: Sequence[Survivors], window: int) -> dict[str, Any]:
    """The data of the page's script; budgets from small to large, the same for every policy."""
    shares: dict[str, list[float]] = {}
    for one in survivors:
        shares.setdefault(one.budget, []).append(one.kept_fraction)
    budgets = sorted(shares, key=lambda budget: (fmean(shares[budget]), float(budget.rstrip("%"))))
    found = {(one.policy, one.budget): one for one in survivors}
    policies = list(dict.fromkeys(one.policy for one in survivors))
    return {
        "texts": inspector.texts,
        "question": "".join(inspector.question_texts),
        "queryAware": not inspector.question_texts,
        "heads": inspector.heads,
        "window": min(window, len(inspector.texts)),
        "budgets": [budget_label(budget, shares[budget], len(inspector.texts)) for budget in budgets],
        "fullAnswer": inspector.full_answer,
        "fullBytes": size(inspector.full_bytes),
        "policies": [
            {"name": policy, "sizes": [_size(found[policy, budget], inspector.full_bytes) for budget in budgets]}
            for policy in policies
        ],
    }


def budget_label(requested: str, kept_fractions: Sequence[float], num_tokens: int) -> str:
    """The slider's label: the requested budget, or what is kept and what was requested if these differ.

    They differ because a kept fraction has a minimum, and no budget keeps more than the prompt.

    Args:
        requested: budget as text, "25%" or a number of entries per head.
        kept_fractions: shares of all entries that the policies keep with it.
        num_tokens: length of the prompt.
    """
    low, high = min(kept_fractions), max(kept_fractions)
    kept = percent(low) if percent(low) == percent(high) else f"{percent(low)} to {percent(high)}"
    if requested.endswith("%"):
        fraction, shown = float(requested[:-1]) / 100, requested.replace("%", f"{TIED}%")
        is_met, met = max(high - fraction, fraction - low) <= 0.5 / num_tokens + _LABEL_ROUNDING, shown
    else:
        tokens, shown = int(requested), f"{requested} per head"
        is_met, met = max(high * num_tokens - tokens, tokens - low * num_tokens) <= 0.5, f"{shown}, {kept}"
    return met if is_met else f"{kept} kept, {shown} requested"


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
    """Bits row by row, the lowest bit first; deflated, in base64."""
    return base64.b64encode(zlib.compress(np.packbits(kept, axis=None, bitorder="little").tobytes(), 9)).decode("ascii")
