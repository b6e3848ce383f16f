"""Saving a filled `LavaCache` to a file, and loading it for the same model."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from lavakv._version import __version__
from lavakv.errors import LavaError, PolicyError, UnsupportedError
from lavakv.eviction.saved_header import SavedHeader, damaged
from lavakv.eviction.saved_snapshot import layer_prefix, session_snapshot, session_tensors
from lavakv.eviction.saved_tensors import read_context, write_context
from lavakv.files import require_writable
from lavakv.hf.adapters import unwrapped
from lavakv.hf.cache import _STORES, LavaCache
from lavakv.hf.enable import decoder_of
from lavakv.hf.fingerprint import check_same_model, describe_model
from lavakv.hf.saved_layers import layer_states, restore_layers
from lavakv.hf.tail_watch import TailWatch
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy


def save(cache: LavaCache, path: str | Path, notes: Mapping[str, Any] | None = None, *, argument: str = "path") -> None:
    """See `LavaCache.save`.

    Args:
        cache: a filled cache.
        path: the file.
        notes: JSON values to find again in the file's header.
        argument: what errors call the path.
    """
    if type(cache) is not LavaCache:
        raise UnsupportedError(
            "cache", expected="a LavaCache", got=f"a {type(cache).__name__}", fix="Save a LavaCache of its own class."
        )
    file = Path(path)
    cache.require_complete_prompt()
    require_writable(argument, file)
    records, tensors = layer_states(cache.layers, cache._config)
    tensors |= session_tensors(cache._state.session.snapshot(), cache.layer_indices)
    write_context(argument, file, _header_of(cache, records, dict(notes or {})), tensors)


def _header_of(cache: LavaCache, records: list[Any], notes: dict[str, Any]) -> SavedHeader:
    """What a file says about a cache, without its checksum."""
    policy, spec, model = cache._policy, cache._spec, cache._state._model
    state: dict[str, Any] = {"reserved": cache._reserved, "announced": cache._announced}
    state |= {"kv_bits": cache._kv_bits, "evict": cache._evict, "max_tokens_per_head": cache.max_tokens_per_head}
    state["protect"] = [cache._protect.start, cache._protect.stop]
    state["last_round"] = cache._state.session.last_round
    state["has_recorded"] = cache._has_recorded
    state["held"] = [cache._budgets_in_force, cache._held, cache._held_at]
    state["watch"] = None if cache._watch is None else dict(vars(cache._watch))
    return SavedHeader(
        model=describe_model(cache._config, None if model is None else model()),
        policy=policy.name,
        policy_is_named=_is_named(policy),
        budget=asdict(spec),
        store=next(name for name, kind in _STORES.items() if kind is cache._store_class),
        batch=cache.batch_size,
        columns=cache.get_seq_length(),
        layers=records,
        state=state,
        versions={"lavakv": __version__, "transformers": transformers.__version__, "torch": torch.__version__},
        notes=notes,
    )


def load(path: str | Path, model: Any, policy: str | Policy | None = None, *, argument: str = "path") -> LavaCache:
    """See `LavaCache.load`; errors call the path `argument`."""
    file = Path(path)
    config = model if isinstance(model, PretrainedConfig) else getattr(unwrapped(model), "config", None)
    decoder = None if isinstance(model, PretrainedConfig) else decoder_of(model)
    header, tensors = read_context(argument, file)
    try:
        return _loaded(header, tensors, config, decoder, _policy_of(header, policy))
    except LavaError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        wrote = ", ".join(f"{name} {version}" for name, version in header.versions.items())
        raise damaged(argument, file, f"content of {wrote} that does not fit together here ({error})") from error


def _loaded(
    header: SavedHeader, tensors: dict[str, Tensor], config: Any, decoder: nn.Module | None, policy: Policy
) -> LavaCache:
    first = header.model["geometry"]["layer_indices"][0]
    keys = tensors[f"{layer_prefix(first)}tail_keys"]
    check_same_model("model", header.model, config, decoder, keys.dtype)
    given = dict(header.budget)
    window = given.pop("window")
    if window is None:  # a new cache would take the policy's own
        raise ValueError("a budget without a window")
    state = header.state
    given |= {name: state[name] for name in ("kv_bits", "evict", "max_tokens_per_head")}
    given["protect"] = slice(*state["protect"])
    cache = LavaCache(config, policy=policy, window=window, store=header.store, **given)  # type: ignore[arg-type]
    devices = _devices(decoder, len(cache.layers))
    compressed = [devices[index] for index in cache.layer_indices]
    snapshot = session_snapshot(tensors, cache.layer_indices, cache._geometry.num_heads, compressed)
    restore_layers(cache.layers, header.layers, tensors, config, devices)
    session = cache._state.session
    session.restore(snapshot)
    if (session.batch, session.columns.length) != (header.batch, header.columns):
        raise ValueError("another size than its header says")
    for index in cache.layer_indices:
        cache.layers[index].num_columns = header.columns
    cache._budgets_in_force, cache._held, cache._held_at = state["held"]
    cache._has_recorded = bool(state.get("has_recorded"))
    cache._state.kv_dtype = keys.dtype
    cache._itemsize, session.last_round = keys.itemsize, state["last_round"]
    cache._announced, cache._watch = int(state["announced"]), _watch_of(state["watch"])
    cache._state._model = None if decoder is None else weakref.ref(decoder)
    cache.reserve(state["reserved"])
    return cache


def _is_named(policy: Policy) -> bool:
    """Whether the name of a policy stands for it in any process."""
    try:
        return get_policy(policy.name) == policy
    except PolicyError:
        return False


def _policy_of(header: SavedHeader, given: str | Policy | None) -> Policy:
    """The policy of a saved context.

    Raises:
        PolicyError: it has no name that stands for it, and was not given; or another one was.
    """
    if given is None and not header.policy_is_named:
        raise PolicyError(
            "policy", expected=f"the Policy called {header.policy!r} that compressed the context, as it has no "
            "registered name", got="none", fix="Pass it: `LavaCache.load(path, model, policy=...)`.",
        )  # fmt: skip
    policy = get_policy(header.policy if given is None else given)
    if policy.name != header.policy:
        raise PolicyError(
            "policy", expected=f"the policy that compressed the context, {header.policy!r}", got=repr(policy.name),
            fix="Pass that one, or leave it out if it has a registered name.",
        )  # fmt: skip
    return policy


def _watch_of(numbers: Any) -> TailWatch | None:
    if numbers is None:
        return None
    watch = TailWatch([1], [1], 1)
    if numbers.keys() != vars(watch).keys():
        raise ValueError("other numbers of what was announced")
    vars(watch).update(numbers)
    return watch


def _devices(decoder: nn.Module | None, num_layers: int) -> list[torch.device]:
    """Where each layer of a model computes; the CPU without a model."""
    if decoder is None:
        return [torch.device("cpu")] * num_layers
    layers = [module for module in decoder.modules() if isinstance(module, GradientCheckpointingLayer)]
    modules = layers if len(layers) == num_layers else [decoder] * num_layers
    return [_device(module) for module in modules]


def _device(module: nn.Module) -> torch.device:
    parameter = next(module.parameters(), None)
    if parameter is None or not parameter.is_meta:
        return torch.device("cpu") if parameter is None else parameter.device
    hook = getattr(module, "_hf_hook", None)  # accelerate's, which brings offloaded weights
    return torch.device(getattr(hook, "execution_device", None) or "cpu")
