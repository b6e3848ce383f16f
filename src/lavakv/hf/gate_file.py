"""A safetensors file of trained gates: its tensors by name, and what is checked of them before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lavakv.errors import PolicyError

_FILE = "model.safetensors"


class GateFile:
    """The tensors of a file, by name, in float32."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path, self.tensors = path, tensors

    @classmethod
    def read(cls, path: str | Path) -> GateFile:
        """Read a file whole.

        Raises:
            PolicyError: it is missing, damaged or holds no numbers that can be weights.
        """
        place = Path(path) / _FILE if Path(path).is_dir() else Path(path)
        fix = "Pass a safetensors file; a pickled one must be converted first, see docs/policies.md."
        try:
            found = load_file(place)
        except (OSError, SafetensorError, ValueError) as error:
            got = " ".join(f"{type(error).__name__}: {error}".split())
            raise PolicyError(f"gates {place}", expected="a safetensors file", got=got, fix=fix) from error
        for name, tensor in found.items():
            if not tensor.is_floating_point() or not bool(tensor.float().isfinite().all()):
                kind = "NaN or infinity" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
                raise _wrong(place, name, "finite floating-point numbers", kind)
        return cls(place, {name: tensor.float() for name, tensor in found.items()})

    def num_layers(self) -> int:
        """Layers that the file has something of, counted from 0; at least 1."""
        parts = [name.split(".") for name in self.tensors]
        numbers = {int(part[1]) for part in parts if len(part) > 2 and part[0] == "layers" and part[1].isdigit()}
        if not numbers or numbers != set(range(len(numbers))):
            got = ", ".join(sorted(self.tensors)[:3]) or "no tensors"
            raise _wrong(self.path, "names", "layers.0, layers.1 and so on, none left out", got)
        return len(numbers)

    def layer(self, index: int, names: tuple[str, ...]) -> list[Tensor]:
        """The tensors of one layer, exactly these."""
        start = f"layers.{index}."
        found = {name.removeprefix(start) for name in self.tensors if name.startswith(start)}
        if found != set(names):
            raise _wrong(self.path, f"layer {index}", ", ".join(sorted(names)), ", ".join(sorted(found)))
        return [self.tensors[start + name] for name in names]

    def matrix(self, index: int, name: str) -> tuple[int, int]:
        """The shape of a matrix that is not empty."""
        shape = tuple(self.tensors[f"layers.{index}.{name}"].shape)
        if len(shape) != 2 or not all(shape):
            raise _wrong(self.path, f"layers.{index}.{name}", "a matrix", f"shape {shape}")
        return shape[0], shape[1]

    def check(self, index: int, name: str, expected: tuple[int, ...]) -> None:
        """Check one tensor's shape."""
        shape = tuple(self.tensors[f"layers.{index}.{name}"].shape)
        if shape != expected or not all(expected):
            raise _wrong(self.path, f"layers.{index}.{name}", f"shape {expected}, as its other tensors say", f"{shape}")

    def check_same(self, index: int, found: tuple[int, int], first: tuple[int, int]) -> None:
        """Check that all layers are for as many KV heads and as wide hidden states."""
        if found != first:
            expected = f"{first[0]} KV heads and hidden states of {first[1]} numbers, as layer 0"
            raise _wrong(self.path, f"layer {index}", expected, f"{found[0]} and {found[1]}")


def _wrong(path: Path, what: str, expected: str, got: str) -> PolicyError:
    fix = "Pass the gates as their authors name them; docs/policies.md lists the names."
    return PolicyError(f"{what} of gates {path}", expected=expected, got=got, fix=fix)
