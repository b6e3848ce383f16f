"""The norm between a layer's output projection and the residual stream, where an architecture has one."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

_BEHIND = ("post_self_attn_layernorm", "post_operator_norm", "post_norm1", "post_mixer_norm")  # in whatever layer
_AMBIGUOUS = "post_attention_layernorm"  # before the feed-forward part, unless that has a norm of its own behind it
_BEHIND_FEED_FORWARD = ("post_feedforward_layernorm", "post_mlp_layernorm")
_LARGE = 256  # beside which a norm's epsilon is nothing

_found: weakref.WeakKeyDictionary[nn.Module, weakref.ref[nn.Module] | None] = weakref.WeakKeyDictionary()


def norm_behind(decoder: nn.Module, attention: nn.Module) -> nn.Module | None:
    """The module that norms what an attention module returns, before it joins the residual stream.

    Known by the names that layers of transformers and of vLLM give it.

    Args:
        decoder: a module around the attention's layer.
        attention: the attention module.

    Returns:
        The norm, or None where the output joins the stream as it is.
    """
    known = _found.get(attention)
    norm = None if known is None else known()
    if norm is None and (known is not None or attention not in _found):  # replaced since, or not searched yet
        norm = _search(decoder, attention)
        _found[attention] = None if norm is None else weakref.ref(norm)
    return norm


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

    Found by running it on numbers of one size and alternating signs, so that weights of any form are read rightly,
    offloaded ones too.

    Args:
        norm: takes `[rows, hidden]`.
        hidden: channels.
        dtype: of its input.
        device: of its input.
    """
    signs = torch.ones(hidden, device=device, dtype=dtype)
    signs[1::2] = -1
    rows = signs * _LARGE
    both = norm(torch.stack([rows, -rows])).float()
    gain: Tensor = (both[0] - both[1]) / 2 * signs.float()  # a bias falls out
    return gain


def root_mean_squares(norm: nn.Module, outputs: Tensor) -> Tensor:
    """What a norm divides each row of `[..., hidden]` by, float32 `[...]`: its root mean square, epsilon included."""
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0))
    found: Tensor = (outputs.float().square().mean(dim=-1) + epsilon).sqrt()
    return found
