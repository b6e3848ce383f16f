"""How a layer rotates, read from modules like vLLM's; without vLLM."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lavakv.vllm.rotation import LayerRotation

HEAD_DIM, BASE = 8, 100.0


class Rotary(nn.Module):
    """By halves, on `[tokens, heads * head_dim]`, in place as vLLM's kernels do."""

    scale, share, interleaved = 1.0, 1, False

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("cos_sin_cache", self._compute_cos_sin_cache().to(dtype))

    def _compute_cos_sin_cache(self) -> Tensor:
        size = HEAD_DIM // self.share
        frequencies = BASE ** -(torch.arange(0, size, 2) / size)
        angles = torch.arange(50.0)[:, None] * frequencies
        return self.scale * torch.cat([angles.cos(), angles.sin()], dim=-1)

    def forward(self, positions: Tensor, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        for part in (queries, keys):
            vectors = part.view(len(part), -1, HEAD_DIM)
            cos, sin = self.cos_sin_cache[positions][:, None].chunk(2, dim=-1)
            size = HEAD_DIM // self.share
            if self.interleaved:
                early, late = vectors[..., 0:size:2].clone(), vectors[..., 1:size:2].clone()
                vectors[..., 0:size:2], vectors[..., 1:size:2] = early * cos - late * sin, late * cos + early * sin
            else:
                early, late = vectors[..., : size // 2].clone(), vectors[..., size // 2 : size].clone()
                vectors[..., : size // 2], vectors[..., size // 2 : size] = (
                    early * cos - late * sin, late * cos + early * sin,
                )  # fmt: skip
        return queries, keys


class Scaled(Rotary):
    scale = 1.3


class Interleaved(Rotary):
    interleaved = True


class Half(Rotary):
    share = 2


class Owner(nn.Module):
    """An attention as most models have it."""

    def __init__(self, rotary: nn.Module | None = None, **attributes: bool) -> None:
        super().__init__()
        self.rotary_emb = Rotary() if rotary is None else rotary
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, positions, hidden):
        q, k, v = hidden.chunk(3, dim=-1)
        q, k = self.rotary_emb(positions, q, k)
        return self.attn(q, k, v)


class Switched(Owner):
    def forward(self, positions, hidden):
        q, k, v = hidden.chunk(3, dim=-1)
        if self.use_rope and not self.nope:
            q, k = self.rotary_emb(positions, q, k)
        if self.scales:
            q = q * 2
        return self.attn(q, k, v)


class Sometimes(Owner):
    def forward(self, positions, hidden):
        q, k, v = hidden.chunk(3, dim=-1)
        if len(positions) > 9 or self.use_rope:
            q, k = self.rotary_emb(positions, q, k)
        return self.attn(q, k, v)


class Direct(Owner):
    def forward(self, positions, hidden):
        q, k, v = hidden.chunk(3, dim=-1)
        q, k = self.rotary_emb.forward_native(positions, q, k)
        return self.attn(q, k, v)


class Helped(Owner):
    def turned(self, positions, q, k):
        return self.rotary_emb(positions, q, k)

    def forward(self, positions, hidden):
        q, k, v = hidden.chunk(3, dim=-1)
        q, k = self.turned(positions, q, k)
        return self.attn(q, k, v)


class Passed(Owner):
    def forward(self, positions, hidden):
        q, k, v = hidden.chunk(3, dim=-1)
        q, k = rotated(self.rotary_emb, positions, q, k)
        return self.attn(q, k, v)


class Scales(Owner):
    def forward(self, positions, hidden):
        q, k, v = hidden.chunk(3, dim=-1)
        q, k = self.rotary_emb(positions, q, k)
        return self.attn(q * 2, k, v)


class Short(Owner):
    forward = lambda self, positions, hidden: hidden  # noqa: ARG005, E731


def rotated(rotary, positions, q, k):
    return rotary(positions, q, k)


def rotation(owner: nn.Module) -> LayerRotation:
    return LayerRotation([owner, nn.Module()], HEAD_DIM)


@pytest.mark.parametrize("rotary", [Rotary(), Scaled(), Rotary(torch.bfloat16)])
def test_undone_queries_are_those_before(rotary) -> None:
    found = rotation(Owner(rotary))
    assert found.refusal == ""
    rows = found.of_rows(20, torch.device("cpu"))
    plain = torch.randn(20, HEAD_DIM).to(rotary.cos_sin_cache)
    turned, _ = rotary(torch.arange(20), plain.clone(), plain.clone())
    precision = 4 * torch.finfo(plain.dtype).eps * float(plain.abs().max())
    assert torch.allclose(rows.undo(turned, 0), plain.float(), atol=precision)
    assert torch.allclose(rows.frequencies, torch.tensor([BASE ** -(i / HEAD_DIM) for i in range(0, HEAD_DIM, 2)]))


def test_the_branch_that_is_taken_counts() -> None:
    rows = rotation(Switched(use_rope=True, nope=False, scales=False)).of_rows(5, torch.device("cpu"))
    assert math.isclose(float(rows.sin[1, 0]), math.sin(1), rel_tol=1e-6)
    rows = rotation(Switched(use_rope=True, nope=True, scales=False)).of_rows(5, torch.device("cpu"))
    assert not rows.sin.any()
    assert rows.cos.eq(1).all()


@pytest.mark.parametrize(
    ("owner", "refusal"),
    [
        (nn.Module(), "none named rotary_emb"),
        (Owner(Interleaved()), "Interleaved, which does not rotate by halves"),
        (Owner(Half()), "Half without a table of all channels"),
        (Owner(nn.Linear(2, 2)), "Linear without a table of all channels"),
        (
            Switched(use_rope=True, nope=False, scales=True),
            "Switched, which changes queries or keys after their rotation",
        ),
        (Direct(), "Direct, which rotates in a way of its own"),
        (Helped(), "Helped, which rotates in a way of its own"),
        (Passed(), "Passed, which rotates in a way of its own"),
        (Scales(), "Scales, which changes queries or keys after their rotation"),
        (Short(), "Short without source code"),
        (Sometimes(use_rope=True), "Sometimes, which rotates in some cases, or queries apart from keys"),
    ],
)
def test_other_rotations_are_refused(owner, refusal) -> None:
    assert rotation(owner).refusal == refusal
