"""Saved contexts: a session's snapshot as named tensors and back, and the file that holds them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lavakv.errors import InputError
from lavakv.eviction.records import Budgets
from lavakv.eviction.saved_header import (
    ITEMSIZES,
    KEY,
    SavedHeader,
    TensorEntry,
    damaged,
    digest,
    open_context,
    parse,
)
from lavakv.eviction.session import SessionSnapshot
from lavakv.files import unwritable, write_file
from lavakv.store.base import StoreSnapshot
from lavakv.store.growing import storing

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "F16": torch.float16,
    "BF16": torch.bfloat16, "I32": torch.int32, "F32": torch.float32, "I64": torch.int64, "F64": torch.float64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


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
            named[layer_prefix(index) + name] = part if isinstance(part, Tensor) else torch.tensor(part)
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
        parts = {name: tensors[layer_prefix(index) + name] for name in StoreSnapshot._fields}
        _check_store(parts, real.shape, heads)
        count, counts = int(parts.pop("num_columns")), parts.pop("past_counts")
        stores.append(
            StoreSnapshot(**{k: v.to(device) for k, v in parts.items()}, past_counts=counts, num_columns=count)
        )
    _require(len({store.tail_keys.shape[2] for store in stores}) == 1, "tails of unequal length")
    _require(real.dtype == torch.bool and tokens.dtype == torch.int64 and tokens.shape == real.shape, "odd columns")
    per_layer, shape = (len(stores), real.shape[0]), budgets.head_entries.shape
    _require(all(part.shape[:2] == per_layer for part in budgets), "budgets of other layers or sequences")
    _require(shape[2:] == (max(num_heads),), "budgets of other heads")
    return SessionSnapshot(real, tokens, budgets, tuple(stores))


def _check_store(parts: Mapping[str, Tensor], columns: torch.Size, heads: int) -> None:
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
        _require(tuple(held.shape) == (entries, new.shape[3]) and held.dtype == new.dtype, f"a past of other {kind}")


def _require(right: bool, wrong: str) -> None:
    if not right:
        raise ValueError(wrong)


def write_context(argument: str, path: Path, header: SavedHeader, tensors: Mapping[str, Tensor]) -> None:
    """Write a saved context, whole or not at all.

    Args:
        argument: what names the file, for errors.
        path: the file; one that is there is replaced.
        header: without its checksum.
        tensors: by name, on any device.

    Raises:
        InputError: the file cannot be written; what was there is unchanged.
        DiskError: the disk is full or broken; likewise.
    """
    ordered = sorted(tensors.items(), key=lambda each: (-each[1].itemsize, each[0]))  # wide first: all are aligned
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in ordered}
    entries, start = {}, 0
    for name, tensor in held.items():
        entries[name] = TensorEntry(_NAMES[tensor.dtype], tuple(tensor.shape), start, start + tensor.nbytes)
        start += tensor.nbytes
    checksum = digest(header, entries)
    for tensor in held.values():
        checksum.update(_bytes_of(tensor))
    table: dict[str, Any] = {"__metadata__": {KEY: replace(header, checksum=checksum.hexdigest()).text()}}
    for name, entry in entries.items():
        offsets = [entry.start, entry.stop]
        table[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    failed, in_place = partial(unwritable, argument, path), path.exists() and not path.is_file()
    write_file(path, _chunks(text, held.values()), failed, in_place=in_place)


def _chunks(text: bytes, tensors: Any) -> Iterator[Any]:
    yield len(text).to_bytes(8, "little")
    yield text
    for tensor in tensors:
        yield _bytes_of(tensor)


def _bytes_of(tensor: Tensor) -> Any:
    """The memory of a contiguous CPU tensor, as a buffer."""
    return tensor.view(-1).view(torch.uint8).numpy().data if tensor.numel() else b""


def read_context(argument: str, path: Path) -> tuple[SavedHeader, dict[str, Tensor]]:
    """Read a saved context and check that every byte is as it was written.

    Args:
        argument: what names the file, for errors.
        path: the file.

    Returns:
        The header, and the tensors by name on the CPU.

    Raises:
        InputError: no such file, or one that is no saved context, cut or changed.
        UnsupportedError: a newer format.
    """
    with open_context(argument, path) as file:
        opened = parse(argument, path, file)
        checksum, tensors = digest(*opened), {}
        try:
            for name, entry in opened.entries.items():
                with storing():
                    tensor = torch.empty(entry.shape, dtype=_DTYPES[entry.dtype], device="cpu")
                buffer = _bytes_of(tensor)
                if len(buffer) and file.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
                    raise damaged(argument, path, "a file that became shorter while it was read")
                checksum.update(buffer)
                tensors[name] = tensor
        except (OSError, RuntimeError) as error:
            raise InputError(
                argument, expected="a file that can be read", got=f"{path}: {error}", fix="Check the disk."
            ) from error
    if checksum.hexdigest() != opened.header.checksum:
        raise damaged(argument, path, "content that differs from its checksum")
    return opened.header, tensors


assert _DTYPES.keys() == ITEMSIZES.keys()
