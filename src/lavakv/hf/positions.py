"""How many tokens a model's position encoding reaches."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


def max_positions(text: PretrainedConfig) -> int | None:
    """Tokens a model's positions reach, those that RoPE scaling adds included; None if the config sets no end.

    Some configs give the scaled length as `max_position_embeddings`, others (Qwen2.5 with YaRN) the original one, and
    then they say what it was before. A factor alone (linear, dynamic NTK) does not tell which of the two is stated, so
    it sets no end: refusing what the model can do would be wrong.
    """
    stated = getattr(text, "max_position_embeddings", None)
    if stated is None:
        return None
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kinds = [kind for kind in rope.values() if isinstance(kind, dict)] or [rope]
    if any(kind.get("factor") and not kind.get("original_max_position_embeddings") for kind in kinds):
        return None
    return max([int(stated), *(_scaled(kind) for kind in kinds)])


def _scaled(rope: dict[str, Any]) -> int:
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    return int(original * factor) if original and isinstance(factor, (int, float)) else 0
