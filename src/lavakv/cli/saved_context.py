"""`lavakv generate --context`: what is checked before PyTorch is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from lavakv.cli.options import is_given
from lavakv.errors import CacheMismatchError, InputError, PolicyError
from lavakv.eviction.saved_header import SavedHeader, read_header
from lavakv.models.choices import DTYPES
from lavakv.models.default import fetched_model_dir
from lavakv.models.source import CONFIG, source_of

# When the context was compressed:
_DECIDED = ("budget", "keep", "max_bytes", "max_loss", "kv_bits", "policy", "full_cache", "window", "chat")


def checked_header(call: typer.Context, context: Path, model: str, dtype: str) -> SavedHeader:
    """The header of a saved context, checked as far as headers and small files allow.

    Args:
        call: the command line.
        context: value of `--context`.
        model: value of `--model`.
        dtype: value of `--dtype`.

    Raises:
        InputError: an option that was decided when the context was compressed; a file that is no saved context, or one
            of several sequences.
        CacheMismatchError: another model or dtype.
        PolicyError: a policy without a registered name.
    """
    given = [name for name in _DECIDED if is_given(call, name)]
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise InputError(
            option, expected="nothing beside --context, which is compressed already", got="a value",
            fix="Give it to `lavakv compress`.",
        )  # fmt: skip
    header = read_header("--context", context)
    if header.batch != 1:
        raise InputError(
            "--context", expected="a context of one sequence", got=f"{context}: {header.batch}", fix="Use it in Python."
        )
    if not header.policy_is_named:
        raise PolicyError(
            "--context", expected="a policy with a registered name", got=f"{context}: {header.policy}",
            fix="Load it in Python with `LavaCache.load(path, model, policy=...)`.",
        )  # fmt: skip
    _check_model(header, context, model)
    if dtype != "auto" and header.model.get("dtype") not in (None, dtype):
        raise CacheMismatchError(
            "--dtype", expected=f"{header.model['dtype']}, in which the context was computed", got=dtype,
            fix="Leave it out, or compress the text again.",
        )  # fmt: skip
    return header


def dtype_for(header: SavedHeader, dtype: str) -> str:
    """The dtype to load a model in: what was asked for, or else that of the context."""
    own = header.model.get("dtype")
    return own if dtype == "auto" and own in DTYPES else dtype


def _check_model(header: SavedHeader, context: Path, model: str) -> None:
    """Check a model's architecture, where its configuration is on this machine; what else differs is found later."""
    source = source_of(model)
    folder = fetched_model_dir() if source.kind == "default" else source.path if source.kind == "directory" else None
    if folder is None:
        return
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):  # found when the model is loaded
        return
    own, found = header.model.get("config_type"), config.get("model_type")
    if own is not None and found not in (None, own) and "text_config" not in config:
        name = header.notes.get("model")
        raise CacheMismatchError(
            "--model", expected=f"the model that {context} was computed with ({name or own})", got=f"{model} ({found})",
            fix="Name that model with --model, or compress the text again.",
        )  # fmt: skip
