"""The attention function that every layer calls in a forward with a `LavaCache`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

from lavakv.attention import AttentionSettings
from lavakv.errors import UnsupportedError
from lavakv.hf.interface import Interceptor
from lavakv.hf.layer import PendingKeyValues
from lavakv.hf.masks import lava_mask
from lavakv.hf.projection import OutputProjection
from lavakv.hf.prompt import LayerPrompt


def lava_attention(
    delegate: Callable[..., Any],
    module: nn.Module,
    query: Tensor,
    key: Any,
    value: Any,
    attention_mask: Any = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Attention of one layer: the delegate's where no compressed layer is concerned.

    The prompt gets the delegate's dense attention and is then evicted; later tokens attend to what is held.
    """
    if type(key) is not PendingKeyValues:  # a replay's are another attention's
        return delegate(module, query, key, value, attention_mask, *args, **kwargs)
    settings = attention_settings(query, **kwargs)
    _check_arguments(args, kwargs)
    key.layer.note_attention(module, query.shape[1], key.values)
    if key.layer.num_columns:
        output = key.layer.append(query, key.keys, key.values, attention_mask, settings)
        return output.transpose(1, 2).contiguous(), None
    output = delegate(module, query, key.keys, key.values, attention_mask, *args, **kwargs)
    norm = key.layer.norm_behind(module)
    projection = cache(
        partial(OutputProjection.of, module, key.values, query.shape[1], norm)
    )  # most policies never ask
    seen = key.layer.hidden_states(), key.layer.rotation(module), key.layer.attention_inputs()
    outputs = None if norm is None else output[0]
    key.layer.take_prompt(
        LayerPrompt(query, key.keys, key.values, attention_mask, settings, projection, *seen, outputs)
    )
    return output


INTERCEPTOR = Interceptor(lava_attention, lava_mask)


def attention_settings(
    query: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> AttentionSettings:
    """Scaling, softcap and sinks, under the names models pass them by."""
    return AttentionSettings(query.shape[-1] ** -0.5 if scaling is None else float(scaling), softcap, s_aux)


def _check_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse what changes attention and is not known here: it would be missing in scores and in later forwards.

    Raises:
        UnsupportedError: another tensor of real numbers, such as Inkling's position bias; arguments without a name.
    """
    if args:
        raise UnsupportedError(
            "attention arguments", expected="names for all but queries, keys, values and mask",
            got=f"{len(args)} without one", fix="This architecture cannot be compressed; use DynamicCache.",
        )  # fmt: skip
    for name, value in kwargs.items():
        if name != "s_aux" and isinstance(value, Tensor) and value.is_floating_point():
            raise UnsupportedError(
                f"attention argument {name}",
                expected="queries, keys, values, a mask, scaling, softcap and sinks (s_aux)",
                got=f"a tensor {tuple(value.shape)} of {value.dtype}",
                fix="This architecture cannot be compressed; use DynamicCache.",
            )
