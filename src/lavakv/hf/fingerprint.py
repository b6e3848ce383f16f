"""What a saved context says about the model that computed it, and whether another model is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lavakv.errors import CacheMismatchError
from lavakv.hf.geometry import geometry_of, stock_layers

_SAMPLES = 64  # of each parameter, evenly spaced


def describe_model(config: PretrainedConfig, decoder: nn.Module | None) -> dict[str, Any]:
    """What must be equal in two models for one to go on where the other stopped, ready for JSON.

    Args:
        config: the model's.
        decoder: the model without its head, or None if it is not at hand.

    Returns:
        `config_type` and `geometry` (architecture, layers, KV heads, head sizes), `layers` (kind and window of each
        cache layer), `rotation` (RoPE's settings); and of the decoder `dtype` and `weights`, see `weights_digest`, or
        None.
    """
    text = config.get_text_config(decoder=True)
    layers = [[type(layer).__name__, getattr(layer, "sliding_window", None)] for layer in stock_layers(config)]
    rotation = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None)
    described = {
        "config_type": config.model_type,
        "geometry": asdict(geometry_of(config)),
        "layers": layers,
        "rotation": rotation,
        "dtype": None if decoder is None else _name(decoder.dtype),
        "weights": None if decoder is None else weights_digest(decoder),
    }
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain


def weights_digest(decoder: nn.Module) -> str | None:
    """A cheap fingerprint of a decoder's weights: SHA-256 in hex.

    Covers name, shape and dtype of every parameter, and 64 evenly spaced numbers of each, so another checkpoint, a
    fine-tuned one, a merged adapter or one in other layers shows. A change of a few numbers does not, nor does which of
    several loaded adapters is active. Buffers and the language-model head are left out.

    Returns:
        None where parameters cannot be read: offloaded, sharded, or of a quantised kind.
    """
    names, samples = list[str](), list[Tensor]()
    for name, parameter in decoder.named_parameters():
        if type(parameter) is not nn.Parameter or parameter.is_meta or parameter.layout is not torch.strided:
            return None
        flat, names = parameter.detach().reshape(-1), [*names, f"{name} {list(parameter.shape)} {parameter.dtype}"]
        step = max(flat.numel() // _SAMPLES, 1)
        samples.append(flat[::step][:_SAMPLES].cpu().double())
    found = hashlib.sha256("\n".join(names).encode())
    found.update(torch.cat(samples).numpy().tobytes() if samples else b"")
    return found.hexdigest()


def check_same_model(
    argument: str,
    saved: Mapping[str, Any],
    config: PretrainedConfig,
    decoder: nn.Module | None,
    keys_dtype: torch.dtype,
) -> None:
    """Check that a model, or as far as it tells a configuration, is the one that computed a saved context.

    Args:
        argument: what names the model.
        saved: what `describe_model` said when the context was saved.
        config: of the model that is to go on.
        decoder: this model without its head, or None.
        keys_dtype: dtype of the saved keys, for contexts whose model was gone when they were saved.

    Raises:
        CacheMismatchError: another architecture, geometry, dtype, or other weights.
    """
    found = describe_model(config, decoder)
    for part in ("config_type", "geometry", "layers", "rotation"):
        if found[part] != saved[part]:
            raise _mismatch(argument, *_first_difference(part, saved[part], found[part]))
    dtype = saved["dtype"] or _name(keys_dtype)
    if decoder is not None and found["dtype"] != dtype:
        raise _mismatch(argument, f"in {dtype}", found["dtype"])
    if None not in (found["weights"], saved["weights"]) and found["weights"] != saved["weights"]:
        raise _mismatch(argument, "with the same weights", "one of this architecture with other weights")


def _first_difference(part: str, saved: Any, found: Any) -> tuple[str, str]:
    """In words, what was saved and what was found, of the first part in which they differ."""
    if isinstance(saved, dict) and isinstance(found, dict):
        name = next(name for name in {**found, **saved} if saved.get(name) != found.get(name))
        part, saved, found = name, saved.get(name), found.get(name)
    word = {"config_type": "architecture"}.get(part, part.replace("_", " "))
    return f"with {word} {_short(saved)}", f"{word} {_short(found)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _mismatch(argument: str, expected: str, got: str) -> CacheMismatchError:
    return CacheMismatchError(
        argument, expected=f"the model that the context was computed with: {expected}", got=got,
        fix="Load it with that model, or compress the text again with this one.",
    )  # fmt: skip


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
