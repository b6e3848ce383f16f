"""The policies that have a name: the built-in family, and what installed packages add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from lavakv.errors import PolicyError
from lavakv.family import FAMILY
from lavakv.policy import Policy

ENTRY_POINTS = "lavakv.policies"


def policies() -> Mapping[str, str]:
    """The policies that can be named: name to one line about each, installed plugins included.

    A plugin is an entry point of the group `lavakv.policies` whose object is a `Policy`; its name is the entry point's.
    """
    lines = {name: policy.summary for name, policy in FAMILY.items()}
    for name, plugin in _plugins().items():
        distribution = plugin.dist.name if plugin.dist is not None else plugin.value
        lines.setdefault(name, f"from {distribution}")
    return MappingProxyType(lines)


def get_policy(policy: str | Policy) -> Policy:
    """Look a policy up by name; a `Policy` passes through. Built-in names come before plugins' names.

    Raises:
        PolicyError: no policy has that name, or a plugin cannot be loaded.
    """
    if isinstance(policy, Policy):
        return policy
    if isinstance(policy, str) and policy in FAMILY:
        return FAMILY[policy]
    plugins = _plugins()
    if isinstance(policy, str) and policy in plugins:
        return _loaded(plugins[policy])
    raise PolicyError(
        "policy",
        expected=f"a Policy or one of {', '.join([*FAMILY, *plugins])}",
        got=repr(policy),
        fix="`lavakv.policies()` lists the names.",
    )


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _loaded(plugin: EntryPoint) -> Policy:
    try:
        policy = plugin.load()
    except Exception as error:  # whatever a stranger's module does when it is imported
        policy = error
    if not isinstance(policy, Policy):
        raise PolicyError(
            f"policy {plugin.name!r}",
            expected=f"a lavakv.Policy at {plugin.value}",
            got=f"{type(policy).__name__}: {policy}",
            fix="Mend or remove the package that brings it.",
        )
    return policy if policy.name == plugin.name else replace(policy, name=plugin.name)  # reports say what was asked for
