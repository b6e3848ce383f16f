"""What some policies need of the model itself: the output projection, norms of the residual stream, the rotation."""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lavakv.errors import UnsupportedError
from lavakv.policy.rules import Policy
from lavakv.scoring.output_norm import norm_behind, norm_gain, root_mean_squares
from lavakv.scoring.output_scale import OutputScale
from lavakv.scoring.rotation import Rotation
from lavakv.vllm.rotation import LayerRotation

_PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj", "wo")


class ModelParts:
    """The modules around each attention layer.

    Args:
        model: vLLM's.
        layer_names: vLLM's names of the attention layers, in order.
    """

    def __init__(self, model: nn.Module, layer_names: Sequence[str]) -> None:
        modules = dict(model.named_modules())
        self._above = [_ancestors(modules, name) for name in layer_names]
        self._attention = [modules[name] for name in layer_names]
        self._rotations: dict[int, LayerRotation] = {}

    def check(self, policy: Policy) -> None:
        """Check that a policy finds in every layer what it needs.

        Raises:
            UnsupportedError: no output projection, layers that do not take `hidden_states`, or a rotation that cannot
                be undone.
        """
        for layer in range(len(self._above)):
            if "rotation" in policy.needs:
                self._rotation(layer)
            if "output_weight" in policy.needs:
                self._projection(layer)
            if "residual_norms" in policy.needs:
                self._decoder(layer)

    def output_weight(self, layer: int, num_heads: int, num_query_heads: int, head_dim: int) -> Tensor:
        """What the output projection does to each query head's values, `[KV heads, G, head_dim, hidden]`.

        vLLM packs weights for its kernels, so it is run on unit vectors: that gives each weight as it is.
        """
        matrix = _matrix(self._projection(layer), num_query_heads * head_dim)
        return matrix.view(num_heads, num_query_heads // num_heads, head_dim, -1)

    def output_rms(self, layer: int, outputs: Tensor) -> Tensor | None:
        """What the norm behind the output projection divides by, or None where there is none.

        Args:
            layer: index.
            outputs: of the heads, `[rows, query heads * head_dim]`.

        Returns:
            float32 `[rows]`.
        """
        norm = self._norm(layer)
        return None if norm is None else root_mean_squares(norm, _run(self._projection(layer), outputs))

    def output_scale(self, layer: int, rms: Tensor, hidden: int) -> OutputScale:
        """What that norm does to small changes of outputs that it divides by `rms`.

        Args:
            layer: index of a layer that has one.
            rms: float32 `[rows]`, see `output_rms`.
            hidden: channels of the residual stream.
        """
        norm = self._norm(layer)
        assert norm is not None
        return OutputScale(norm_gain(norm, hidden, _place(self._projection(layer))[0], rms.device), rms)

    def rotation(self, layer: int, keys: Tensor) -> Rotation:
        """How a layer rotates the rows of a prompt.

        Args:
            layer: index.
            keys: of the prompt, `[KV heads, num_tokens, head_dim]`.

        Raises:
            UnsupportedError: a rotation that cannot be undone.
        """
        return self._rotation(layer).of_rows(keys.shape[1], keys.device)

    def watch_stream(self, note: Callable[[int, Callable[[], Tensor]], None]) -> None:
        """Before each decoder layer, give `note` its index and a function that returns the residual stream."""
        for layer in range(len(self._above)):
            decoder = self._decoder(layer)
            decoder.register_forward_pre_hook(_hook(layer, decoder, note), with_kwargs=True)

    def _projection(self, layer: int) -> nn.Module:
        for module in self._above[layer]:
            for name in _PROJECTIONS:
                if isinstance(projection := getattr(module, name, None), nn.Module):
                    return projection
        raise _unsupported("output projection", f"one of {', '.join(_PROJECTIONS)}", "none")

    def _rotation(self, layer: int) -> LayerRotation:
        if layer not in self._rotations:
            found = LayerRotation(self._above[layer], int(self._attention[layer].head_size))
            if found.refusal:
                expected = "queries and keys that are rotated by halves, all channels, as the last step"
                raise _unsupported(f"rotary embedding of layer {layer}", expected, found.refusal)
            self._rotations[layer] = found
        return self._rotations[layer]

    def _norm(self, layer: int) -> nn.Module | None:
        decoder, modules = self._decoder(layer), self._above[layer]
        place = modules.index(decoder)
        return norm_behind(decoder, modules[place - 1]) if place else None

    def _decoder(self, layer: int) -> nn.Module:
        """The layer of the decoder: what takes the residual stream, or else hidden states around the attention."""
        modules = self._above[layer]
        for module in reversed(modules):  # some attention takes the stream too
            if "residual" in _parameters(module):
                return module
        for module in modules[1:]:
            if "hidden_states" in _parameters(module):
                return module
        raise _unsupported("decoder layers", "layers that take hidden_states", "others")


def _hook(layer: int, decoder: nn.Module, note: Callable[[int, Callable[[], Tensor]], None]) -> Callable[..., None]:
    is_apart = _reads(decoder.forward, "residual")

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note(layer, lambda: _stream(module, args, kwargs, is_apart))

    return before


def _stream(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], is_apart: bool) -> Tensor:
    """The residual stream, `[tokens, hidden]`: most layers take what the last one added apart from what was there."""
    given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    added: Tensor = given["hidden_states"]
    before: Tensor | None = given.get("residual") if is_apart else None
    stream = added if before is None else added + before
    return stream.flatten(0, -2)  # layers of transformers have a dimension for the batch


def _reads(function: Callable[..., Any], parameter: str) -> bool:
    """Whether a function reads a parameter, and not only uses its name.

    Some layers (Cohere's, EXAONE's) take the stream in one piece, and assign their `residual` before they read it.
    """
    for instruction in dis.get_instructions(inspect.unwrap(function)):  # a decorator's own code reads no names
        names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
        for kind, name in zip(re.findall("LOAD|STORE", instruction.opname), names, strict=False):
            if name == parameter:
                return bool(kind == "LOAD")
    return False


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
    dtype, device = _place(projection)
    inputs = torch.eye(width + 1, width, device=device).roll(1, 0).to(dtype)  # the first row is zero
    rows = _run(projection, inputs)
    offset = rows[:1]
    return rows[1:] if not bool(offset.any()) else rows[1:].float() - offset.float()


def _run(projection: nn.Module, inputs: Tensor) -> Tensor:
    """What an output projection makes of `[rows, width]`; vLLM's return a pair."""
    with torch.no_grad():
        outputs = projection(inputs)
    rows: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return rows


def _place(projection: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Dtype and device of a projection's inputs, those of its parameters."""
    device = next((own.device for own in projection.parameters()), torch.device("cpu"))
    return next((own.dtype for own in projection.parameters() if own.is_floating_point()), torch.float32), device


def _unsupported(about: str, expected: str, got: str) -> UnsupportedError:
    fix = "Use policy lava, which needs keys, values and queries only."
    return UnsupportedError(f"lavakv in vLLM: {about}", expected=expected, got=got, fix=fix)
