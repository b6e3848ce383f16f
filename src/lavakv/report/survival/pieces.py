"""A prompt's text, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"
_LONGEST = 8


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of every token, so that all of them together read like the decoded prompt.

    A character that is spread over several tokens is shown on the last of them; the others are empty. A space that a
    tokenizer drops at the start of a text is kept.

    Args:
        tokenizer: a transformers tokenizer.
        ids: token ids.
    """
    texts, waiting = [], list[int]()
    before: int | None = None
    for token in ids:
        waiting.append(token)
        text = _decoded(tokenizer, waiting, before)
        if text.endswith(_BROKEN) and len(waiting) < _LONGEST and _is_part(tokenizer, token):
            texts.append("")
            continue
        texts.append(text)
        before, waiting = token, []
    if waiting:
        texts[-1] = _decoded(tokenizer, waiting, before)
    return texts


def _decoded(tokenizer: Any, ids: Sequence[int], before: int | None) -> str:
    """Text of some tokens behind another one."""
    if before is None:
        return _plain(tokenizer, ids)
    lead, both = _plain(tokenizer, [before]), _plain(tokenizer, [before, *ids])
    return both[len(lead) :] if both.startswith(lead) else _plain(tokenizer, ids)


def _is_part(tokenizer: Any, token: int) -> bool:
    """Is the broken character this token's doing? A text may hold that character itself."""
    return _BROKEN in _plain(tokenizer, [token])


def _plain(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
