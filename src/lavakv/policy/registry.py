"""The policies that have a name: the built-in family, and what installed packages add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from types import MappingProxyType

from lavakv.errors import PolicyError
from lavakv.policy.builtin import FAMILY
from lavakv.policy.names import plugins, unknown_policy
from lavakv.policy.rules import Policy


def policies() -> Mapping[str, str]:
    """The policies that can be named: name to one line about each, installed plugins included.

    A plugin is an entry point of the group `lavakv.policies` whose object is a `Policy`; its name is the entry point's.
    """
    lines = {name: policy.summary for name, policy in FAMILY.items()}
    for name, plugin in plugins().items():
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
    if isinstance(policy, str) and (plugin := plugins().get(policy)):
        return _loaded(plugin)
    raise unknown_policy(policy, "policy", "a Policy or one of")


def _loaded(plugin: EntryPoint) -> Policy:
    try:
        policy = plugin.load()
    except Exception as error:  # third-party code may raise anything
        policy = error
    if not isinstance(policy, Policy):
        raise PolicyError(
            f"policy {plugin.name!r}",
            expected=f"a lavakv.Policy at {plugin.value}",
            got=f"{type(policy).__name__}: {policy}",
            fix="Fix or uninstall the package that brings it.",
        )
    return policy if policy.name == plugin.name else replace(policy, name=plugin.name)  # as it was requested
