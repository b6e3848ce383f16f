"""What a norm between the output projection and the residual stream does to what a head adds to the stream.

Gemma 2 to 4, OLMo 2 and 3, GLM-4 and others norm the output of the attention before it joins the stream: a change `d`
of the output changes the stream by `d * gain / rms`, as long as it is small beside the output.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class OutputScale(NamedTuple):
    """The norm of one layer, for one sequence.

    Attributes:
        gain: float32 `[hidden]`, its factor on each channel of an output whose root mean square is 1.
        rms: float32 `[w]`, what it divides the attention's output by at each window token: its root mean square.
    """

    gain: Tensor
    rms: Tensor

    def weight(self, output_weight: Tensor) -> Tensor:
        """The output projection `[..., value_dim, hidden]` with the gain behind it, float32."""
        return output_weight.float() * self.gain

    def norms(self, residual_norms: Tensor) -> Tensor:
        """What a change behind the gain is compared with: norms of the stream `[w]` times those of the output."""
        return residual_norms * self.rms
