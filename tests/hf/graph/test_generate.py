"""`generate` through a graph gives the text that it gives without one, whatever the call asks for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList, TextStreamer
from transformers.generation.streamers import BaseStreamer

import lavakv
from tests.hf import zoo
from tests.hf.graph.compare import NEW, assert_same_state, caches, generate, left_padded, model_of

FULL = ["llama", "qwen3", "olmo2", "granite", "smollm3", "gpt_neox"]
OTHER_LAYERS = ["gemma2", "gemma3_text", "cohere2", "phi3", "falcon_h1", "zamba2"]
EXPERTS = ["mixtral", "gpt_oss", "qwen3_moe", "qwen3_next"]


def _compare(model: Any, ids: torch.Tensor, replays: int | None = NEW - 1, **options: Any) -> lavakv.LavaCache:
    plain, graph = caches(model)
    expected, found = generate(model, plain, ids, **options), generate(model, graph, ids, **options)
    assert found.equal(expected)
    assert_same_state(plain, graph)
    assert plain.decode_graph.num_captures == 0
    assert replays is None or (graph.decode_graph.num_captures, graph.decode_graph.num_replays) == (1, replays)
    return graph


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", FULL + OTHER_LAYERS)
def test_architectures(kind: str, padded: bool) -> None:
    if kind == "gemma2" and padded:
        pytest.skip("without a cache its padded rows are no numbers either")
    _compare(model_of(kind), zoo.prompt(40, batch=2), **({"attention_mask": left_padded(2, 40)} if padded else {}))


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_without_a_loop(kind: str) -> None:
    model = model_of(kind)
    model.set_experts_implementation("batched_mm")
    _compare(model, zoo.prompt(40, batch=2), attention_mask=left_padded(2, 40))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sliding_layers_under_both_attentions(attention: str) -> None:
    """Prompts within and beyond the window of eight columns; one that has not filled it yet grows into it."""
    model = model_of("gemma3_text", attention=attention)
    for length in (4, 40):
        _compare(model, zoo.prompt(length, batch=2))


@pytest.mark.parametrize("padded", [False, True])
def test_512_tokens(padded: bool) -> None:
    """More than is reserved at once: the step is captured again, and no token differs."""
    model = model_of(max_position_embeddings=2048)
    mask = {"attention_mask": left_padded(2, 40)} if padded else {}
    _compare(model, zoo.prompt(40, batch=2), replays=511, max_new_tokens=512, **mask)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 0.8, "top_p": 0.9},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"num_return_sequences": 3, "do_sample": True},
        {"min_new_tokens": 4, "eos_token_id": 7, "pad_token_id": 0},
    ],
)
def test_ways_of_choosing_tokens(options: dict[str, Any]) -> None:
    _compare(model_of(), zoo.prompt(40, batch=2), replays=None, **options)


def test_a_logits_processor_and_a_stopping_criterion_see_every_token() -> None:
    seen: list[int] = []

    class Watch(LogitsProcessor):
        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            seen.append(ids.shape[1])
            return scores.index_fill(1, torch.tensor([int(ids.sum()) % 90]), float("-inf"))

    class Enough(StoppingCriteria):
        def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return torch.full((ids.shape[0],), ids.shape[1] >= 55, dtype=torch.bool)

    options = {
        "logits_processor": LogitsProcessorList([Watch()]),
        "stopping_criteria": StoppingCriteriaList([Enough()]),
    }
    _compare(model_of(), zoo.prompt(40), replays=14, **options)
    assert seen == 2 * list(range(40, 55))


def test_a_streamer_gets_every_token() -> None:
    class Keep(BaseStreamer):
        def __init__(self) -> None:
            self.tokens: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.tokens.append(-1)

    model, kept = model_of(), []
    for cache in caches(model):
        streamer = Keep()
        text = generate(model, cache, zoo.prompt(40), streamer=streamer)
        assert streamer.tokens == [*text[0].tolist(), -1]
        kept.append(streamer.tokens)
    assert kept[0] == kept[1]
    assert TextStreamer is not Keep


@pytest.mark.parametrize("after", [1, 5, 17])
def test_sequences_end_at_different_steps(after: int) -> None:
    """The end token is one that the text of one sequence has at a step; that of the other goes on."""
    model, ids = model_of(), zoo.prompt(40, batch=2)
    plain, _ = caches(model)
    end = int(generate(model, plain, ids)[0, 40 + after])
    _compare(model, ids, replays=None, eos_token_id=end, pad_token_id=0)


def test_scores_and_logits_are_those_of_each_step() -> None:
    """Kept over all steps: a replay must not change what an earlier one has returned."""
    model, found = model_of(), []
    for cache in caches(model):
        output = generate(model, cache, zoo.prompt(40), output_logits=True, return_dict_in_generate=True)
        found.append(torch.stack(output.logits))
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-5)
    assert found[1].unique(dim=0).shape[0] == NEW


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"prompt_lookup_num_tokens": 3}])
def test_beams_and_drafts_stay_as_they_are(options: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    cache = _compare(model_of(), zoo.prompt(40), replays=None, **options)
    assert cache.decode_graph.num_captures == 0
    assert not [warning for warning in recwarn if "graph" in str(warning.message)]


def test_another_cache_is_not_touched() -> None:
    """An enabled model still generates with transformers' own caches, through its own methods."""
    model = model_of()
    text = model.generate(zoo.prompt(40), max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert text.shape == (1, 44)
    lavakv.disable(model)
    assert "get_compiled_call" not in vars(model)
    assert "_valid_auto_compile_criteria" not in vars(model)


def test_a_prompt_in_chunks() -> None:
    _compare(model_of(), zoo.prompt(40), prefill_chunk_size=16)
