"""Loading trained gates for a model: KVzap's surrogates and Fast KVzip's gates, from safetensors files.

Pickled files are not read, because unpickling runs code; `docs/policies.md` says how to convert them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lavakv.errors import PolicyError
from lavakv.hf.gate_file import GateFile
from lavakv.policy.rules import ModelShape, Policy
from lavakv.scoring.gates import FastKVzipGate, GatedScore, KVzapGate

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
    named = GateFile.read(path)
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
    named = GateFile.read(path)
    layers = [_fast_gate(named, index) for index in range(named.num_layers())]
    for index, gate in enumerate(layers):
        found, first = ((one.base_keys.shape[0], one.key_weight.shape[1]) for one in (gate, layers[0]))
        named.check_same(index, found, first)
    score = GatedScore(layers, keeps_first=True)
    heads, hidden = layers[0].base_keys.shape[0], layers[0].key_weight.shape[1]
    summary = f"Fast KVzip (arXiv 2601.17668), gates of {named.path.name}"
    return _policy("fast-kvzip", summary, score, named.path.name, heads, hidden)


def _fast_gate(named: GateFile, index: int) -> FastKVzipGate:
    """One layer's gate, its shapes checked against each other."""
    tensors = dict(zip(_FAST, named.layer(index, _FAST), strict=True))
    base, bias = tensors["k_base"], tensors["b"]
    heads, sinks, dim = (base.shape[0], *base.shape[2:]) if base.ndim == 4 else (0, 0, 0)
    group, hidden = bias.shape[-1] if bias.ndim else 0, named.matrix(index, "k_proj.weight")[1]
    shapes = {"k_base": (heads, 1, sinks, dim), "b": (heads, 1, group), "k_proj.weight": (heads * dim, hidden)}
    shapes |= {"q_proj.weight": (heads * group * dim, hidden), "q_proj.bias": (heads * group * dim,)}
    shapes |= {"q_norm.weight": (dim,), "k_norm.weight": (dim,)}
    for name, shape in shapes.items():
        named.check(index, name, shape)
    queries, keys = (tensors["q_proj.weight"], tensors["q_proj.bias"]), tensors["k_proj.weight"]
    norms = tensors["q_norm.weight"], tensors["k_norm.weight"]
    return FastKVzipGate(*queries, keys, *norms, base[:, 0], bias[:, 0])


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
        prompt_only=True,
        scored_by="entries",
        trained=True,
        check_model=_MadeFor(f"policy {name!r} with gates {file}", len(score.gates), heads, hidden),
    )
