"""How a model rotates queries and keys: read from its configuration, its code and what its layers are passed."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lavakv.errors import UnsupportedError
from lavakv.hf.geometry import layer_config
from lavakv.policy.rules import Policy
from lavakv.scoring.rotation import Rotation, rotate_half

_TYPES = ("default", "linear", "llama3", "yarn")  # of those frequencies that do not depend on the prompt's length
_ROTATE = "apply_rotary_pos_emb"
_SWITCH = "use_rope"  # of attention modules that rotate in some layers only
_MAY_FOLLOW = ("update", "attention_interface")  # the cache's update, and attention itself


def check_rotation(policy: Policy, config: PretrainedConfig, layer_indices: Sequence[int]) -> None:
    """Check by its configuration that a policy which needs the rotation can have it of a model.

    Args:
        policy: any; only those that need the rotation are looked at.
        config: the model's.
        layer_indices: layers that are compressed.

    Raises:
        UnsupportedError: no rotary position embedding in one of these layers, one that turns a part of the channels or
            depends on the prompt's length.
    """
    if "rotation" not in policy.needs:
        return
    text = config.get_text_config(decoder=True)
    for index in layer_indices:
        got = _unsuited(layer_config(text, index), index)
        if got:
            argument = f"policy {policy.name!r} on model {text.model_type!r}"
            raise _refused(argument, "a rotary position embedding of all channels in every layer", got)


def _unsuited(own: Any, index: int) -> str:
    """What about a layer's configuration keeps the rotation from being undone, or nothing."""
    rope = getattr(own, "rope_parameters", None) or {}
    if any(isinstance(value, dict) for value in rope.values()):
        rope = rope.get(own.layer_types[index]) or {}
    kind = rope.get("rope_type", "none")
    share = rope.get("partial_rotary_factor") or getattr(own, "partial_rotary_factor", None) or 1
    if not rope:
        return f"none at layer {index}"
    if kind not in _TYPES:
        return f"one of type {kind!r} at layer {index}"
    if share != 1:
        return f"one of {share} of the channels at layer {index}"
    return ""


class LayerRotation(NamedTuple):
    """What is at hand of a layer's rotation while the prompt is read.

    Attributes:
        embeddings: cosines and sines that the layer was passed, `[1 or B, columns, head_dim]` each, or half of that
            where both halves are equal.
        attention: the attention module.
        decoder: the model around it, which has the frequencies.
        layer: index of the layer.
    """

    embeddings: Any
    attention: nn.Module
    decoder: nn.Module | None
    layer: int

    def of_sequence(self, sequence: int, columns: slice, head_dim: int, argument: str) -> Rotation:
        """The rotation of one sequence's rows; one that turns nothing where the layer says that it has none.

        Args:
            sequence: row of the batch.
            columns: of the sequence's tokens.
            head_dim: size of a key.
            argument: policy and layer, what the error calls them.

        Raises:
            UnsupportedError: the layer rotates otherwise than by halves, not all channels, not in all cases, changes
                queries or keys afterwards, or its frequencies are not found.
        """
        got = _other_rotation(type(self.attention).__name__, inspect.unwrap(type(self.attention).forward))
        if not got and not _are_rows(self.embeddings, head_dim):
            got = "cosines and sines of other shapes"
        frequencies = self._frequencies()
        if not got and (frequencies is None or tuple(frequencies.shape) != (head_dim // 2,)):
            got = "no frequency for each pair of channels"
        if got or frequencies is None:
            raise _refused(argument, "queries and keys that are rotated by halves, all channels, as the last step", got)
        rows = [part[sequence if part.shape[0] > 1 else 0, columns].detach() for part in self.embeddings]
        cos, sin = (torch.cat([part, part], dim=-1) if part.shape[1] < head_dim else part for part in rows)
        frequencies = frequencies.detach().to(cos.device)
        if not getattr(self.attention, _SWITCH, True):
            return Rotation(torch.ones_like(cos), torch.zeros_like(sin), torch.zeros_like(frequencies))
        return Rotation(cos, sin, frequencies)

    def _frequencies(self) -> Tensor | None:
        """Radians per position of each pair of channels; models with several rotations have them by kind of layer."""
        rotary = getattr(self.decoder, "rotary_emb", None)
        kinds = getattr(getattr(self.decoder, "config", None), "layer_types", None)
        found = getattr(rotary, f"{kinds[self.layer]}_inv_freq", None) if kinds else None
        found = getattr(rotary, "inv_freq", None) if found is None else found
        return found if isinstance(found, Tensor) else None


def _are_rows(embeddings: Any, head_dim: int) -> bool:
    if not isinstance(embeddings, tuple | list) or len(embeddings) != 2:
        return False
    sizes = (head_dim, head_dim // 2)
    return all(isinstance(part, Tensor) and part.ndim == 3 and part.shape[2] in sizes for part in embeddings)


@lru_cache(maxsize=64)
def _other_rotation(name: str, forward: Callable[..., Any]) -> str:
    """What an attention's forward does other than rotate queries and keys by halves as the last step, or nothing."""
    rotate = getattr(forward, "__globals__", {}).get(_ROTATE)
    if rotate is None:
        return f"{name} without {_ROTATE}"
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(forward))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return f"{name} without source code"
    if not _rotates_by_halves(rotate):
        return f"{name}, which rotates other pairs of channels"
    assert isinstance(function, ast.FunctionDef)
    return _not_last(name, function)


def _not_last(name: str, function: ast.FunctionDef) -> str:
    """Why a forward's top level is not one that rotates both and then only stores and attends to them, or nothing."""
    rotated: set[str] = set()
    for statement in _statements(function):
        calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
        if any(isinstance(call.func, ast.Name) and call.func.id == _ROTATE for call in calls):
            if rotated or not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Tuple):
                return f"{name}, which rotates in some cases, or queries apart from keys"
            rotated = {target.id for target in statement.targets[0].elts if isinstance(target, ast.Name)}
            continue
        names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
        if rotated & names and not any(_called_name(call) in _MAY_FOLLOW for call in calls):
            return f"{name}, which changes queries or keys after their rotation"
    return "" if len(rotated) == 2 else f"{name}, which does not rotate queries and keys"


def _statements(function: ast.FunctionDef) -> Iterator[ast.stmt]:
    """The top level of a function, with what stands under the attention's own switch for the rotation."""
    for statement in function.body:
        test = statement.test if isinstance(statement, ast.If) and not statement.orelse else None
        if isinstance(test, ast.Attribute) and test.attr == _SWITCH:
            assert isinstance(statement, ast.If)
            yield from statement.body
        else:
            yield statement


def _called_name(call: ast.Call) -> str:
    """The last part of the name of what is called."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _rotates_by_halves(rotate: Any) -> bool:
    """Whether a model's function turns vectors as `Rotation.turn` does, tried on numbers."""
    vectors = torch.arange(1.0, 9.0, dtype=torch.float64, device="cpu").view(1, 1, 1, 8)
    angles = torch.tensor([0.1, 0.4, 0.7, 1.2], dtype=torch.float64, device="cpu")
    cos, sin = (torch.cat([part, part]).view(1, 1, 8) for part in (angles.cos(), angles.sin()))
    expected = vectors * cos + rotate_half(vectors) * sin
    for size in (8, 4):  # some models pass one half of two equal ones
        try:
            turned = rotate(vectors, 2 * vectors, cos[..., :size], sin[..., :size])
            pairs = zip(turned, (expected, 2 * expected), strict=True)
            if all(bool(torch.allclose(one, other)) for one, other in pairs):
                return True
        except Exception:  # third-party code may raise anything
            continue
    return False


def _refused(argument: str, expected: str, got: str) -> UnsupportedError:
    return UnsupportedError(argument, expected=expected, got=got, fix="Use another policy for this model.")
