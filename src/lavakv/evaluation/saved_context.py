"""A text compressed once and kept in a file, and questions about it that do not read it again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lavakv.errors import InputError
from lavakv.evaluation.answer import Answer, Sampling, answer
from lavakv.evaluation.encode import encode_context, encode_question, max_answer_tokens
from lavakv.evaluation.kept import kept_by_sequence
from lavakv.evaluation.variant import Variant
from lavakv.eviction.saved_header import SavedHeader
from lavakv.hf import LavaCache, enabled
from lavakv.hf.contract import cache_argument
from lavakv.hf.saved import load, save
from lavakv.models.load import LoadedModel

CHAT, MODEL = "chat", "model"  # what `compress_text` notes in the file's header


class Compressed(NamedTuple):
    """A text that was read and compressed.

    Attributes:
        cache: holds it.
        tokens: of the text, and of the chat template before it.
        kept_entries: entries that compressed layers keep of it.
        kept_fraction: the same as a share of all.
        kv_bytes: bytes of keys and values, all layers.
        seconds: for reading and compressing.
    """

    cache: LavaCache
    tokens: int
    kept_entries: int
    kept_fraction: float
    kv_bytes: int
    seconds: float


def compress_text(loaded: LoadedModel, text: str, variant: Variant, *, chat: bool = True) -> Compressed:
    """Read a text whose questions come later, and compress it.

    Args:
        loaded: model and tokenizer; enabled for the run only.
        text: what the user says before the question.
        variant: policy and budget.
        chat: begin as the model's chat template does, if it has one.

    Raises:
        LavaError: no text, one beyond the model's positions, a bad budget, a model that cannot be compressed.
    """
    ids = encode_context(loaded.tokenizer, text, chat=chat)
    config, num_tokens = loaded.model.config, ids.shape[1]
    max_answer_tokens(config, num_tokens, 1)
    cache, start = variant.new_cache(config), time.perf_counter()
    with enabled(loaded.model), torch.no_grad():
        loaded.model(ids.to(loaded.model.device), **cache_argument(loaded.model, cache), logits_to_keep=1)
    (kept,) = kept_by_sequence(cache, config, num_tokens)
    seconds = time.perf_counter() - start
    return Compressed(cache, num_tokens, kept.entries, kept.fraction, cache.nbytes, seconds)


def save_text(compressed: Compressed, path: Path, model: str, *, chat: bool) -> None:
    """Save a compressed text, with the model's name and whether its chat template was used.

    Raises:
        LavaError: as `LavaCache.save`; the argument is called `--out`.
    """
    save(compressed.cache, path, {MODEL: model, CHAT: chat}, argument="--out")


def ask_saved(
    loaded: LoadedModel,
    path: Path,
    header: SavedHeader,
    question: str,
    sampling: Sampling,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Generate the answer to a question about a saved context, which is not read again.

    Args:
        loaded: model and tokenizer; enabled for the run only.
        path: the file.
        header: of the file; one sequence.
        question: what the user says behind the text.
        sampling: how tokens are chosen, and how many.
        on_text: called with each piece of text as it is generated.

    Raises:
        LavaError: as `LavaCache.load`; a context without token ids, or a question beyond the model's positions.
    """
    cache = load(path, loaded.model, argument="--context")
    held = cache._state.session.columns.tokens.cpu()
    if bool((held < 0).any()):
        raise InputError(
            "--context", expected="a context of token ids", got=f"{path}: one of embeddings",
            fix="Load it in Python, and go on with embeddings.",
        )  # fmt: skip
    asked = encode_question(loaded.tokenizer, question, chat=header.notes.get(CHAT) is True)
    cache.note_announced(asked.shape[1])  # no warning: it is meant to come behind the budget
    variant = variant_of(header)
    return answer(loaded, torch.cat([held, asked], dim=1), variant, sampling, on_text, cache)


def variant_of(header: SavedHeader) -> Variant:
    """How a saved context was compressed."""
    store: Any = header.store
    return Variant(header.policy, **header.budget, store=store)
