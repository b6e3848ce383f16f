"""Loading a model and its tokenizer by name."""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers import AutoModelForCausalLM, AutoTokenizer

from lavakv.errors import LavaError, ModelError
from lavakv.models.choices import require_dtype
from lavakv.models.default import DEFAULT_MODEL, default_model_dir
from lavakv.models.gguf import converted_dir
from lavakv.models.placement import device_of, dtype_of
from lavakv.models.source import source_of
from lavakv.models.weights import require_all_weights


class LoadedModel(NamedTuple):
    """A model ready to generate.

    Attributes:
        name: as the user gave it.
        model: the transformers model, in eval mode, on its device.
        tokenizer: its tokenizer.
    """

    name: str
    model: Any
    tokenizer: Any


def load(
    name: str = DEFAULT_MODEL, *, dtype: str = "auto", device: str = "auto", attention: str | None = None
) -> LoadedModel:
    """Load a model.

    Args:
        name: `smollm2`, a directory, a GGUF file, or a Hugging Face id.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: float32 on a CPU, what the weights are in elsewhere.
        device: a torch device, or `auto`: the first GPU, else the CPU.
        attention: a transformers attention implementation, or None for the model's default.

    Raises:
        ModelError: it cannot be found, fetched or read.
        InputError: an unknown dtype or device.
    """
    require_dtype(dtype)
    target = device_of(device)
    source = resolve(name)
    options: dict[str, Any] = {"dtype": dtype_of(dtype, target)}
    if attention is not None:
        options["attn_implementation"] = attention
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model, report = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
        require_all_weights(f"model {name!r}", report)
        model = model.to(target).eval()
    except LavaError:
        raise
    except Exception as error:  # third-party files may make transformers raise anything
        raise ModelError(
            f"model {name!r}",
            expected="a causal language model that transformers can load",
            got=_first_line(error),
            fix=f"Give a Hugging Face id, a directory with config.json and weights, a GGUF file, or {DEFAULT_MODEL}.",
        ) from error
    return LoadedModel(name, model, tokenizer)


def resolve(name: str) -> str:
    """What transformers should load: a directory's path, or a Hugging Face id as it is.

    Raises:
        ModelError: a path that does not exist, a directory without a model, an unreadable GGUF.
    """
    kind, path = source_of(name)
    if kind == "default":
        return str(default_model_dir())
    if path is None:
        return name
    return str(converted_dir(path) if kind == "gguf" else path)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
