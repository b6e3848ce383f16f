"""A session's snapshot as named tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lavakv.eviction.records import Budgets
from lavakv.eviction.session import SessionSnapshot
from lavakv.store.base import StoreSnapshot
from lavakv.store.quantiser import Quantiser


def layer_prefix(index: int) -> str:
    """How the names of a layer's tensors begin; `index` counts the model's cache layers."""
    return f"layers.{index}."


def session_tensors(snapshot: SessionSnapshot, layer_indices: Sequence[int]) -> dict[str, Tensor]:
    """A snapshot as named tensors; numbers become int64 scalars.

    Args:
        snapshot: of a session.
        layer_indices: the model's index of each of its layers.
    """
    named = {"columns.real": snapshot.real, "columns.tokens": snapshot.tokens}
    named |= {f"budgets.{name}": part for name, part in snapshot.budgets._asdict().items()}
    for index, store in zip(layer_indices, snapshot.stores, strict=True):
        for name, part in store._asdict().items():
            if part is not None:
                named[layer_prefix(index) + name] = part if isinstance(part, Tensor) else torch.tensor(part)
    for name, parts in (("queries", snapshot.queries), ("norms", snapshot.norms)):
        named |= {f"{layer_prefix(index)}{name}": part for index, part in parts.items()}
    return named


def session_snapshot(
    tensors: Mapping[str, Tensor], layer_indices: Sequence[int], num_heads: Sequence[int], devices: Sequence[Any]
) -> SessionSnapshot:
    """The snapshot that `session_tensors` took apart, checked.

    Args:
        tensors: by name.
        layer_indices: the model's index of each compressed layer.
        num_heads: KV heads of each.
        devices: of each; the columns go to the first one's.

    Raises:
        KeyError: a tensor is missing.
        ValueError: tensors that do not fit together.
    """
    real, tokens = (tensors[f"columns.{name}"].to(devices[0]) for name in ("real", "tokens"))
    budgets = Budgets(*(tensors[f"budgets.{name}"] for name in Budgets._fields))
    stores = []
    for index, heads, device in zip(layer_indices, num_heads, devices, strict=True):
        parts = {name: tensors[layer_prefix(index) + name] for name in StoreSnapshot._fields if name != "kv_bits"}
        bits = tensors.get(f"{layer_prefix(index)}kv_bits")
        kv_bits = None if bits is None else int(bits)
        _check_store(parts, real.shape, heads, kv_bits)
        count, counts = int(parts.pop("num_columns")), parts.pop("past_counts")
        own = {name: part.to(device) for name, part in parts.items()}
        stores.append(StoreSnapshot(**own, past_counts=counts, num_columns=count, kv_bits=kv_bits))
    _require(len({store.tail_keys.shape[2] for store in stores}) == 1, "tails of unequal length")
    _require(real.dtype == torch.bool and tokens.dtype == torch.int64 and tokens.shape == real.shape, "odd columns")
    per_layer, shape = (len(stores), real.shape[0]), budgets.head_entries.shape
    _require(all(part.shape[:2] == per_layer for part in budgets), "budgets of other layers or sequences")
    _require(shape[2:] == (max(num_heads),), "budgets of other heads")
    log = [_log_parts(tensors, name, layer_indices, devices, real.shape[0]) for name in ("queries", "norms")]
    return SessionSnapshot(real, tokens, budgets, tuple(stores), None, *log)


def _log_parts(
    tensors: Mapping[str, Tensor], name: str, layer_indices: Sequence[int], devices: Sequence[Any], batch: int
) -> dict[int, Tensor]:
    """The last queries, or the norms that go with them, of every layer or of none."""
    places = [(index, device, layer_prefix(index) + name) for index, device in zip(layer_indices, devices, strict=True)]
    found = {index: tensors[key].to(device) for index, device, key in places if key in tensors}
    _require(len(found) in (0, len(layer_indices)), f"{name} of some layers only")
    shape = (4, 2) if name == "queries" else (2, 1)
    _require(all(part.ndim == shape[0] and part.shape[0] == batch for part in found.values()), f"{name} of other rows")
    _require(len({part.shape[shape[1]] for part in found.values()}) <= 1, f"{name} of unequal length")
    return found


def _check_store(parts: Mapping[str, Tensor], columns: torch.Size, heads: int, kv_bits: int | None) -> None:
    """Check what a kernel would otherwise read outside of its buffers for."""
    counts, past, tail = parts["past_counts"], parts["past_columns"], parts["tail_keys"]
    _require(counts.dtype == torch.int64 and tuple(counts.shape) == (columns[0], heads), "counts of other heads")
    entries = len(past)
    _require(bool((counts >= 0).all()) and int(counts.sum()) == entries, "other counts than entries")
    _require(int(parts["num_columns"]) == columns[1], "layers of unequal length")
    start = columns[1] - tail.shape[2]
    _require(past.dtype == torch.int32 and bool(((past >= 0) & (past < start)).all()), "entries outside the past")
    for kind in ("keys", "values"):
        held, new = parts[f"past_{kind}"], parts[f"tail_{kind}"]
        _require(new.ndim == 4 and new.shape[:3] == (columns[0], heads, tail.shape[2]), f"a tail of other {kind}")
        width, dtype = new.shape[3], new.dtype
        if kv_bits is not None:
            width, dtype = Quantiser(kv_bits, width).row_bytes, torch.uint8
        _require(tuple(held.shape) == (entries, width) and held.dtype == dtype, f"a past of other {kind}")


def _require(right: bool, wrong: str) -> None:
    if not right:
        raise ValueError(wrong)
