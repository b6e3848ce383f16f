"""How a layer of a vLLM model rotates queries and keys: the tables of its rotary embedding, checked by running it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lavakv.scoring.rotation import Rotation

_ROTARY, _ATTENTION, _TABLE = "rotary_emb", "attn", "cos_sin_cache"
_TRIED = (0, 1, 5)  # positions


class LayerRotation:
    """The rotation of one layer.

    Args:
        modules: that its attention is in, the innermost first.
        head_dim: size of a key.

    Attributes:
        refusal: what keeps the rotation from being undone, or empty.
    """

    def __init__(self, modules: Sequence[nn.Module], head_dim: int) -> None:
        owner = next((each for each in modules if isinstance(getattr(each, _ROTARY, None), nn.Module)), None)
        self._table: Tensor | None = None
        if owner is None:
            self.refusal = f"none named {_ROTARY}"
            return
        rotary = getattr(owner, _ROTARY)
        self.refusal = _unsuited(rotary, head_dim) or _not_last(owner)
        if not self.refusal:
            self._table = getattr(rotary, _TABLE)
            self._turns = any(_mentions(statement) for statement in _statements(owner))
            self._frequencies = _frequencies(rotary)

    def of_rows(self, num_tokens: int, device: torch.device) -> Rotation:
        """The rotation of the first rows of a prompt; one that turns nothing where the layer does not rotate."""
        assert self._table is not None
        rotation = _of_table(self._table[:num_tokens].to(device), self._frequencies.to(device))
        if self._turns:
            return rotation
        cos, sin, frequencies = rotation
        return Rotation(torch.ones_like(cos), torch.zeros_like(sin), torch.zeros_like(frequencies))


def _of_table(table: Tensor, frequencies: Tensor) -> Rotation:
    """From cosines and sines side by side, `[N, head_dim]`."""
    cos, sin = (torch.cat([part, part], dim=-1) for part in table.chunk(2, dim=-1))
    return Rotation(cos, sin, frequencies)


def _frequencies(rotary: nn.Module) -> Tensor:
    """Radians per position, float32 `[head_dim / 2]`: the angle at position 1, as the table may be rounded."""
    compute: Callable[[], Tensor] = rotary._compute_cos_sin_cache  # type: ignore[assignment]
    cos, sin = compute()[1].float().chunk(2, dim=-1)
    return torch.atan2(sin, cos)


def _unsuited(rotary: nn.Module, head_dim: int) -> str:
    """What about a rotary embedding keeps it from being undone with its table, or nothing; it is run to find out."""
    name, table = type(rotary).__name__, getattr(rotary, _TABLE, None)
    if not isinstance(table, Tensor) or table.ndim != 2 or table.shape[1] != head_dim:
        return f"{name} without a table of all channels"
    if not callable(getattr(rotary, "_compute_cos_sin_cache", None)):
        return f"{name} whose table cannot be computed again"
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(len(_TRIED), head_dim, generator=generator).to(table) for _ in range(2))
    positions = torch.tensor(_TRIED, device=table.device)
    expected = _of_table(table[positions], table.new_zeros(head_dim // 2))
    try:
        with torch.no_grad():
            found = rotary(positions, queries.clone(), keys.clone())
        precision = 8 * torch.finfo(table.dtype).eps
        is_same = [
            torch.allclose(one, expected.turn(given), rtol=precision, atol=precision)
            for one, given in zip(found, (queries, keys), strict=True)
        ]
    except Exception as error:  # third-party code may raise anything
        return f"{name}, which raised {type(error).__name__}"
    return "" if all(is_same) else f"{name}, which does not rotate by halves"


def _not_last(owner: nn.Module) -> str:
    """Why a forward is not one that rotates both and then only attends to them, or nothing.

    One that rotates in a branch which this layer does not take is one that does not rotate. Everything else that names
    the rotary embedding is refused, as is a forward that does not name it.
    """
    name = type(owner).__name__
    try:
        whole, statements = _forward(owner), list(_statements(owner))
    except (OSError, TypeError, SyntaxError, ValueError):
        return f"{name} without source code"
    if not _mentions(whole) or sum(map(_rotates, ast.walk(whole))) != _mentions(whole):
        return f"{name}, which rotates in a way of its own"
    rotated: set[str] = set()
    for statement in statements:
        if _mentions(statement):
            targets = statement.targets[0] if isinstance(statement, ast.Assign) and _rotates(statement.value) else None
            if rotated or not isinstance(targets, ast.Tuple):
                return f"{name}, which rotates in some cases, or queries apart from keys"
            rotated = {target.id for target in targets.elts if isinstance(target, ast.Name)}
        elif rotated & _names(statement) - _attended(statement):
            return f"{name}, which changes queries or keys after their rotation"
    return ""


def _forward(owner: nn.Module) -> ast.FunctionDef:
    """The source of a module's forward.

    Raises:
        OSError, TypeError, SyntaxError, ValueError: there is none, or it is no plain function.
    """
    parsed = ast.parse(textwrap.dedent(inspect.getsource(type(owner).forward))).body
    if len(parsed) != 1 or not isinstance(parsed[0], ast.FunctionDef):
        raise ValueError("no plain function")
    return parsed[0]


def _statements(owner: nn.Module) -> Iterator[ast.stmt]:
    """The top level of a module's forward, with the branch that is taken where an attribute of it decides."""
    waiting = list(_forward(owner).body)
    while waiting:
        statement = waiting.pop(0)
        taken = _is_true(statement.test, owner) if isinstance(statement, ast.If) else None
        if taken is None:
            yield statement
        else:
            assert isinstance(statement, ast.If)
            waiting[:0] = statement.body if taken else statement.orelse


def _is_true(test: ast.expr, owner: nn.Module) -> bool | None:
    """Whether a condition on a module's attributes is met; None where it asks for anything else."""
    if isinstance(test, ast.Attribute) and isinstance(test.value, ast.Name) and test.value.id == "self":
        return bool(getattr(owner, test.attr)) if hasattr(owner, test.attr) else None
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        negated = _is_true(test.operand, owner)
        return None if negated is None else not negated
    if isinstance(test, ast.BoolOp):
        parts = [_is_true(each, owner) for each in test.values]
        if None not in parts:
            return all(parts) if isinstance(test.op, ast.And) else any(parts)
    return None


def _rotates(node: ast.AST) -> bool:
    """Whether this is `self.rotary_emb(...)` itself."""
    function = node.func if isinstance(node, ast.Call) else None
    return _is_own(function, _ROTARY)


def _is_own(node: ast.AST | None, attribute: str) -> bool:
    is_own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return is_own and isinstance(node, ast.Attribute) and node.attr == attribute


def _mentions(node: ast.AST) -> int:
    """How often the rotary embedding is named."""
    return sum(isinstance(each, ast.Attribute) and each.attr == _ROTARY for each in ast.walk(node))


def _attended(statement: ast.stmt) -> set[str]:
    """Names that are plain arguments of `self.attn(...)` in a statement, and nowhere else in it."""
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call) and _is_own(node.func, _ATTENTION)]
    given = [each.id for call in calls for each in call.args if isinstance(each, ast.Name)]
    given += [each.value.id for call in calls for each in call.keywords if isinstance(each.value, ast.Name)]
    named = [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
    return {name for name in given if named.count(name) == given.count(name)}


def _names(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
