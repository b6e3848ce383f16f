"""The header of a saved context: what the file says about itself. Read with the standard library, before PyTorch.

A saved context is a safetensors file: eight bytes with the length of a JSON header, the header, and the tensors' bytes.
Its `__metadata__` has one entry, `lavakv`, a JSON object with the fields of `SavedHeader`.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lavakv.errors import InputError, UnsupportedError
from lavakv.eviction.tensor_entries import TensorEntry, tensor_entries

FORMAT = 1
KEY = "lavakv"
_MAX_BYTES = 100_000_000  # of the header, as safetensors has it


@dataclass(frozen=True, slots=True)
class SavedHeader:
    """All of a saved context that is not a tensor.

    Attributes:
        model: the model that filled the cache, see `lavakv.hf.fingerprint`.
        policy: name of the policy.
        policy_is_named: whether `lavakv.policies()` had that policy under that name.
        budget: as `BudgetSpec` has it.
        store: kind of store.
        batch: sequences.
        columns: columns seen, padding and evicted ones included.
        layers: for each cache layer its kind and the plain numbers of its state.
        state: what else the cache remembers, in plain numbers.
        versions: of lavakv, transformers and PyTorch that wrote the file.
        notes: what the program that saved it wants to find again.
        checksum: SHA-256 in hex over everything else, see `digest`.
        format: version of the format.
    """

    model: dict[str, Any]
    policy: str
    policy_is_named: bool
    budget: dict[str, Any]
    store: str
    batch: int
    columns: int
    layers: list[Any]
    state: dict[str, Any]
    versions: dict[str, Any]
    notes: dict[str, Any]
    checksum: str = ""
    format: int = FORMAT

    def text(self) -> str:
        """The header as JSON."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)


class OpenedContext(NamedTuple):
    """The header of a file, and where its tensors are.

    Attributes:
        header: what the file says about itself.
        entries: its tensors by name, in the order of their bytes.
    """

    header: SavedHeader
    entries: dict[str, TensorEntry]


def damaged(argument: str, path: Path, got: str) -> InputError:
    """The error for a file that is no saved context, or no longer one.

    Args:
        argument: what names the file.
        path: the file.
        got: what is wrong with it.
    """
    return InputError(
        argument, expected="a context as `LavaCache.save` or `lavakv compress` wrote it", got=f"{path}: {got}",
        fix="Save the context again.",
    )  # fmt: skip


def digest(header: SavedHeader, entries: dict[str, TensorEntry]) -> Any:
    """A SHA-256 of all but the tensors' bytes and the checksum itself; the bytes are to be added in their order."""
    record = {name: value for name, value in asdict(header).items() if name != "checksum"}
    return hashlib.sha256(json.dumps([record, list(entries.items())], sort_keys=True).encode())


def read_header(argument: str, path: Path) -> SavedHeader:
    """What a saved context says about itself. Its tensors are not read, and so not checked.

    Args:
        argument: what names the file, for errors.
        path: the file.

    Raises:
        InputError: no such file, or none that holds a saved context.
        UnsupportedError: a newer format.
    """
    with open_context(argument, path) as file:
        return parse(argument, path, file).header


def open_context(argument: str, path: Path) -> BinaryIO:
    """Open a file to read a context from.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        if path.exists() and not path.is_file():
            raise damaged(argument, path, "no file")
        return path.open("rb")
    except OSError as error:
        raise InputError(
            argument, expected="a saved context", got=f"{path}: {error.strerror or error}", fix="Check the path."
        ) from error


def parse(argument: str, path: Path, file: BinaryIO) -> OpenedContext:
    """Read the header; the file then stands at the first tensor's bytes.

    Raises:
        InputError: not a saved context, or one that is cut or changed.
        UnsupportedError: a newer format.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_BYTES):
        raise damaged(argument, path, "no safetensors file, or the beginning of one")
    try:
        table = _object(json.loads(file.read(length).decode()))
        metadata = _object(table.pop("__metadata__", {}))
        if KEY not in metadata:
            raise damaged(argument, path, "a safetensors file without lavakv's header")
        record = _object(json.loads(metadata[KEY]))
        _check_format(argument, path, record.get("format"))
        header = _header(record)
        entries = tensor_entries(table, size - 8 - length)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise damaged(argument, path, f"a damaged header ({error})") from error
    return OpenedContext(header, entries)


def _check_format(argument: str, path: Path, found: Any) -> None:
    if isinstance(found, int) and not isinstance(found, bool) and found > FORMAT:
        raise UnsupportedError(
            argument, expected=f"a context in format {FORMAT} or older", got=f"{path}: format {found}",
            fix="Install a newer lavakv, or save the context again with this one.",
        )  # fmt: skip


def _header(record: dict[str, Any]) -> SavedHeader:
    """A header of exactly the fields there are, each of its type."""
    kinds = {"model": dict, "policy_is_named": bool, "budget": dict, "batch": int, "columns": int, "layers": list}
    kinds |= {"state": dict, "versions": dict, "notes": dict, "format": int}
    names = [field.name for field in fields(SavedHeader)]
    if record.keys() != set(names):
        raise ValueError(f"its fields are {', '.join(sorted(record))}")
    wrong = [name for name in names if type(record[name]) is not kinds.get(name, str)]
    if wrong or record["format"] < 1 or record["batch"] < 1 or record["columns"] < 1:
        raise ValueError(f"{', '.join(wrong) or 'a count'} cannot be right")
    return SavedHeader(**record)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value
