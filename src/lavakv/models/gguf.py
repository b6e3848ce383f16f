"""GGUF files, converted once to a transformers folder: loading one directly costs most of a minute every time."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lavakv.errors import LavaError, ModelError
from lavakv.models.home import made_once
from lavakv.models.weights import require_all_weights

_MAGIC = b"GGUF"


def converted(file: Path) -> Path:
    """The transformers folder made from a GGUF file; found again by the file's content.

    Raises:
        ModelError: not a GGUF file, a damaged one, or an architecture that transformers cannot convert.
    """
    require_gguf(file)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return made_once(f"gguf-{digest[:16]}", lambda staged, _: convert(file, staged))


def require_gguf(file: Path) -> None:
    """Raise ModelError if a file is not a GGUF, or the packages that read one are missing."""
    try:
        with file.open("rb") as content:
            start = content.read(8)
    except OSError as error:
        raise ModelError(
            f"model file {file}",
            expected="a file that can be read",
            got=str(error.strerror),
            fix="Check its permissions.",
        ) from error
    if start[:4] != _MAGIC or len(start) < 8:
        raise ModelError(
            f"model file {file}",
            expected="a GGUF file",
            got=f"a file that starts with {start[:4]!r}",
            fix="Check the download; other formats are given as a directory.",
        )
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"model file {file}",
            expected="the packages that read GGUF files",
            got=f"no {' and no '.join(missing)}",
            fix="Install them: pip install 'lavakv[gguf]'.",
        )


def convert(file: Path, folder: Path) -> None:
    """Write a GGUF's weights, dequantised to float32, and its tokenizer as a transformers folder.

    Raises:
        ModelError: what transformers or gguf could not read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        loaded, report = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
        require_all_weights(f"model file {file}", report)
    except LavaError:
        raise
    except Exception as error:  # whatever a damaged file makes its readers do
        raise ModelError(
            f"model file {file}",
            expected="a whole GGUF file of an architecture that transformers converts",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
            fix="Download it again, or convert the original weights.",
        ) from error
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # transformers won't save what it dequantised
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
