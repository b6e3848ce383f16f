"""A decode step never waits for the device: nothing in it reads a tensor's content on the host.

There is no device here, so CPU tensors stand in for one: cheap looks at them are taken away, and every operation that
would make the host wait is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lavakv
from lavakv.attention import cpu, plan
from lavakv.eviction import columns
from lavakv.hf import given_mask, step
from tests.hf import zoo
from tests.hf.helpers import lava_cache, worst

WAITING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim"}


def _indices(args: Any) -> list[Any]:
    """What `tensor[...]` indexes with; by a boolean, the result's size depends on its content."""
    return args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else []


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name.startswith("index") and any(t is not None and t.dtype == torch.bool for t in _indices(args))
        waits = name in WAITING or by_mask
        assert not waits, f"{function} waits for the device"
        return function(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    def refused(*_: Any) -> None:
        raise AssertionError("reads a tensor on the host")

    with pytest.MonkeyPatch.context() as patch, NoWaiting():
        for name in ("tolist", "numpy", "cpu", "__array__"):  # these pass by the dispatcher
            patch.setattr(torch.Tensor, name, refused)
        yield


def host_reads(patch: pytest.MonkeyPatch, allowed: bool) -> None:
    for module in (columns, given_mask, step):
        patch.setattr(module, "host_readable", lambda _: allowed)


@pytest.fixture(autouse=True)
def _as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    host_reads(monkeypatch, False)
    monkeypatch.setattr(plan, "native_fits", lambda *_: False)
    monkeypatch.setattr(cpu, "_OPERATOR", None)


@pytest.mark.parametrize("padding", [0, 9, 38])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text"])
@torch.no_grad()
def test_a_decode_step_waits_for_nothing(kind: str, attention: str, padding: int) -> None:
    """With a mask, as a batch is decoded; one token or several. Hybrid models, too."""
    model = lavakv.enable(zoo.tiny(kind, attention=attention))
    ids, mask = zoo.prompt(40, batch=2), torch.ones(2, 49, dtype=torch.long)
    mask[0, :padding] = 0
    cache, seen = lava_cache(model), 40
    model(ids, attention_mask=mask[:, :40], past_key_values=cache)
    with no_waiting():
        for count in (1, 1, 3, 1):
            model(ids[:, :count], attention_mask=mask[:, : seen + count], past_key_values=cache)
            seen += count
        model(ids[:, :1], past_key_values=cache)  # and without one


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@torch.no_grad()
def test_not_looking_changes_no_answer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A padded batch, with columns that are padding after the prompt, too."""
    model = lavakv.enable(zoo.tiny(kind, torch.float64))
    ids, mask = zoo.prompt(46, batch=2), torch.ones(2, 46, dtype=torch.long)
    mask[0, :35], mask[1, 41] = 0, 0
    answers = []
    for free in (False, True):
        host_reads(monkeypatch, free)
        cache, logits = lava_cache(model), []
        for start, stop in ((0, 40), (40, 41), (41, 42), (42, 45), (45, 46)):
            output = model(ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache)
            logits.append(output.logits[mask[:, start:stop].bool()] if start else output.logits[:, -1])
        answers.append(torch.cat([part.flatten(0, -2) for part in logits]))
    assert worst(*answers) < 1e-10  # a masked column instead of a skipped mask: other sums, same numbers


@torch.no_grad()
def test_the_test_itself_sees_a_wait() -> None:
    tensor = torch.ones(3)
    for look in (
        lambda: bool(tensor.all()),
        lambda: tensor[0].item(),
        lambda: tensor.nonzero(),
        lambda: tensor.tolist(),
        lambda: tensor[tensor > 0],
    ):
        with pytest.raises(AssertionError), no_waiting():
            look()
