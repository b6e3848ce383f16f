"""The names of policies, without what they compute: known at once, before PyTorch is loaded."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points

from lavakv.budgets.spec import DEFAULT_WINDOW
from lavakv.errors import PolicyError

ENTRY_POINTS = "lavakv.policies"
BUILT_IN = (
    "lava", "lava-uniform-layers", "lava-uniform-heads", "snapkv", "pyramidkv", "ada-snapkv", "ada-pyramidkv",
    "chunkkv", "cake", "vatp", "criticalkv", "defensivekv", "layer-defensivekv", "caote", "dropkv", "laprox",
    "residual", "residual-far", "residual-max", "reach", "reach-question", "kvzip", "kvzip+", "h2o", "tova",
    "streaming-llm", "knorm", "keydiff", "lagkv", "r-kv", "curdkv", "expected-attention", "compactor", "random",
)  # fmt: skip
OWN_WINDOWS = {"reach": 8, "reach-question": 8}  # their queries come from the whole prompt; see docs/log.md


def window_for(policy: str | None, window: int | None) -> int:
    """The window in tokens: what was asked for, or else the policy's own.

    Args:
        policy: its name; None for the full cache.
        window: what was asked for, or None.
    """
    if window is not None:
        return window
    return DEFAULT_WINDOW if policy is None else OWN_WINDOWS.get(policy, DEFAULT_WINDOW)


def plugins() -> dict[str, EntryPoint]:
    """Entry points of installed packages that bring a policy, by name; none of them is loaded."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def require_policy_name(name: str, argument: str = "policy") -> str:
    """Return a policy's name if there is such a policy. A plugin's is not loaded, so it may still be unusable.

    Args:
        name: of a built-in policy or of an installed package's.
        argument: what the error calls it.

    Raises:
        PolicyError: no policy has that name.
    """
    if name in BUILT_IN or name in plugins():
        return name
    raise unknown_policy(name, argument, "one of")


def unknown_policy(name: object, argument: str, expected: str) -> PolicyError:
    """The error for something that names no policy; suggests names that are close.

    Args:
        name: what was given.
        argument: what the error calls it.
        expected: words before the list of names.
    """
    known = [*BUILT_IN, *plugins()]
    close = get_close_matches(name, dict.fromkeys(known), n=2) if isinstance(name, str) else []
    fix = f"Did you mean {' or '.join(close)}?" if close else "`lavakv.policies()` lists the names."
    return PolicyError(argument, expected=f"{expected} {', '.join(known)}", got=repr(name), fix=fix)
