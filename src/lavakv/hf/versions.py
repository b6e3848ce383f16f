"""Which transformers lavakv knows, and what is said where another one behaves differently."""

from __future__ import annotations

import transformers

from lavakv._version import __version__
from lavakv.errors import UnsupportedError

OLDEST, NEWEST = "5.17", "5.24"


def versions() -> str:
    """Half a sentence that says which transformers is installed and which ones lavakv knows."""
    return f"transformers is {transformers.__version__}, and lavakv {__version__} knows {OLDEST} to {NEWEST}"


def changed(what: str, expected: str, got: str) -> UnsupportedError:
    """The error for something in transformers that lavakv relies on and does not find.

    Args:
        what: the part of transformers, or the model.
        expected: what lavakv relies on.
        got: what was found.
    """
    known = f"{OLDEST} to {NEWEST}"
    return UnsupportedError(
        what,
        expected=expected,
        got=got,
        fix=f"Here {versions()}: install one of {known} or a newer lavakv. If it is one of {known}, this architecture "
        "is not supported.",
    )
