"""The fact to hide, invented or the published one, and hiding it at a depth of a haystack."""

from __future__ import annotations

import ast
from functools import cache
from random import Random
from typing import Any, NamedTuple

from lavakv.errors import MissingExtraError, TaskError
from lavakv.tasks.extras import package_folder

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
    """A needle and the question about it.

    Attributes:
        sentence: the text to hide, newlines around it.
        question: asks for it.
        answer: the words that count.
    """

    sentence: str
    question: str
    answer: str


def invented_fact(random: Random) -> Fact:
    """A fact that no model knows, drawn at random."""
    place = random.choice(_PLACES)
    answer = f"{random.choice(_PASTIMES)} {random.choice(_SPOTS)} {random.choice(_TIMES)}"
    sentence = f"\nThe favourite pastime in {place} is to {answer}.\n"
    return Fact(sentence, f"What is the favourite pastime in {place}?", answer)


@cache
def published_fact() -> Fact:
    """The needle of the published test, read from its package, which is not run.

    Raises:
        MissingExtraError: the package is not installed.
        TaskError: the installed version lacks the sentence.
    """
    try:
        path = package_folder("needlehaystack") / "run.py"
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
    """Default texts of the fields of the classes in a file."""
    fields = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AnnAssign))
    return {
        field.target.id: field.value.value
        for field in fields
        if isinstance(field.target, ast.Name)
        and isinstance(field.value, ast.Constant)
        and isinstance(field.value.value, str)
    }


RESERVED_TOKENS = 200  # for the rest of the prompt and the answer, as in the published test


def hide_fact(tokenizer: Any, haystack: str, fact: Fact, length: int, depth: float) -> str:
    """A text of about `length - 200` tokens with the needle in it.

    As published: the haystack is repeated as needed and cut, the needle is inserted at its share of the tokens, moved
    back to just after a full stop, at 100 percent at the very end. No special token is inserted.

    Args:
        tokenizer: the model's.
        haystack: text.
        fact: what to hide.
        length: tokens of the whole prompt.
        depth: percent.
    """
    needle = _ids(tokenizer, fact.sentence)
    text = _first_tokens(tokenizer, haystack, max(1, length - RESERVED_TOKENS - len(needle)))
    if depth == 100:
        return str(tokenizer.decode(text + needle))
    position = int(len(text) * depth / 100)
    stops = set(_ids(tokenizer, "."))
    while position and text[position - 1] not in stops:
        position -= 1
    return str(tokenizer.decode(text[:position] + needle + text[position:]))


def _first_tokens(tokenizer: Any, haystack: str, count: int) -> list[int]:
    """The first `count` tokens of the haystack, repeated as needed."""
    once = _ids(tokenizer, haystack[: count * 20])  # no tokenizer averages more characters a token
    if len(once) < count:
        once = _ids(tokenizer, haystack)
    return (once * -(-count // len(once)))[:count]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
