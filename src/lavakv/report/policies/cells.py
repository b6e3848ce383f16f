"""Filters of the template: one policy's cell in a table of a mode and a kept fraction."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lavakv.report.numbers import NONE, signed
from lavakv.report.policies.standing import Standing

_SIGNS = {"ahead": " ▲", "behind": " ▼", "open": ""}


def whole(value: float | None) -> str:
    """A share in percent without decimals; a dash where it is not known."""
    return NONE if value is None or math.isnan(value) else f"{value:.0f}"


def one_decimal(value: float | None) -> str:
    """A number with one decimal; a dash where it is not known."""
    return NONE if value is None or math.isnan(value) else f"{value:.1f}"


def nats(value: float) -> str:
    """A divergence with two significant digits."""
    return NONE if math.isnan(value) else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def cost_cell(value: float | None) -> str:
    """A cost in percent of the prefill, with two significant digits."""
    return NONE if value is None or math.isnan(value) else f"{value:.2g}" if value < 100 else f"{value:.0f}"


def share_cell(found: Sequence[Standing], policy: str) -> str:
    """A policy's share, bold if it is the best, marked if it differs from the baseline by more than chance."""
    own = _of(found, policy)
    if own is None:
        return NONE
    best = max(round(one.share.mean, 6) for one in found)
    sign = "" if own.lead is None else _SIGNS[own.lead.verdict]
    return _bold(whole(own.share.mean), round(own.share.mean, 6) == best) + sign


def kl_cell(found: Sequence[Standing], policy: str) -> str:
    """A policy's divergence, bold if it is the lowest."""
    own = _of(found, policy)
    if own is None or math.isnan(own.kl_nats):
        return NONE
    return _bold(nats(own.kl_nats), own.kl_nats == min(one.kl_nats for one in found if not math.isnan(one.kl_nats)))


def interval_cell(found: Sequence[Standing], policy: str) -> str:
    """A policy's share and the interval of its difference from the baseline."""
    own = _of(found, policy)
    if own is None:
        return NONE
    if own.lead is None:
        return whole(own.share.mean)
    return f"{whole(own.share.mean)} ({signed(own.lead.low, 0)} to {signed(own.lead.high, 0)})"


def _of(found: Sequence[Standing], policy: str) -> Standing | None:
    return next((one for one in found if one.policy == policy), None)


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text
