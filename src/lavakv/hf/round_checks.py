"""When a cache evicts again, and which policies can judge what earlier rounds have left."""

from __future__ import annotations

from typing import Literal, get_args

from lavakv.errors import InputError, PolicyError
from lavakv.policy.rules import Policy

Evict = Literal["prompt", "turns"]


def check_evict(evict: object) -> Evict:
    """Check when a cache is to evict.

    Raises:
        InputError: neither `prompt` nor `turns`.
    """
    for choice in get_args(Evict):
        if evict == choice:
            return choice  # type: ignore[no-any-return]
    raise InputError("evict", expected=" or ".join(get_args(Evict)), got=repr(evict), fix="Use prompt, the default.")


def check_judges_later(policy: Policy) -> None:
    """Check that a policy can score what an earlier round has left.

    Raises:
        PolicyError: it judges whole prompts only, or by what only a prompt's forward has.
    """
    missing = [need for need in ("replay", "hidden_states") if need in policy.needs]
    if policy.prompt_only or missing:
        raise PolicyError(
            f"policy {policy.name!r}", expected="a policy that scores what an earlier round has left",
            got="one that judges whole prompts only", fix="Use another policy, or evict='prompt' without a bound.",
        )  # fmt: skip


def check_judges_chunks(policy: Policy) -> None:
    """Check that a policy can judge a prompt that comes in chunks.

    Raises:
        PolicyError: it needs what the forwards of earlier chunks had.
    """
    check_judges_later(policy)
    if "prompt" in policy.needs:
        raise PolicyError(
            f"policy {policy.name!r}", expected="a policy that needs the last tokens' queries only",
            got="one that needs the queries of the whole prompt, which chunks do not keep",
            fix="Send the prompt in one forward, or use a policy such as 'lava' or 'residual-max'.",
        )  # fmt: skip
