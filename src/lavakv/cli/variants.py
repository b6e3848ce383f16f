"""Policies and budgets of a command line, checked before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lavakv.cli.console import notes
from lavakv.cli.lists import byte_counts, fractions, names, tolerances, whole_numbers
from lavakv.cli.loading import load_quietly
from lavakv.errors import InputError, LavaError, PolicyError, UnsupportedError
from lavakv.policy.names import BUILT_IN, plugins, require_policy_name

if TYPE_CHECKING:
    from lavakv.evaluation.variant import Variant
    from lavakv.models.load import LoadedModel

ALL = "all"
_TRIED_TOKENS = 16  # more than the budget they are tried with, so that scores are worked out


def parse_policies(policies: str) -> list[str]:
    """Names separated by commas, each of which exists; "all" is every policy.

    Raises:
        LavaError: an empty name, or one that no policy has.
    """
    if policies == ALL:
        return list(dict.fromkeys((*BUILT_IN, *plugins())))
    return [require_policy_name(name, "--policies") for name in names("--policies", policies)]


def loadable(policies: Sequence[str], given: str) -> list[str]:
    """The policies that can be loaded. Plugins of "all" that cannot are skipped, with a note.

    Args:
        policies: names, of `parse_policies`.
        given: the option's value.

    Raises:
        PolicyError: a policy that the user named cannot be loaded.
    """
    from lavakv.policy.registry import get_policy

    found = []
    for name in policies:
        try:
            found.append(get_policy(name).name)
        except PolicyError as error:
            if given != ALL:
                raise
            _note_left_out(error)
    return found


def _note_left_out(error: LavaError) -> None:
    line = " ".join(f"Left out: {error}".split())
    notes.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)


def fitting(variants: Sequence[Variant], num_tokens: int, given: str, config: Any) -> list[Variant]:
    """The variants whose policies can read a prompt; what "all" names and does not fit is left out, with a note.

    Args:
        variants: that can run.
        num_tokens: length of the prompt.
        given: value of `--policies`.
        config: the model's.

    Raises:
        InputError: the prompt and what repeats it are longer than the model's positions reach.
        UnsupportedError: a model with layers that no prompt can be repeated behind.
    """
    from lavakv.hf.geometry import geometry_of, stock_layers
    from lavakv.hf.replay_checks import check_fits, check_layers
    from lavakv.policy.registry import get_policy

    positions, too_long = geometry_of(config).max_positions, set()
    for name in dict.fromkeys(variant.policy for variant in variants if variant.policy is not None):
        policy = get_policy(name)
        try:
            if "replay" in policy.needs:
                check_layers(policy, stock_layers(config))
                check_fits(policy, num_tokens, config, positions)
        except (InputError, UnsupportedError) as error:
            if given != ALL:
                raise
            _note_left_out(error)
            too_long.add(name)
    return [variant for variant in variants if variant.policy not in too_long]


def parse_variants(
    policies: str,
    budgets: str | None,
    keep: str | None,
    default: str,
    window: int | None,
    max_bytes: str | None = None,
    max_loss: str | None = None,
) -> list[Variant]:
    """Every policy with every budget.

    Args:
        policies: value of `--policies`.
        budgets: value of `--budgets`.
        keep: value of `--keep`.
        default: what `keep` is where no budget is given.
        window: value of `--window`.
        max_bytes: value of `--max-bytes`.
        max_loss: value of `--max-loss`.

    Raises:
        LavaError: an unknown policy, or a bad budget.
    """
    from lavakv.evaluation.variant import variants_of

    given = default if (budgets, keep, max_bytes, max_loss) == (None,) * 4 else keep
    sizes = whole_numbers("--budgets", budgets), fractions("--keep", given)
    others = byte_counts("--max-bytes", max_bytes), tolerances("--max-loss", max_loss)
    variants = variants_of(parse_policies(policies), *sizes, window, *others)
    for variant in variants:
        variant.spec()
    return variants


def load_for(
    variants: Sequence[Variant], policies: str, model: str, dtype: str, device: str, attention: str | None
) -> tuple[LoadedModel, list[Variant]]:
    """Load a model. Returns it with the variants that can run, in their order.

    Policies of "all" that cannot serve the model are left out, with a note.

    Raises:
        LavaError: it cannot be loaded or served, or a variant that the user named cannot serve it.
    """
    from lavakv.hf.geometry import geometry_of

    asked = dict.fromkeys(variant.label for variant in variants)
    usable = set(loadable(list(asked), policies))
    kept = [variant for variant in variants if variant.label in usable]
    loaded = load_quietly(model, dtype, device, attention)
    geometry_of(loaded.model.config)  # a model that no policy can serve is an error
    return loaded, serving(kept, policies, loaded.model.config, loaded.model)


def serving(variants: Sequence[Variant], given: str, config: Any, model: Any = None) -> list[Variant]:
    """The variants whose policies can serve a model; what "all" names and cannot is left out, with a note.

    Args:
        variants: that can be loaded.
        given: value of `--policies`.
        config: the model's.
        model: itself, for what its layers alone can tell; None if it is not here.

    Raises:
        LavaError: a variant that the user named cannot serve it.
    """
    refused = {}
    for variant in variants:
        try:
            variant.new_cache(config)
        except (UnsupportedError, PolicyError) as error:
            if given != ALL:
                raise
            refused[variant.label] = error
    if given == ALL and model is not None:
        refused |= _refused_by_layers(model, [variant for variant in variants if variant.label not in refused])
    for reason in refused.values():
        _note_left_out(reason)
    return [variant for variant in variants if variant.label not in refused]


def _refused_by_layers(model: Any, variants: Sequence[Variant]) -> dict[str, UnsupportedError]:
    """Policies by name that no configuration refuses but a layer does, tried on a few tokens.

    Only those that need the rotation are tried: what a layer does with it shows in its code and in what it is passed.
    """
    import torch

    from lavakv.evaluation.runner import PromptRunner
    from lavakv.evaluation.variant import Variant
    from lavakv.policy.registry import get_policy

    names = dict.fromkeys(each.policy for each in variants if each.policy is not None)
    tried = [name for name in names if "rotation" in get_policy(name).needs]
    if not tried:
        return {}
    runner, refused = PromptRunner(model, torch.arange(_TRIED_TOKENS)[None]), {}
    for name in tried:
        variant = Variant(name, budget=2, window=1)
        try:
            runner.fill([variant])
        except UnsupportedError as error:
            refused[variant.label] = error
    return refused
