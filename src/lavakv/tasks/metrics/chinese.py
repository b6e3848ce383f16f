"""Chinese text: its words, and its punctuation as far as the benchmarks drop it."""

from __future__ import annotations

import logging
import string
from functools import cache
from typing import Any

from lavakv.tasks.extras import needed

# What LongBench and InfiniteBench both list, as code points. The odd holes are theirs: U+300A opens a title and stays,
# U+300B closes it and goes.
_CHINESE = [(0x2013, 0x2014), (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027), (0x3001, 0x3003), (0x300B, 0x3011)]
_CHINESE += [(0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F), (0xFE4F, 0xFE4F), (0xFF01, 0xFF0D), (0xFF0F, 0xFF0F)]
_CHINESE += [(0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64)]
_DROPPED = dict.fromkeys([ord(sign) for sign in string.punctuation])
_DROPPED |= dict.fromkeys(code for first, last in _CHINESE for code in range(first, last + 1))


def words(text: str) -> list[str]:
    """What jieba cuts a text into, punctuation and spaces included."""
    return list(_jieba().cut(text, cut_all=False))


def bare(text: str) -> str:
    """In lower case, without ASCII and Chinese punctuation, without white space."""
    return "".join(text.lower().translate(_DROPPED).split())


@cache
def _jieba() -> Any:
    jieba = needed("jieba")
    jieba.setLogLevel(logging.WARNING)  # it reports on loading its dictionary
    return jieba
