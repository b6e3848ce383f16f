"""The file of a saved context: its header and named tensors, written whole and read with every byte checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lavakv.errors import InputError, UnsupportedError
from lavakv.eviction.saved_header import (
    KEY,
    SavedHeader,
    damaged,
    digest,
    open_context,
    parse,
)
from lavakv.eviction.tensor_entries import ITEMSIZES, TensorEntry
from lavakv.files import unwritable, write_file
from lavakv.store.growing import storing

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "F16": torch.float16,
    "BF16": torch.bfloat16, "I32": torch.int32, "F32": torch.float32, "I64": torch.int64, "F64": torch.float64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def write_context(argument: str, path: Path, header: SavedHeader, tensors: Mapping[str, Tensor]) -> None:
    """Write a saved context, whole or not at all.

    Args:
        argument: what names the file, for errors.
        path: the file; one that is there is replaced.
        header: without its checksum.
        tensors: by name, on any device.

    Raises:
        UnsupportedError: a tensor of a dtype that cannot be saved; what was there is unchanged, as below.
        InputError: the file cannot be written.
        DiskError: the disk is full or broken.
    """
    odd = next((name for name, tensor in tensors.items() if tensor.dtype not in _NAMES), None)
    if odd is not None:
        raise UnsupportedError(
            "cache", expected=f"tensors in one of {', '.join(_NAMES.values())}", got=f"{odd} in {tensors[odd].dtype}",
            fix="Keep the cache in memory; `copy.deepcopy` copies it.",
        )  # fmt: skip
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
