"""Differences between the run that a folder holds and the requested one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_SETTINGS, _VERSIONS = "run.arguments.", ("schema", "run.versions.", "tasks.")


class Difference(NamedTuple):
    """A value of `run.json` that has changed.

    Attributes:
        name: keys, joined by dots.
        was: in the folder; None if it is not there.
        now: in the requested run.
    """

    name: str
    was: Any
    now: Any

    @property
    def is_setting(self) -> bool:
        """True if it is a setting that the user chooses."""
        return self.name.startswith(_SETTINGS)

    @property
    def is_version(self) -> bool:
        """True if it is the version of something that both runs used."""
        return self.name.startswith(_VERSIONS) and not (self.name.startswith("tasks.") and self.was is None)

    def __str__(self) -> str:
        name = self.name.removeprefix("run.").removeprefix("arguments.")
        return f"{name} was {_shown(self.was)}, is {_shown(self.now)}"


def differences(stored: Any, requested: Any, name: str = "") -> Iterator[Difference]:
    """All differences, by the names that `requested` has; which settings were passed by hand does not count."""
    if isinstance(stored, Mapping) and isinstance(requested, Mapping):
        for key, value in requested.items():
            if key != "passed":
                yield from differences(stored.get(key), value, f"{name}.{key}".lstrip("."))
    elif stored != requested:
        yield Difference(name, stored, requested)


def can_restart(found: Sequence[Difference]) -> bool:
    """True if these differences come from changed settings alone, so that a new run may replace the old one.

    Device, dtype or revision may follow from a setting; otherwise the machine or the hub changed.
    """
    return any(each.is_setting for each in found) and not any(each.is_version for each in found)


def describe(found: Sequence[Difference]) -> str:
    """The first three, in words."""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(map(str, found[:3])) + more


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
