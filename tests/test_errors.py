from __future__ import annotations

import copy
import pickle

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
