"""The graph of these tests forgives nothing that a graph on a GPU would not."""

from __future__ import annotations

import pytest
import torch

from lavakv.hf.graph.host_reads import RefuseHostReads
from lavakv.hf.graph.refusal import CannotCapture
from tests.hf.graph.fake import FakeGraph

CPU = torch.device("cpu")


def test_what_the_host_worked_out_is_repeated() -> None:
    """A number of the host stays what it was; a tensor's contents are read again."""
    position, state, out = torch.tensor([3]), {"number": 3}, torch.zeros(1, dtype=torch.int64)

    def step() -> torch.Tensor:
        out.copy_(position + state["number"])
        return out * 2

    graph = FakeGraph(CPU)
    doubled = graph.capture(lambda: None, step)
    position.fill_(10)
    state["number"] = 100
    graph.replay()
    assert out.item() == 13
    assert doubled.item() == 26


def test_nothing_is_there_before_a_replay() -> None:
    graph, source = FakeGraph(CPU), torch.ones(3)
    result = graph.capture(lambda: None, lambda: source + 1)
    assert result.isnan().all()
    graph.replay()
    assert result.equal(source + 1)


def test_tensors_that_are_replaced_are_not_seen() -> None:
    holder = {"tensor": torch.ones(2)}
    graph = FakeGraph(CPU)
    result = graph.capture(lambda: None, lambda: holder["tensor"] * 1)
    holder["tensor"] = torch.zeros(2)
    graph.replay()
    assert result.equal(torch.ones(2))


@pytest.mark.parametrize(
    "read",
    [
        lambda tensor: bool(tensor.any()),
        lambda tensor: tensor.sum().item(),
        lambda tensor: tensor.nonzero(),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: int(tensor.argmax()),
        lambda tensor: torch.equal(tensor, tensor),
    ],
)
def test_looking_at_a_tensor_is_refused(read: object) -> None:
    with pytest.raises(CannotCapture, match="waits for the device"), RefuseHostReads(CPU):
        read(torch.ones(3))  # type: ignore[operator]


def test_other_devices_may_be_looked_at() -> None:
    with RefuseHostReads(torch.device("meta")):
        assert bool(torch.ones(3).any())


def test_a_copy_between_devices_is_refused() -> None:
    with pytest.raises(CannotCapture, match="copies between devices"), RefuseHostReads(CPU):
        torch.ones(3).to("meta")
