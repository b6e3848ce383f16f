"""The norm between a layer's output projection and the residual stream, where an architecture has one."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

_BEHIND = ("post_self_attn_layernorm", "post_operator_norm", "post_norm1")  # name this norm in whatever layer
_AMBIGUOUS = "post_attention_layernorm"  # before the feed-forward part, unless that has a norm of its own behind it
_BEHIND_FEED_FORWARD = ("post_feedforward_layernorm", "post_mlp_layernorm")

_found: weakref.WeakKeyDictionary[nn.Module, weakref.ref[nn.Module] | None] = weakref.WeakKeyDictionary()


def norm_behind(decoder: nn.Module, attention: nn.Module) -> nn.Module | None:
    """The module that norms what an attention module returns, before it joins the residual stream.

    Known by the names that transformers' layers give it.

    Args:
        decoder: a module around the attention's layer.
        attention: the attention module.

    Returns:
        The norm, or None where the output joins the stream as it is.
    """
    if attention not in _found:
        norm = _search(decoder, attention)
        _found[attention] = None if norm is None else weakref.ref(norm)
    known = _found[attention]
    return None if known is None else known()


def _search(decoder: nn.Module, attention: nn.Module) -> nn.Module | None:
    for layer in decoder.modules():
        own = dict(layer.named_children())
        if any(child is attention for child in own.values()):
            names = [name for name in _BEHIND if name in own]
            if any(name in own for name in _BEHIND_FEED_FORWARD):
                names.append(_AMBIGUOUS)
            norms = [own[name] for name in names if name in own]
            return next((norm for norm in norms if not isinstance(norm, nn.Identity)), None)
    return None


@torch.no_grad()
def norm_gain(norm: nn.Module, hidden: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A norm's factor on each channel of an input whose mean is 0 and whose root mean square is 1, float32 `[hidden]`.

    Found by running it on alternating signs, so that weights of any form, offloaded ones too, are read rightly.

    Args:
        norm: takes `[1, 1, hidden]`.
        hidden: channels.
        dtype: of its input.
        device: of its input.
    """
    signs = torch.ones(hidden, device=device, dtype=dtype)
    signs[1::2] = -1
    both = [norm(rows[None, None]).float().flatten() for rows in (signs, -signs)]
    gain: Tensor = (both[0] - both[1]) / 2 * signs.float()  # a bias falls out
    return gain


def root_mean_squares(outputs: Tensor) -> Tensor:
    """Root mean square of each row of `[..., hidden]`, float32."""
    found: Tensor = outputs.float().square().mean(dim=-1).sqrt()
    return found
