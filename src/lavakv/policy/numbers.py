"""A layer's numbers: the sums that its weight follows from, added up over heads, fetched to the host, and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lavakv.errors import PolicyError
from lavakv.policy.rules import Policy
from lavakv.scoring.entropy import head_statistics, normalized_entropy


def score_weight(policy: Policy, values: Tensor, layer: int) -> float:
    """The part of a layer's weight that follows from the scores `[H, n]`: their entropy, else the number of heads.

    Raises:
        PolicyError: scores that are not finite, or below zero for an entropy; names policy and layer.
    """
    return checked_weight(policy, layer, [1.0, *score_numbers(policy, values).tolist()])


def score_numbers(policy: Policy, values: Tensor, caps: Tensor | None = None) -> Tensor:
    """Sums over a layer's scores, which are finite if they can be used, and its weight; float64 `[numbers]`.

    Args:
        policy: whose layer rule to follow.
        values: `[H, n]`, scores.
        caps: int64 `[H]`, candidates of each head, where the values are; None where every place holds one.
    """
    return summed_numbers(policy, partial_statistics(policy, values, caps), values.numel(), caps)


def partial_statistics(policy: Policy, values: Tensor, caps: Tensor | None = None) -> Tensor:
    """What `summed_numbers` needs of some heads of a layer, each worked out by itself.

    Args:
        policy: whose layer rule to follow.
        values: `[H, n]`, scores.
        caps: int64 `[H]`, candidates of each head, where the values are; None where every place holds one.

    Returns:
        float64 `[H, 2]` as `head_statistics` where the layer rule is an entropy, else `[H, 1]`, the sums alone.
    """
    if policy.layer_rule == "entropy":
        return head_statistics(values, caps)
    if caps is not None:
        values = values.masked_fill(torch.arange(values.shape[1], device=values.device) >= caps[:, None], 0)
    return values.sum(dim=1, dtype=torch.float64, keepdim=True)  # only checked to be finite


def summed_numbers(policy: Policy, statistics: Tensor, num_scores: int, caps: Tensor | None = None) -> Tensor:
    """Sums over a layer's heads, and the layer's weight that follows from them; float64 `[numbers]`.

    Args:
        policy: whose layer rule to follow.
        statistics: `partial_statistics` of all heads of the layer, in the order of the heads.
        num_scores: places of the layer, `H * n`.
        caps: int64 `[H]`, candidates of each head of the layer, where the statistics are; None for all places.
    """
    sums = statistics.contiguous().sum(dim=0)
    if policy.layer_rule == "entropy":
        return torch.cat([sums, normalized_entropy(sums, num_scores, caps)[None]])
    return torch.cat([sums, sums.new_full((1,), float(len(statistics)))])


def checked_weight(policy: Policy, layer: int, numbers: list[float]) -> float:
    """The weight at the end of a layer's numbers.

    Args:
        policy: the one they were worked out for.
        layer: index of the layer, for messages.
        numbers: 0 where the residual stream is zero throughout the window, else 1; sums; the weight.

    Raises:
        PolicyError: scores or a weight that cannot be compared; names policy and layer.
    """
    stream, *sums, weight = numbers
    if not all(map(math.isfinite, sums)):
        if not stream:
            fix = "Use another policy, or check the model's weights."
            raise policy_error(policy, layer, "a hidden state in the window that is not zero", "only zeros", fix)
        negative = math.isfinite(sums[0])
        raise policy_error(
            policy,
            layer,
            "scores of zero or more: an entropy needs them" if negative else "finite scores",
            "a negative one" if negative else "NaN or infinity",
            "Fix the policy's score, or check the model's weights and dtype.",
        )
    if not 0.0 <= weight < float("inf"):
        fix = "Fix the policy's layer rule, or check the model's weights and dtype."
        raise policy_error(policy, layer, "a finite layer weight of zero or more", str(weight), fix)
    return weight


def policy_error(policy: Policy, layer: int, expected: str, got: str, fix: str) -> PolicyError:
    """The error that names a policy and a layer."""
    return PolicyError(f"policy {policy.name!r} at layer {layer}", expected=expected, got=got, fix=fix)


class Readback:
    """A tensor on its way to the host. On a CUDA device the copy is queued, and only `get` waits for it."""

    def __init__(self, tensor: Tensor) -> None:
        self._host, self._copied = self._fetch(tensor)

    @property
    def deferred(self) -> bool:
        """Whether the copy still has to be waited for; elsewhere than on CUDA the tensor is there at once."""
        return self._copied is not None

    def get(self) -> Tensor:
        """The tensor on the CPU."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
        return self._host

    @staticmethod
    def _fetch(tensor: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """The tensor on the host, and what to wait for before it may be read."""
        if not tensor.is_cuda:
            return tensor.cpu(), None
        host = tensor.to("cpu", non_blocking=True)  # PyTorch puts it into pinned memory
        return host, torch.cuda.current_stream(tensor.device).record_event()


class PackedReadback:
    """Several one-dimensional tensors on their way to the host in a single copy.

    Args:
        tensors: on one device, those of larger elements first, so that each starts where its elements are aligned.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._types = [tensor.dtype for tensor in tensors]
        parts = [tensor.contiguous().view(torch.uint8) for tensor in tensors]
        self._lengths = [len(part) for part in parts]
        self._bytes = Readback(torch.cat(parts))

    def get(self) -> list[Tensor]:
        """The tensors on the CPU; waits for them."""
        parts = torch.split(self._bytes.get(), self._lengths)
        return [part.view(dtype) for part, dtype in zip(parts, self._types, strict=True)]
