"""Loading trained gates for a model: KVzap's surrogates and Fast KVzip's gates, from safetensors files.

Pickled files are not read, because unpickling runs code; `docs/policies.md` says how to convert them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lavakv.errors import PolicyError
from lavakv.policy.rules import ModelShape, Policy
from lavakv.scoring.gates import FastKVzipGate, GatedScore, KVzapGate

_FILE = "model.safetensors"
_LINEAR = ("weight", "bias")
_MLP = ("2.weight", "2.bias", "0.weight", "0.bias")
_FAST = ("q_proj.weight", "q_proj.bias", "k_proj.weight", "q_norm.weight", "k_norm.weight", "k_base", "b")


def kvzap(path: str | Path) -> Policy:
    """KVzap (arXiv 2601.07891): a linear or two-layer surrogate predicts each entry's KVzip+ score.

    All heads of all layers compete in one pool, which is what the authors' single threshold does; the window stays.

    Args:
        path: safetensors file, or a folder with `model.safetensors`, of `layers.0.weight` and `layers.0.bias`, or
            `layers.0.0.weight`, `layers.0.0.bias`, `layers.0.2.weight` and `layers.0.2.bias`, and so on for each layer
            of the model: the names that the authors' models have.

    Returns:
        A policy for the model that the surrogates were trained on; any other is refused when a cache is made.

    Raises:
        PolicyError: no such file, a damaged one, or tensors of other names, shapes or kinds.
    """
    named = _Tensors.read(path)
    mlp = f"layers.0.{_MLP[0]}" in named.tensors
    layers = [KVzapGate(*named.layer(index, _MLP if mlp else _LINEAR)) for index in range(named.num_layers())]
    for index, gate in enumerate(layers):
        heads, inputs = named.matrix(index, _MLP[0] if mlp else _LINEAR[0])
        named.check(index, _MLP[1] if mlp else _LINEAR[1], (heads,))
        if mlp:
            named.check(index, _MLP[2], (inputs, named.matrix(index, _MLP[2])[1]))
            named.check(index, _MLP[3], (inputs,))
        named.check_same(index, (heads, _width(gate)), (layers[0].weight.shape[0], _width(layers[0])))
    score = GatedScore(layers, keeps_first=False)
    summary = f"KVzap (arXiv 2601.07891), {'two-layer' if mlp else 'linear'} surrogate of {named.path.name}"
    return _policy("kvzap", summary, score, named.path.name, layers[0].weight.shape[0], _width(layers[0]))


def fast_kvzip(path: str | Path) -> Policy:
    """Fast KVzip (arXiv 2601.17668): gates trained on KVzip's scores.

    All heads of all layers compete in one pool; the first four positions and the window stay.

    Args:
        path: safetensors file, or a folder with `model.safetensors`, of `layers.0.q_proj.weight`, `q_proj.bias`,
            `k_proj.weight`, `q_norm.weight`, `k_norm.weight`, `k_base` and `b`, and so on for each layer of the model.

    Returns:
        A policy for the model that the gates were trained on; any other is refused when a cache is made.

    Raises:
        PolicyError: no such file, a damaged one, or tensors of other names, shapes or kinds.
    """
    named = _Tensors.read(path)
    layers: list[FastKVzipGate] = []
    for index in range(named.num_layers()):
        tensors = dict(zip(_FAST, named.layer(index, _FAST), strict=True))
        base, bias = tensors["k_base"], tensors["b"]
        heads, dim = (base.shape[0], base.shape[-1]) if base.ndim == 4 else (0, 0)
        group = bias.shape[-1] if bias.ndim else 0
        named.check(index, "k_base", (heads, 1, base.shape[-2] if base.ndim == 4 else 0, dim))
        named.check(index, "b", (heads, 1, group))
        hidden = named.matrix(index, "k_proj.weight")[1]
        named.check(index, "k_proj.weight", (heads * dim, hidden))
        named.check(index, "q_proj.weight", (heads * group * dim, hidden))
        named.check(index, "q_proj.bias", (heads * group * dim,))
        for norm in ("q_norm.weight", "k_norm.weight"):
            named.check(index, norm, (dim,))
        queries, keys = (tensors["q_proj.weight"], tensors["q_proj.bias"]), tensors["k_proj.weight"]
        norms = tensors["q_norm.weight"], tensors["k_norm.weight"]
        layers.append(FastKVzipGate(*queries, keys, *norms, base[:, 0], bias[:, 0]))
        named.check_same(index, (heads, hidden), (layers[0].base_keys.shape[0], layers[0].key_weight.shape[1]))
    score = GatedScore(layers, keeps_first=True)
    heads, hidden = layers[0].base_keys.shape[0], layers[0].key_weight.shape[1]
    summary = f"Fast KVzip (arXiv 2601.17668), gates of {named.path.name}"
    return _policy("fast-kvzip", summary, score, named.path.name, heads, hidden)


class _Tensors:
    """The tensors of a file, by name, in float32."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path, self.tensors = path, tensors

    @classmethod
    def read(cls, path: str | Path) -> _Tensors:
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


def _width(gate: KVzapGate) -> int:
    return (gate.weight if gate.first_weight is None else gate.first_weight).shape[1]


@dataclass(frozen=True)
class _MadeFor:
    """Checks that a model is the one that gates were trained on, as far as its shape says.

    Attributes:
        gates: what the error calls them.
        num_layers: of the model, all kinds.
        heads: KV heads of each layer.
        hidden: numbers of a hidden state.
    """

    gates: str
    num_layers: int
    heads: int
    hidden: int

    def __call__(self, model: ModelShape) -> None:
        if (model.num_layers, set(model.num_heads), model.hidden_size) == (self.num_layers, {self.heads}, self.hidden):
            return
        heads = " or ".join(map(str, sorted(set(model.num_heads))))
        raise PolicyError(
            self.gates,
            expected=f"the model that they were trained on, of {self.num_layers} layers, {self.heads} KV heads and "
            f"hidden states of {self.hidden} numbers",
            got=f"a {model.model_type} of {model.num_layers}, {heads} and {model.hidden_size}",
            fix="Load the gates of this model, or use a policy that needs none.",
        )


def _policy(name: str, summary: str, score: GatedScore, file: str, heads: int, hidden: int) -> Policy:
    return Policy(
        name,
        summary,
        score,
        "pooled",
        "pool",
        floor_share=0.0,
        needs=("hidden_states",),
        scored_by="entries",
        trained=True,
        check_model=_MadeFor(f"policy {name!r} with gates {file}", len(score.gates), heads, hidden),
    )


def _wrong(path: Path, what: str, expected: str, got: str) -> PolicyError:
    fix = "Pass the gates as their authors name them; docs/policies.md lists the names."
    return PolicyError(f"{what} of gates {path}", expected=expected, got=got, fix=fix)
