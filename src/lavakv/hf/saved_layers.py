"""State of the cache layers that are not compressed, as named tensors and plain numbers, and back.

Which attributes hold a layer's state is transformers' business: all of them are saved, if they are tensors or plain
numbers, and put back into a layer that transformers made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import LinearAttentionLayer

from lavakv.errors import UnsupportedError
from lavakv.hf.geometry import stock_layers
from lavakv.hf.layer import LavaLayer

_KINDS = {
    "DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer", "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer", "LinearAttentionAndSlidingWindowAttentionLayer", "LavaLayer",
    "LavaLinearLayer",
}  # fmt: skip
_HIDDEN = {"keys", "values"}  # of a compressed layer: in its store
_PLAIN = (bool, int, float, str, type(None))
_MADE_LATER = {"dtype", "device"}  # set by a layer's first keys


def layer_states(layers: Sequence[Any], config: PretrainedConfig) -> tuple[list[Any], dict[str, Tensor]]:
    """The state of a cache's layers, what compressed ones hold in their stores left out.

    Returns:
        For each layer its kind and numbers, ready for JSON; and all tensors by name.

    Raises:
        UnsupportedError: a layer of another kind, or with state of another kind; it is named.
    """
    records, tensors = [], dict[str, Tensor]()
    for index, (layer, stock) in enumerate(zip(layers, stock_layers(config), strict=True)):
        kind, numbers = type(layer).__name__, dict[str, Any]()
        if kind not in _KINDS or type(layer).__module__.partition(".")[0] not in ("transformers", "lavakv"):
            raise _unsupported(index, kind)
        for name, value in _items(layer, _names(layer, stock)):
            if isinstance(value, Tensor):
                tensors[f"{_prefix(index)}{name}"] = value
            elif isinstance(value, (torch.dtype, torch.device)):
                numbers[name] = {type(value).__name__: str(value).removeprefix("torch.")}
            elif isinstance(value, _PLAIN):
                numbers[name] = value
            else:
                raise _unsupported(index, f"{kind} with a {type(value).__name__} called {name}")
        records.append({"kind": kind, "numbers": numbers})
    return records, tensors


def restore_layers(
    layers: Sequence[Any],
    records: Sequence[Any],
    tensors: Mapping[str, Tensor],
    config: PretrainedConfig,
    devices: Sequence[torch.device],
) -> None:
    """Put states back into the layers of a new cache.

    Args:
        layers: of an empty cache.
        records: kind and numbers of each.
        tensors: as `layer_states` named them, among others.
        config: the model's.
        devices: of each layer.

    Raises:
        ValueError: state that these layers do not have, as in another transformers.
    """
    for index, (layer, record, stock) in enumerate(zip(layers, records, stock_layers(config), strict=True)):
        if record["kind"] != type(layer).__name__:
            raise ValueError(f"layer {index} is a {record['kind']}, and a {type(layer).__name__} here")
        known, prefix = _names(layer, stock) | (set() if isinstance(layer, LavaLayer) else _MADE_LATER), _prefix(index)
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for name, value in {**record["numbers"], **own}.items():
            attribute, _, key = name.partition(".")
            if attribute not in known:
                raise ValueError(f"layer {index} has a {attribute} that this transformers does not know")
            value = _put(value, devices[index])
            if key:
                getattr(layer, attribute)[int(key)] = value
            else:
                setattr(layer, attribute, value)


def _prefix(index: int) -> str:
    return f"states.{index}."


def _put(value: Any, device: torch.device) -> Any:
    """A saved value as a layer on this device has it."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return device if "device" in value else getattr(torch, value["dtype"])
    return value


def _names(layer: Any, stock: Any) -> set[str]:
    """Attributes with a layer's state."""
    if not isinstance(layer, LavaLayer):
        return set(vars(layer))
    return set(vars(stock)) - _HIDDEN if isinstance(layer, LinearAttentionLayer) else set()


def _items(layer: Any, names: set[str]) -> Iterator[tuple[str, Any]]:
    """A layer's state by name; what a dictionary holds has its key behind a point."""
    for name in sorted(names):
        value = getattr(layer, name)
        if isinstance(value, dict) and all(isinstance(key, int) for key in value):
            yield from ((f"{name}.{key}", each) for key, each in value.items())
        else:
            yield name, value


def _unsupported(index: int, got: str) -> UnsupportedError:
    return UnsupportedError(
        "cache", expected="layers whose state is tensors and numbers, of the kinds that lavakv can save",
        got=f"layer {index}, a {got}", fix="Keep the cache in memory; `copy.deepcopy` copies it.",
    )  # fmt: skip
