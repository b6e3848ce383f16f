"""GGUF files, converted once to a transformers folder: loading one directly takes most of a minute."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

from lavakv.errors import LavaError, ModelError
from lavakv.models.gguf_file import gguf_architecture, require_gguf
from lavakv.models.home import get_or_make_folder
from lavakv.models.weights import require_all_weights

__all__ = ["convert", "converted_dir", "require_gguf"]


def converted_dir(file: Path) -> Path:
    """The transformers folder made from a GGUF file, made once for the same content.

    Raises:
        ModelError: not a GGUF file, a damaged one, or an architecture that transformers cannot convert.
    """
    require_gguf(file)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return get_or_make_folder(f"gguf-{digest[:16]}", lambda staged, _: convert(file, staged))


def convert(file: Path, folder: Path) -> None:
    """Write a GGUF's weights, dequantised to float32, and its tokenizer as a transformers folder.

    Raises:
        ModelError: an architecture that transformers does not convert, or a file that it or gguf could not read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        loaded, report = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
        require_all_weights(f"model file {file}", report)
    except LavaError:
        raise
    except Exception as error:  # a damaged file may make its readers raise anything
        raise _unreadable(file, error) from error
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # transformers won't save what it dequantised
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _unreadable(file: Path, error: Exception) -> ModelError:
    """The error for a file that could not be converted: another download does not help an unknown architecture."""
    from transformers import __version__

    text, architecture = str(error).strip(), gguf_architecture(file)
    if architecture is not None and architecture in text and "not supported" in text:
        return ModelError(
            f"model file {file}",
            expected=f"an architecture that transformers {__version__} converts from GGUF",
            got=repr(architecture),
            fix="Give the original weights as a directory or a Hugging Face id.",
        )
    return ModelError(
        f"model file {file}",
        expected="a whole GGUF file that transformers can convert",
        got=f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}",
        fix="Compare its size or checksum with the original's, or give the original weights as a directory.",
    )
