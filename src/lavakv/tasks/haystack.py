"""The text that needles are hidden in: the user's files, or generated prose."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from random import Random

from lavakv.errors import TaskError

_SUBJECTS = ("gardener", "baker", "captain", "teacher", "farmer", "painter", "clerk", "sailor", "miller", "weaver")
_VERBS = ("carried", "mended", "counted", "painted", "forgot", "described", "measured", "sold", "borrowed", "washed")
_OBJECTS = ("basket", "ladder", "lantern", "map", "kettle", "wagon", "letter", "fence", "clock", "boat", "mirror")
_QUALITIES = ("old", "small", "heavy", "broken", "green", "quiet", "plain", "long", "narrow", "empty", "wooden")
_PLACES = ("near the river", "behind the church", "on the hill", "at the market", "by the road", "in the barn")
_TIMES = ("in the morning", "before noon", "after the rain", "in early spring", "on market day", "at dusk")
_NUM_SENTENCES = 4000


@cache
def haystack_words(folder: Path | None, seed: int) -> tuple[str, ...]:
    """The haystack's words, white space gone: of all .txt files in the order of their names, or of generated prose.

    Raises:
        TaskError: a folder without readable text.
    """
    return tuple(haystack_text(folder, seed).split())


def haystack_text(folder: Path | None, seed: int) -> str:
    """The whole haystack.

    Raises:
        TaskError: a folder without readable text.
    """
    return _generated(seed) if folder is None else _joined(folder)


@cache
def _joined(folder: Path) -> str:
    files = sorted(folder.glob("*.txt"))
    try:
        text = "".join(path.read_text(encoding="utf-8") for path in files)
    except (OSError, ValueError) as error:
        raise TaskError(
            str(folder), expected="UTF-8 text files", got=str(error), fix="Convert the files to UTF-8, or remove them."
        ) from error
    if not text.strip():
        raise TaskError(
            str(folder),
            expected="a folder with .txt files",
            got="no text",
            fix="Name a folder with .txt files, or omit it for generated text.",
        )
    return text


@cache
def _generated(seed: int) -> str:
    random = Random(f"haystack/{seed}")
    return " ".join(_sentence(random) for _ in range(_NUM_SENTENCES))


def _sentence(random: Random) -> str:
    subject, verb, thing = random.choice(_SUBJECTS), random.choice(_VERBS), random.choice(_OBJECTS)
    qualities = random.sample(_QUALITIES, 2)
    end = random.choice(_PLACES if random.random() < 0.5 else _TIMES)
    return f"The {qualities[0]} {subject} {verb} the {qualities[1]} {thing} {end}."


def sentences(text: str) -> list[str]:
    """A text split after full stops, question and exclamation marks that white space follows."""
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip()) if sentence]
