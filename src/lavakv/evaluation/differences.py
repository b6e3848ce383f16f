"""What differs between the run that a folder holds and the one that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_SETTINGS, _VERSIONS = "run.arguments.", ("schema", "run.versions.", "tasks.")


class Difference(NamedTuple):
    """One value of `run.json` that is another one now.

    Attributes:
        name: keys, joined by dots.
        was: what the folder says; None if it says nothing.
        now: what is asked for.
    """

    name: str
    was: Any
    now: Any

    @property
    def is_setting(self) -> bool:
        """Did the user ask for it?"""
        return self.name.startswith(_SETTINGS)

    @property
    def is_version(self) -> bool:
        """Is it a version of something that both runs used?"""
        return self.name.startswith(_VERSIONS) and not (self.name.startswith("tasks.") and self.was is None)

    def __str__(self) -> str:
        name = self.name.removeprefix("run.").removeprefix("arguments.")
        return f"{name} was {_shown(self.was)}, is {_shown(self.now)}"


def differences(stored: Any, wanted: Any, name: str = "") -> Iterator[Difference]:
    """All that differs; only names that are wanted are looked at, and not which settings were passed by hand."""
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        for key, value in wanted.items():
            if key != "passed":
                yield from differences(stored.get(key), value, f"{name}.{key}".lstrip("."))
    elif stored != wanted:
        yield Difference(name, stored, wanted)


def can_restart(found: Sequence[Difference]) -> bool:
    """Do these differences come from changed settings alone?

    Device, dtype or revision may follow from a setting; without one they say that the machine or the hub changed.
    """
    return any(each.is_setting for each in found) and not any(each.is_version for each in found)


def describe(found: Sequence[Difference]) -> str:
    """The first three, in words."""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(map(str, found[:3])) + more


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
