"""Shape checks of one scoring window's tensors: broadcasting could hide a mismatch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.errors import InputError
from lavakv.scoring.prompt import ReplayMaxima


def require_shapes(q_window: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Check that queries, keys and values are those of one sequence.

    Raises:
        InputError: wrong ranks, chunks cut differently, heads or sizes that do not fit, more queries than tokens.
    """
    if not _fit(q_window, keys, values):
        raise InputError(
            "q_window, keys, values",
            expected="[query_heads, w, head_dim], [kv_heads, N, head_dim], [kv_heads, N, value_dim] with w <= N",
            got=", ".join(str(tuple(tensor.shape)) for tensor in (q_window, *keys, *values)),
            fix="Pass one sequence, with query heads a multiple of KV heads.",
        )


def require_extras(sinks: Tensor | None, visible: Tensor | None, q_window: Tensor, num_tokens: int) -> None:
    """Check for one sink a query head, and a mask of the window's rows by the prompt.

    Raises:
        InputError: another shape, or a mask that is not bool.
    """
    if sinks is not None and tuple(sinks.shape) != (q_window.shape[0],):
        raise InputError(
            "sinks",
            expected=f"one logit a query head, shape ({q_window.shape[0]},)",
            got=str(tuple(sinks.shape)),
            fix="Pass the sinks of this layer.",
        )
    rows = (q_window.shape[1], num_tokens)
    if visible is not None and (visible.dtype != torch.bool or tuple(visible.shape) != rows):
        raise InputError(
            "visible",
            expected=f"a bool mask of shape {rows}",
            got=f"{visible.dtype} of shape {tuple(visible.shape)}",
            fix="Pass the window's rows of this sequence's mask, True where a query sees.",
        )


def require_whole(
    output_weight: Tensor | None, prompt_queries: Tensor | None, q_window: Tensor, num_tokens: int, value_dim: int
) -> None:
    """Check for a projection of every query head's values, and the queries of the whole prompt.

    Raises:
        InputError: another shape.
    """
    query_heads, _, head_dim = q_window.shape
    if output_weight is not None and (output_weight.ndim != 3 or output_weight.shape[:2] != (query_heads, value_dim)):
        raise InputError(
            "output_weight",
            expected=f"shape ({query_heads}, {value_dim}, hidden)",
            got=str(tuple(output_weight.shape)),
            fix="Cut the projection into one [value_dim, hidden] matrix per query head.",
        )
    rows = (query_heads, num_tokens, head_dim)
    if prompt_queries is not None and tuple(prompt_queries.shape) != rows:
        raise InputError(
            "prompt_queries",
            expected=f"all queries of the prompt, shape {rows}",
            got=str(tuple(prompt_queries.shape)),
            fix="Pass them as the attention sees them, the window's included.",
        )


def require_residual(residual_norms: Tensor | None, num_rows: int) -> None:
    """Check for one norm a window query, not all of them zero.

    Raises:
        InputError: another shape, only zeros, or a norm that is negative or not finite (checked on the CPU only).
    """
    if residual_norms is None:
        return
    fits = tuple(residual_norms.shape) == (num_rows,)
    if fits and residual_norms.device.type == "cpu":
        fits = bool(((residual_norms >= 0) & residual_norms.isfinite()).all() and (residual_norms > 0).any())
    if not fits:
        raise InputError(
            "residual_norms",
            expected=f"a norm for each of the window's {num_rows} queries, non-negative, at least one positive",
            got=f"shape {tuple(residual_norms.shape)}",
            fix="Pass the L2 norms of the layer's input at these tokens.",
        )


def require_rotation(rotation: Sequence[Tensor] | None, num_tokens: int, head_dim: int) -> None:
    """Check for cosines and sines of all rows of the prompt, and a frequency for each pair of channels.

    Raises:
        InputError: not three tensors, or another shape.
    """
    if rotation is None:
        return
    expected = [(num_tokens, head_dim), (num_tokens, head_dim), (head_dim // 2,)]
    got = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in rotation]
    if got != expected or head_dim % 2:
        raise InputError(
            "rotation",
            expected=f"cosines, sines and frequencies of the shapes {', '.join(map(str, expected))}",
            got=", ".join(map(str, got)),
            fix="Pass what the layer rotates this sequence's queries and keys by.",
        )


def require_replay(replay: ReplayMaxima | None, shape: tuple[int, int, int]) -> None:
    """Check for maxima of every position for each query head, `shape` being `[H, G, N]`.

    Raises:
        InputError: something else than `ReplayMaxima`, or another shape.
    """
    if replay is None:
        return
    parts = [part for part in replay if part is not None] if isinstance(replay, ReplayMaxima) else []
    if not parts or any(not isinstance(part, Tensor) or tuple(part.shape) != shape for part in parts):
        raise InputError(
            "replay",
            expected=f"ReplayMaxima of shape {shape}",
            got=" and ".join(str(tuple(getattr(part, "shape", ()))) for part in parts) or type(replay).__name__,
            fix="Join what `chunk_maxima` gives for the chunks along the tokens.",
        )


def require_caps(scores: Sequence[Tensor], caps: Sequence[Tensor] | None) -> list[Tensor]:
    """Candidates of each head of each layer, int64 `[H]` on the CPU: as given, or one a place.

    Args:
        scores: `[H, n]` for each layer, the same `n` in each unless caps are given.
        caps: int64 `[H]` for each layer, or None.

    Raises:
        InputError: no layers, scores of another rank or unequal length, caps of another shape or beyond `n`.
    """
    shapes = [tuple(score.shape) for score in scores]
    lengths = {shape[-1] for shape in shapes if len(shape) == 2 and shape[0] > 0}
    if not shapes or any(len(shape) != 2 or not shape[0] for shape in shapes) or (caps is None and len(lengths) != 1):
        raise InputError(
            "scores",
            expected="[kv_heads, n] for each layer of one prompt, equally long",
            got=", ".join(map(str, shapes)) or "none",
            fix="Pass what `lavakv.scores` returned for every layer; give `caps` where heads hold unequally many.",
        )
    if caps is None:
        return [torch.full((heads,), n, dtype=torch.int64, device="cpu") for heads, n in shapes]
    if len(caps) != len(shapes) or not all(map(_are_caps, caps, shapes)):
        raise InputError(
            "caps",
            expected="for each layer whole numbers [kv_heads], from 0 to the number of places: "
            + ", ".join(f"({heads},) up to {n}" for heads, n in shapes),
            got=", ".join(str(own.tolist() if isinstance(own, Tensor) else own) for own in caps) or "none",
            fix="Pass how many candidates each head of each layer holds.",
        )
    return [own.to("cpu", torch.int64) for own in caps]


def _are_caps(caps: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether these count the candidates of scores of that shape."""
    if not isinstance(caps, Tensor) or caps.dtype.is_floating_point or caps.dtype == torch.bool:
        return False
    return tuple(caps.shape) == shape[:1] and bool(((caps >= 0) & (caps <= shape[1])).all())


def _fit(q_window: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> bool:
    if not keys or not values or any(tensor.ndim != 3 for tensor in (q_window, *keys, *values)):
        return False
    num_heads, head_dim, value_dim = keys[0].shape[0], keys[0].shape[2], values[0].shape[2]
    return (
        num_heads > 0
        and q_window.shape[0] > 0
        and q_window.shape[0] % num_heads == 0
        and q_window.shape[2] == head_dim
        and 0 < q_window.shape[1] <= sum(chunk.shape[1] for chunk in keys)
        and all(key.shape[::2] == (num_heads, head_dim) for key in keys)
        and all(value.shape[::2] == (num_heads, value_dim) for value in values)
        and [key.shape[1] for key in keys] == [value.shape[1] for value in values]
    )
