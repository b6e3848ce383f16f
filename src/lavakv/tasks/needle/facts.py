"""What is hidden: a sentence, and the question that only it answers."""

from __future__ import annotations

import ast
from functools import cache
from random import Random
from typing import NamedTuple

from lavakv.errors import MissingExtraError, TaskError
from lavakv.tasks.extras import folder_of

_PLACES = (
    "Arlen",
    "Brackwater",
    "Corrow",
    "Dunmere",
    "Eskby",
    "Farrowgate",
    "Gullhaven",
    "Hollin",
    "Irthwick",
    "Kelmore",
)
_PASTIMES = (
    "feed a tame heron",
    "ring a copper bell",
    "plant a row of tulips",
    "bake a loaf of rye",
    "fly a paper kite",
)
_SPOTS = ("beside the tide mill", "under the chestnut tree", "behind the glass works", "on the customs steps")
_TIMES = ("during a warm thunderstorm", "on a foggy evening", "before the autumn fair", "after the late ferry")


class Fact(NamedTuple):
    """A needle.

    Attributes:
        sentence: what is hidden, newlines around it.
        question: about it.
        answer: the words that count.
    """

    sentence: str
    question: str
    answer: str


def made_up(random: Random) -> Fact:
    """A fact that no model knows."""
    place = random.choice(_PLACES)
    answer = f"{random.choice(_PASTIMES)} {random.choice(_SPOTS)} {random.choice(_TIMES)}"
    sentence = f"\nThe favourite pastime in {place} is to {answer}.\n"
    return Fact(sentence, f"What is the favourite pastime in {place}?", answer)


@cache
def published() -> Fact:
    """The needle of the published test, read from its package, which is not run.

    Raises:
        MissingExtraError: the package is not installed.
        TaskError: a version of it without the sentence.
    """
    try:
        path = folder_of("needlehaystack") / "run.py"
    except MissingExtraError as error:
        raise MissingExtraError(
            "needlehaystack",
            expected="an installed package, for the published needle",
            got="none",
            fix="Run: pip install --no-deps 'needlehaystack<1', or use the task needle.",
        ) from error
    texts = _defaults(path.read_text(encoding="utf-8")) if path.is_file() else {}
    needle, question = texts.get("needle"), texts.get("retrieval_question")
    if not needle or not question or " is " not in needle:
        raise TaskError(str(path), expected="the published needle", got="none", fix="Install needlehaystack 0.1.0.")
    return Fact(needle, question, needle.strip().removesuffix(".").partition(" is ")[2])


def _defaults(source: str) -> dict[str, str]:
    """Texts that a class of the file has as defaults of its fields."""
    fields = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AnnAssign))
    return {
        field.target.id: field.value.value
        for field in fields
        if isinstance(field.target, ast.Name)
        and isinstance(field.value, ast.Constant)
        and isinstance(field.value.value, str)
    }
