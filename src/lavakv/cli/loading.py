"""Loading a model for a command: a spinner, and transformers' own bars and warnings kept quiet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from logging import CRITICAL
from typing import TYPE_CHECKING

from lavakv.cli.console import notes, working

if TYPE_CHECKING:
    from lavakv.models.load import LoadedModel


@contextmanager
def starting() -> Iterator[None]:
    """A spinner while PyTorch and transformers are imported: the first import after a start takes seconds."""
    with working("Starting PyTorch"):
        yield


def load_quietly(name: str, dtype: str, device: str, attention: str | None) -> LoadedModel:
    """Load a model; see `lavakv.models.load.load`."""
    with working(f"Loading {name}"):
        quieten()
        from lavakv.models.load import load

        return load(name, dtype=dtype, device=device, attention=attention)


def quieten() -> None:
    """Keep the bars and warnings of transformers and its hub client off the terminal."""
    if not notes.is_terminal:
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when the conversion's bars are made
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity(CRITICAL)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
