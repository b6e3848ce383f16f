"""What a model's name means: a directory, a GGUF file, a Hugging Face id or the default. Needs no PyTorch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

from lavakv.errors import ModelError
from lavakv.models.default import DEFAULT_MODEL
from lavakv.models.gguf_file import require_gguf

CONFIG = "config.json"
_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json", "*.pt", "*.pth")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class Source(NamedTuple):
    """Where a model comes from.

    Attributes:
        kind: what the name means.
        path: of the directory or file; None for the hub and the default model.
    """

    kind: Literal["default", "directory", "gguf", "hub"]
    path: Path | None = None


def source_of(name: str) -> Source:
    """Resolve a model's name, and check the small files that every model has.

    Args:
        name: `smollm2`, a directory, a GGUF file, or a Hugging Face id (which is not looked up).

    Raises:
        ModelError: a path that does not exist, a directory without a model, a file that is not a GGUF.
    """
    if name == DEFAULT_MODEL:
        return Source("default")
    path = Path(os.path.expanduser(name))
    try:
        if path.is_dir():
            _require_model(name, path)
            return Source("directory", path)
        if path.is_file():
            require_gguf(path)
            return Source("gguf", path)
    except (OSError, ValueError) as error:  # no permission, a name that is too long, a null character
        if isinstance(error, ModelError):
            raise
        raise _not_a_model(name, f"{getattr(error, 'strerror', None) or error}") from error
    if not _HUB_ID.fullmatch(name) or name.endswith(".gguf"):
        raise _not_a_model(name, "nothing of that name")
    return Source("hub")


def _require_model(name: str, folder: Path) -> None:
    """Raise ModelError unless a directory holds a configuration that is JSON, and some weights."""
    file = folder / CONFIG
    if not file.exists():
        if (folder / "adapter_config.json").exists():
            raise _not_a_model(
                name,
                f"a directory with an adapter and no {CONFIG}",
                "Merge the adapter into its base model (peft: merge_and_unload), save that, and name its directory.",
            )
        raise _not_a_model(name, f"a directory without {CONFIG}", f"Name the directory that holds {CONFIG}.")
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise _not_a_model(name, f"{file}, which is not JSON ({error})", "Restore or download that file.") from error
    if not isinstance(config, dict):
        raise _not_a_model(name, f"{file}, which is not a JSON object", "Restore or download that file.")
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        raise _not_a_model(
            name, f"a directory without weights ({', '.join(_WEIGHTS[:2])})", "Download the weights into it."
        )


def _not_a_model(name: str, got: str, fix: str = "Check the path.") -> ModelError:
    return ModelError(
        f"model {name!r}",
        expected=f"a directory, a GGUF file, a Hugging Face id (owner/name) or {DEFAULT_MODEL}",
        got=got,
        fix=fix,
    )
