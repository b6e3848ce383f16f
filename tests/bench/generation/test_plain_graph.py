"""The plain cache of fixed length, decoding through a graph that on a CPU is the step itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lavakv.bench.generation import plain_graph
from lavakv.bench.generation.call import timed_generate
from lavakv.bench.generation.configurations import Configurations
from lavakv.bench.generation.plain_graph import GraphStep, decoding_by, fixed_like
from lavakv.bench.generation.reading import Reading
from lavakv.bench.settings import BenchSettings, Setting
from lavakv.errors import UnsupportedError
from tests.bench.generation.conftest import BUDGET, TOKENS
from tests.hf import zoo


class FakeGraph:
    """Captures nothing: what replays a step is the step."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        work()

        def replay() -> None:
            self.replays += 1
            work()

        return replay


@pytest.fixture
def graph(monkeypatch) -> FakeGraph:
    fake = FakeGraph()
    monkeypatch.setattr(plain_graph, "captured", fake.captured)
    return fake


def _configurations(subject, batch_size: int = 2, num_new: int = 6) -> Configurations:
    reading = Reading(subject, BenchSettings(), TOKENS, 1, BUDGET)
    return Configurations(subject, reading, Setting(TOKENS, batch_size, BUDGET), num_new)


def test_generate_decodes_by_one_capture_and_replays(subject, graph: FakeGraph) -> None:
    ready = _configurations(subject).ready("cut_graph")
    keys = ready.cache.layers[0].keys
    with ready.around():
        call = timed_generate(subject.model, ready.ids, ready.cache, 6)
    assert (graph.captures, graph.replays) == (1, 4)  # the first token is the prompt's, the second captures
    assert call.output.shape == (2, BUDGET + 6)
    assert ready.cache.layers[0].keys is keys
    assert keys.shape[2] == BUDGET, "its length grew"


@torch.no_grad()
def test_a_step_sees_what_the_cut_cache_sees(subject, graph: FakeGraph) -> None:
    """The new token stands in the last column: the same logits as with the columns before it in a DynamicCache."""
    cut = _configurations(subject).ready("cut").cache
    fixed = fixed_like(cut)
    ids = torch.tensor([[7], [9]])
    output = GraphStep(subject.model, fixed)(input_ids=ids)
    for layer in cut.layers:
        layer.keys, layer.values = layer.keys[:, :, :-1], layer.values[:, :, :-1]
    expected = subject.model(ids, past_key_values=cut)
    torch.testing.assert_close(output.logits, expected.logits)


@torch.no_grad()
def test_replays_move_on_by_a_position_and_take_new_ids(subject, graph: FakeGraph) -> None:
    step = GraphStep(subject.model, fixed_like(_configurations(subject).ready("cut").cache))
    seen: list[tuple[list[int], list[int]]] = []

    def note(_module, _args, kwargs) -> None:
        seen.append((kwargs["input_ids"][:, 0].tolist(), kwargs["position_ids"][:, 0].tolist()))

    handle = subject.model.register_forward_pre_hook(note, with_kwargs=True)
    outputs = [step(input_ids=torch.tensor([[token], [token]])) for token in (3, 4, 5)]
    handle.remove()
    assert seen == [([token, token], [BUDGET - 1 + index] * 2) for index, token in enumerate((3, 4, 5))]
    assert [output.logits.shape for output in outputs] == [(2, 1, 128)] * 3


def test_the_model_decodes_as_before_afterwards(subject) -> None:
    step = GraphStep(subject.model, fixed_like(_configurations(subject).ready("cut").cache))
    with decoding_by(subject.model, step):
        assert subject.model.get_compiled_call(None) is step
    with pytest.raises(RuntimeError, match="stopped"), decoding_by(subject.model, step):
        raise RuntimeError("stopped")
    assert "get_compiled_call" not in subject.model.__dict__
    assert "_valid_auto_compile_criteria" not in subject.model.__dict__


def test_sliding_layers_are_refused() -> None:
    model = zoo.tiny("gemma3_text", sliding_window=40)
    with torch.no_grad():
        cache = model(zoo.prompt(60)).past_key_values
    with pytest.raises(UnsupportedError, match="full attention in all layers, got DynamicSlidingWindowLayer"):
        fixed_like(cache)
