"""RULER's variable tracking: names handed on from one to the next."""

from __future__ import annotations

import string
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from lavakv.tasks.generated import Draft
from lavakv.tasks.harness.constants import constant
from lavakv.tasks.settings import TaskSettings

_FILE = "ruler/vt_utils.py"
_HOPS = 4
_EXAMPLE_LINES = 10


@dataclass(frozen=True)
class VariableTracking:
    """One chain of four hops in noise, after a short solved example."""

    smallest: int = _HOPS + 1

    def most(self, settings: TaskSettings) -> int | None:
        """No upper end."""
        return None

    def draft(self, random: Random, size: int, settings: TaskSettings) -> Draft:
        """A prompt with `size` lines of noise.

        Raises:
            MissingExtraError: no harness.
            TaskError: another harness.
        """
        example = _puzzle(random, _EXAMPLE_LINES, letters=3)
        puzzle = _puzzle(random, size, letters=5)
        solved = f"{example.context}{example.question}{example.answer_prefix}{' '.join(example.answers)}\n\n"
        return puzzle._replace(context=solved + puzzle.context)


def _puzzle(random: Random, num_lines: int, letters: int) -> Draft:
    names: list[str] = []
    while len(names) <= _HOPS:
        name = "".join(random.choices(string.ascii_uppercase, k=letters))
        names += [name] if name not in names else []
    value = str(random.randint(10_000, 99_999))
    lines = [str(constant(_FILE, "noise")).strip()] * num_lines
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {name} = VAR {before} " for before, name in pairwise(names)]
    for added, place in enumerate(sorted(random.sample(range(num_lines), len(chain)))):
        lines.insert(place + added, chain[added])
    texts = constant(_FILE, "CONFIG")["variable_tracking"]
    before, after = str(texts["template"]).split("{context}")
    prefix = str(texts["answer_prefix"]).replace("assgined", "assigned")  # RULER mended it since
    context = before + "\n".join(lines)
    return Draft(context, after.format(query=value), tuple(names), prefix.format(num_v=_HOPS + 1, query=value))
