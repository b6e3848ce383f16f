from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path

import pytest

from lavakv import errors
from tests.errors import assert_all_parts

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LavaError)]
BUILT_IN = {
    "BudgetError": ValueError,
    "PolicyError": ValueError,
    "InputError": ValueError,
    "CacheMismatchError": ValueError,
    "UnsupportedError": NotImplementedError,
    "NotEnabledError": RuntimeError,
    "CacheStateError": RuntimeError,
    "ModelError": OSError,
    "TaskError": ValueError,
    "DataUnavailableError": ValueError,
    "MissingExtraError": ImportError,
    "ResultsError": RuntimeError,
    "FailedRunError": RuntimeError,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("duplicate", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_errors_survive_pickling_and_copying(kind: type[errors.LavaError], duplicate) -> None:
    error = kind("budget", expected="a {number}", got="'%s'", fix="Mend it.")
    error.__notes__ = ["a note"]
    again = duplicate(error)
    assert type(again) is kind
    assert str(again) == str(error) == "budget: expected a {number}, got '%s'. Mend it."
    assert (again.argument, again.expected, again.got, again.fix) == ("budget", "a {number}", "'%s'", "Mend it.")
    assert_all_parts(again)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_documented_and_can_be_caught_by_their_base(kind: type[errors.LavaError]) -> None:
    assert kind.__doc__
    with pytest.raises(errors.LavaError):
        raise kind("a", expected="b", got="c", fix="d.")


@pytest.mark.parametrize(("name", "base"), BUILT_IN.items())
def test_errors_are_also_what_python_would_raise(name: str, base: type[Exception]) -> None:
    assert issubclass(getattr(errors, name), base)


def test_public_errors_are_exported() -> None:
    import lavakv

    assert {kind.__name__ for kind in KINDS} <= set(lavakv.__all__)


@pytest.mark.parametrize(
    ("got", "fix", "end"),
    [
        ("none", "Give one.", "got none. Give one."),
        ("ValueError: it is wrong.", "Give one.", "got ValueError: it is wrong. Give one."),
        ("none..", "Give one..", "got none. Give one."),
        ("a list, cut off...", "Give one.", "got a list, cut off... Give one."),
        ("what?", "Really!", "got what? Really!"),
        ("none. ", "Start one: ray start", "got none. Start one: ray start."),
    ],
)
def test_sentences_end_in_one_full_stop(got, fix, end) -> None:
    error = errors.InputError("a", expected="b", got=got, fix=fix)
    assert str(error) == f"a: expected b, {end}"
    assert (error.got, error.fix) == (got, fix)


SAY_NOTHING = ("Correct it.", "Correct them.", "Mend it.", "Fix it.", "Choose one.")


def _fixes() -> list[tuple[str, str]]:
    """Every `fix` of the package that is written down as one text, with where it stands."""
    found = []
    for file in sorted(Path(errors.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "fix" and isinstance(node.value, ast.Constant):
                found.append((f"{file.name}:{node.value.lineno}", node.value.value))
    return found


def test_fixes_say_what_to_do() -> None:
    """A sentence, and more than that it is wrong."""
    fixes = _fixes()
    assert len(fixes) > 50
    assert [place for place, fix in fixes if not fix.endswith((".", "?")) or fix.endswith("..")] == []
    assert [place for place, fix in fixes if fix in SAY_NOTHING] == []
