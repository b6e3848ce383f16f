"""The list of what lavakv is known to refuse in transformers' tests (`refusals.toml`)."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from lavakv import errors
from transformers_suite.run import Outcome

LIST = Path(__file__).with_name("refusals.toml")


@dataclass(frozen=True)
class Refusal:
    """Tests that must end in one of lavakv's errors.

    Attributes:
        tests: pattern of test ids, `tests/models/llama/test_modeling_llama.py::LlamaModelTest::test_x`.
        error: the LavaError's class; AssertionError for a test that itself requires a DynamicCache.
        message: text that the error contains.
        reason: why lavakv refuses it.
    """

    tests: str
    error: str
    message: str
    reason: str

    def concerns(self, test: str) -> bool:
        """Whether the pattern matches a test's id."""
        return fnmatchcase(test, self.tests)

    def accepts(self, test: str, outcome: Outcome) -> bool:
        """Whether a test ended in this refusal."""
        names = ((ours or name, text) for name, ours, text in outcome.errors)
        refused = any(self.error == name and self.message in text for name, text in names)
        return outcome.outcome == "failed" and refused and self.concerns(test)


def read_refusals(file: Path = LIST) -> tuple[Refusal, ...]:
    """Read a list; every entry has all four fields, and an error that lavakv raises or AssertionError.

    Raises:
        ValueError: an entry names another error, which would hide failures.
    """
    found = tuple(Refusal(**entry) for entry in tomllib.loads(file.read_text(encoding="utf-8")).get("refusal", []))
    for entry in found:
        if entry.error != AssertionError.__name__ and not hasattr(errors, entry.error):
            raise ValueError(f"{file}: {entry.error} is not an error of lavakv")
    return found


def accepting(refusals: Sequence[Refusal], test: str, outcome: Outcome) -> Refusal | None:
    """The entry that accepts a test's outcome, or None."""
    return next((entry for entry in refusals if entry.accepts(test, outcome)), None)
