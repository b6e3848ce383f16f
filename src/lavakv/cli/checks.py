"""Checks of a command line before PyTorch is loaded, which takes seconds."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

from lavakv.errors import InputError
from lavakv.models.choices import require_attention, require_device, require_dtype
from lavakv.models.source import source_of

_MAX_SEED = 2**63 - 1


def check_model(model: str, dtype: str, device: str, attention: str | None) -> None:
    """Check a model's name and how it is loaded, as far as names and small files allow.

    Raises:
        ModelError: a path without a model.
        InputError: an unknown dtype, device or attention implementation.
    """
    check_placement(dtype, device, attention)
    source_of(model)


def check_placement(dtype: str, device: str, attention: str | None) -> None:
    """Check how a model is loaded.

    Raises:
        InputError: an unknown dtype, device or attention implementation.
    """
    require_dtype(dtype, "--dtype")
    require_device(device, "--device")
    require_attention(attention, "--attention")


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that PyTorch's generators do not take."""
    if seed > _MAX_SEED:
        raise InputError("--seed", expected=f"at most {_MAX_SEED}", got=str(seed), fix="Use a smaller one.")


def check_temperature(temperature: float) -> None:
    """Raise InputError for a temperature that is not a finite number."""
    if not isfinite(temperature):
        raise InputError("--temperature", expected="a finite number", got=str(temperature), fix="0 is greedy.")


def check_questions(questions: Iterable[str]) -> None:
    """Raise InputError for a question without text."""
    if not all(question.strip() for question in questions):
        raise InputError("--question", expected="some text", got="none", fix="Omit it, or ask something.")
