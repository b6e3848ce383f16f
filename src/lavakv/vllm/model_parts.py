"""What some policies need of the model itself: the output projection of attention, and norms of the residual stream."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lavakv.errors import UnsupportedError
from lavakv.policy.rules import Policy

_PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj", "wo")
_NORMS_BEHIND = ("post_self_attn_layernorm", "post_operator_norm", "post_norm1")
_AMBIGUOUS_NORM = (
    "post_attention_layernorm"  # before the feed-forward part, unless that has a norm of its own behind it
)
_NORMS_BEHIND_FEED_FORWARD = ("post_feedforward_layernorm", "post_mlp_layernorm")


class ModelParts:
    """The modules around each attention layer.

    Args:
        model: vLLM's.
        layer_names: vLLM's names of the attention layers, in order.
    """

    def __init__(self, model: nn.Module, layer_names: Sequence[str]) -> None:
        modules = dict(model.named_modules())
        self._above = [_ancestors(modules, name) for name in layer_names]

    def check(self, policy: Policy) -> None:
        """Check that a policy finds in every layer what it needs.

        Raises:
            UnsupportedError: no output projection, layers that do not take `hidden_states`, or a norm between output
                projection and residual stream, by which the policy would have to weigh.
        """
        for layer in range(len(self._above)):
            if "output_weight" in policy.needs:
                self._projection(layer)
            if "residual_norms" in policy.needs:
                norms = _norms_behind(self._decoder(layer))
                if norms:
                    expected = "an output projection whose output joins the residual stream as it is"
                    raise _unsupported(f"policy {policy.name!r}", expected, f"a norm behind it, {norms[0]}")

    def output_weight(self, layer: int, num_heads: int, num_query_heads: int, head_dim: int) -> Tensor:
        """What the output projection does to each query head's values, `[KV heads, G, head_dim, hidden]`.

        vLLM packs weights for its kernels, so it is run on unit vectors: that gives each weight as it is.
        """
        matrix = _matrix(self._projection(layer), num_query_heads * head_dim)
        return matrix.view(num_heads, num_query_heads // num_heads, head_dim, -1)

    def watch_stream(self, note: Callable[[int, Callable[[], Tensor]], None]) -> None:
        """Before each decoder layer, give `note` its index and a function that returns the residual stream."""
        for layer in range(len(self._above)):
            self._decoder(layer).register_forward_pre_hook(_hook(layer, note), with_kwargs=True)

    def _projection(self, layer: int) -> nn.Module:
        for module in self._above[layer]:
            for name in _PROJECTIONS:
                if isinstance(projection := getattr(module, name, None), nn.Module):
                    return projection
        raise _unsupported("output projection", f"one of {', '.join(_PROJECTIONS)}", "none")

    def _decoder(self, layer: int) -> nn.Module:
        """The layer of the decoder: what takes the residual stream, or else hidden states around the attention."""
        modules = self._above[layer]
        for module in modules:
            if "residual" in _parameters(module):
                return module
        for module in modules[1:]:
            if "hidden_states" in _parameters(module):
                return module
        raise _unsupported("decoder layers", "layers that take hidden_states", "others")


def _norms_behind(decoder: nn.Module) -> list[str]:
    """Names of the norms of what attention adds, of a layer of a decoder."""
    own = dict(decoder.named_children())
    names = [name for name in _NORMS_BEHIND if name in own]
    if _AMBIGUOUS_NORM in own and any(name in own for name in _NORMS_BEHIND_FEED_FORWARD):
        names.append(_AMBIGUOUS_NORM)
    return names


def _hook(layer: int, note: Callable[[int, Callable[[], Tensor]], None]) -> Callable[..., None]:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note(layer, lambda: _stream(module, args, kwargs))

    return before


def _stream(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The residual stream: vLLM's layers take what the last one added apart from what was there before."""
    given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    added: Tensor = given["hidden_states"]
    before: Tensor | None = given.get("residual")
    return added if before is None else added + before


def _parameters(module: nn.Module) -> Sequence[str]:
    return list(inspect.signature(module.forward).parameters)


def _ancestors(modules: dict[str, nn.Module], name: str) -> list[nn.Module]:
    """Modules that an attention layer is in, the innermost first."""
    found = []
    while "." in name:
        name = name.rpartition(".")[0]
        if name in modules:
            found.append(modules[name])
    return found


def _matrix(projection: nn.Module, width: int) -> Tensor:
    """The matrix of an affine layer, `[width, outputs]`."""
    dtype = next((own.dtype for own in projection.parameters() if own.is_floating_point()), torch.float32)
    inputs = torch.cat([torch.zeros(1, width, device="cpu"), torch.eye(width, device="cpu")]).to(dtype)
    with torch.no_grad():
        outputs = projection(inputs)
    rows: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    offset = rows[:1]
    return rows[1:] if not bool(offset.any()) else rows[1:].float() - offset.float()


def _unsupported(about: str, expected: str, got: str) -> UnsupportedError:
    fix = "Use policy lava, which needs keys, values and queries only."
    return UnsupportedError(f"lavakv in vLLM: {about}", expected=expected, got=got, fix=fix)
