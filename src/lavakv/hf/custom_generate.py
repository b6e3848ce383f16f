"""transformers' `custom_generate` with a `LavaCache`: the function of a Hub repository, and the callable form."""

from __future__ import annotations

from typing import Any

from lavakv.budgets.spec import KvBits
from lavakv.errors import InputError, UnsupportedError
from lavakv.hf.adapters import unwrapped
from lavakv.hf.cache import LavaCache
from lavakv.hf.contract import CACHE_NAMES, cache_argument, cache_name
from lavakv.hf.enable import enabled
from lavakv.hf.generate import GuardedGenerate, _announce_chunks, _check_options
from lavakv.policy.rules import Policy

_OF_THE_HUB = ("revision", "cache_dir", "force_download", "local_files_only", "token", "proxies", "repo_type")


def generate(
    model: Any,
    *,
    budget: int | None = None,
    keep: float | None = None,
    max_bytes: int | str | None = None,
    max_loss: float | None = None,
    policy: str | Policy = "lava",
    window: int | None = None,
    max_tokens_per_head: int | None = None,
    protect: int | slice = 0,
    kv_bits: KvBits | None = None,
    **arguments: Any,
) -> Any:
    """Generate with a new `LavaCache`: the function of `hub/custom_generate/generate.py`.

    `model.generate(**inputs, custom_generate="owner/repo", trust_remote_code=True, keep=0.25)` runs it. The model is
    enabled for the call, and disabled after it unless it was enabled before.

    Args:
        model: a transformers model.
        budget: as in `LavaCache`, like the eight that follow.
        keep: see there.
        max_bytes: see there.
        max_loss: see there.
        policy: see there.
        window: see there.
        max_tokens_per_head: see there.
        protect: see there.
        kv_bits: see there.
        arguments: of transformers' `generate`.

    Returns:
        What transformers' `generate` returns.

    Raises:
        InputError: a cache among the arguments.
        LavaError: as `LavaCache` and `generate` of an enabled model.
    """
    _refuse_cache(arguments)
    for name in _OF_THE_HUB:  # they said where this function is
        arguments.pop(name, None)
    model = unwrapped(model)
    later: dict[str, Any] = {"max_tokens_per_head": max_tokens_per_head, "protect": protect, "kv_bits": kv_bits}
    sizes: dict[str, Any] = {"keep": keep, "max_bytes": max_bytes, "max_loss": max_loss}
    cache = LavaCache(model.config, budget, policy, window, **sizes, **later)
    with enabled(model):
        # A model from a repository with a generate.py of its own has that as its `generate`: it would call this again.
        return GuardedGenerate(model)(**arguments, **cache_argument(model, cache))


def compressed(
    model: Any,
    input_ids: Any,
    *,
    budget: int | None = None,
    keep: float | None = None,
    max_bytes: int | str | None = None,
    max_loss: float | None = None,
    policy: str | Policy = "lava",
    window: int | None = None,
    max_tokens_per_head: int | None = None,
    protect: int | slice = 0,
    kv_bits: KvBits | None = None,
    **arguments: Any,
) -> Any:
    """Greedy decoding or sampling with a new `LavaCache`, as a callable for transformers' `generate`.

    `model.generate(**inputs, custom_generate=lavakv.hf.compressed, keep=0.25)` calls it in place of transformers' own
    loop, after the usual preparations. transformers passes no streamer to a callable. The model is enabled for the
    call, and disabled after it unless it was enabled before.

    Args:
        model: a transformers model.
        input_ids: int64 `[B, tokens]`.
        budget: as in `LavaCache`, like the eight that follow.
        keep: see there.
        max_bytes: see there.
        max_loss: see there.
        policy: see there.
        window: see there.
        max_tokens_per_head: see there.
        protect: see there.
        kv_bits: see there.
        arguments: what transformers passes to its loop.

    Raises:
        InputError: a `LavaCache` among the arguments.
        UnsupportedError: another way to decode, such as beams.
        LavaError: as `LavaCache` and forwards of an enabled model.
    """
    config = arguments["generation_config"]
    _check_options(model, (), {"generation_config": config})
    mode = config.get_generation_mode().value
    if mode not in ("greedy_search", "sample"):
        raise UnsupportedError(
            "custom_generate", expected="greedy decoding or sampling", got=mode.replace("_", " "),
            fix="Leave the options of that mode out.",
        )  # fmt: skip
    name = cache_name(model)
    given = arguments.pop(name, None)  # transformers has made an empty one
    if isinstance(given, LavaCache) or (given is not None and given.get_seq_length()):
        _refuse_cache({name: given})
    later: dict[str, Any] = {"max_tokens_per_head": max_tokens_per_head, "protect": protect, "kv_bits": kv_bits}
    sizes: dict[str, Any] = {"keep": keep, "max_bytes": max_bytes, "max_loss": max_loss}
    cache = arguments[name] = LavaCache(model.config, budget, policy, window, **sizes, **later)
    _announce_chunks(model, cache, (), {"generation_config": config, "input_ids": input_ids})
    with enabled(model):
        return model._sample(input_ids, **arguments)


def _refuse_cache(arguments: dict[str, Any]) -> None:
    given = next((name for name in CACHE_NAMES if arguments.get(name) is not None), None)
    if given is not None:
        raise InputError(
            given, expected="none: custom_generate makes a LavaCache of its own", got=type(arguments[given]).__name__,
            fix="Call generate without custom_generate to go on with a cache.",
        )  # fmt: skip
