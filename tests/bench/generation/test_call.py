"""The times of a call are those of `generate` itself, token by token."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from lavakv.bench.floor import Floor
from lavakv.bench.generation.call import timed_generate
from lavakv.bench.generation.record import SETUP_STEPS, DecodeRecord, FirstTokenRecord, GenerateRecord
from lavakv.bench.generation.token_clock import TokenClock
from lavakv.bench.settings import Setting
from tests.bench.generation.conftest import ModelTime


def test_the_first_token_is_the_prompts_and_the_others_are_steps(subject, model_time: ModelTime) -> None:
    call = timed_generate(subject.model, subject.prompt(40, 2), DynamicCache(config=subject.model.config), 8)
    assert model_time.forwards == [40] + 7 * [1]
    assert call.seconds == [10, 0.25, 0.25, 0.25, 2, 0.25, 0.25, 0.25]
    assert FirstTokenRecord.of(call).seconds == 10
    assert call.output.shape == (2, 48)
    assert call.kv_bytes == 2 * 47 * 2 * 3 * 2 * 16 * 4  # the last token is never read


def test_the_rate_leaves_the_first_steps_out_and_says_what_they_took(subject, model_time: ModelTime) -> None:
    call = timed_generate(subject.model, subject.prompt(40, 2), DynamicCache(config=subject.model.config), 9)
    record = DecodeRecord.of(call, 2, floor_seconds=0.125)
    assert record.seconds_per_token == 0.25
    assert record.tokens_per_second == 8  # two sequences
    assert record.ratio_to_floor == 2
    assert record.setup_seconds == 1.75  # the slow one of four
    assert record.seconds_per_token_spread == [0.25, 0.25]
    assert len(call.seconds) == 1 + SETUP_STEPS + 4


def test_the_end_of_the_text_stops_nothing(subject, monkeypatch) -> None:
    plain = timed_generate(subject.model, subject.prompt(40, 1), DynamicCache(config=subject.model.config), 8)
    monkeypatch.setattr(subject.model.generation_config, "eos_token_id", int(plain.output[0, 42]))
    call = timed_generate(subject.model, subject.prompt(40, 1), DynamicCache(config=subject.model.config), 8)
    assert len(call.seconds) == 8


def test_warnings_are_noted_and_developers_ones_are_not(subject) -> None:
    import warnings

    def warn(*_: object) -> None:
        warnings.warn("no graph: the model reads the host", UserWarning, stacklevel=2)
        warnings.warn("a name will change", FutureWarning, stacklevel=2)

    handle = subject.model.register_forward_pre_hook(warn)
    call = timed_generate(subject.model, subject.prompt(40, 1), DynamicCache(config=subject.model.config), 3)
    handle.remove()
    assert call.warnings == ["no graph: the model reads the host"]


def test_replays_of_cuda_graphs_are_counted(subject, monkeypatch) -> None:
    replayed: list[object] = []
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", replayed.append)
    handle = subject.model.register_forward_hook(lambda *_: torch.cuda.CUDAGraph.replay("a graph"))
    call = timed_generate(subject.model, subject.prompt(40, 1), DynamicCache(config=subject.model.config), 5)
    handle.remove()
    assert call.num_replays == len(replayed) == 5
    torch.cuda.CUDAGraph.replay("later")
    assert len(replayed) == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_cpu_has_no_figures_of_a_gpus_memory(subject) -> None:
    call = timed_generate(subject.model, subject.prompt(40, 1), DynamicCache(config=subject.model.config), 2)
    assert call.peak_bytes is None
    assert call.bytes_beyond_cache is None


def test_logits_pass_through_the_clock_unchanged() -> None:
    clock, scores = TokenClock(torch.device("cpu")), torch.randn(2, 5)
    clock.start()
    assert clock(torch.ones(2, 3), scores) is scores
    assert len(clock.seconds()) == 1


def test_ratios_are_of_what_was_measured_of_both(subject) -> None:
    record = GenerateRecord(Setting(40, 1, 48), Floor(1, 0.04, 0.02), 4)
    assert record.ratios() == {}
    for name, seconds in (("full", 0.4), ("lavakv", 0.5), ("lavakv_graph", 0.1), ("cut_graph", 0.08)):
        record.decoding[name] = DecodeRecord(seconds, None, 1 / seconds, 1, 0, 0, None, None, 0, [])
    record.first_token = {"full": FirstTokenRecord(10, None), "lavakv": FirstTokenRecord(11, None)}
    assert record.ratios() == pytest.approx(
        {
            "lavakv_to_full": 1.25, "lavakv_graph_to_full": 0.25, "lavakv_graph_to_cut_graph": 1.25,
            "first_token_lavakv_to_full": 1.1,
        }
    )  # fmt: skip
    assert record.floor_of("full_static") == 0.04
    assert record.floor_of("cut_graph") == 0.02
