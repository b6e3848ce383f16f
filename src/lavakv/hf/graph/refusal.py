"""Why a decode step is not captured, and saying so once."""

from __future__ import annotations

import warnings

from lavakv.hf.tail_watch import stacklevel

_warned: set[str] = set()


class CannotCapture(Exception):  # noqa: N818  never leaves lavakv
    """A forward that a graph cannot record; the message says why."""


def warn_once(reason: str) -> None:
    """Warn that a GPU decodes without a graph, once for each reason."""
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(
            f"lavakv: decoding without a graph, which is slower: {reason}. `LavaCache(graph=False)` says that this is "
            "expected.",
            stacklevel=stacklevel(),
        )
