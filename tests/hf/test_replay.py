"""A prompt that is repeated before it is compressed: against plain forwards of transformers, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import lavakv
from lavakv import InputError, LavaCache, LavaError, PolicyError, UnsupportedError
from lavakv.evaluation.runner import PromptRunner
from lavakv.evaluation.variant import Variant
from lavakv.hf import replay as hf_replay
from lavakv.hf.recorder import record
from lavakv.policy.registry import get_policy
from lavakv.policy.replay import Replay
from lavakv.policy.rules import Policy
from lavakv.scoring.prompt import ReplayMaxima
from tests.errors import assert_all_parts
from tests.hf.zoo import prompt, tiny, tiny_vision

WINDOW = 8
REQUEST = Replay((91, 92), (93,), (94, 95), chunk_tokens=30, overlap_tokens=4)


def asking(name: str, replay: Replay = REQUEST) -> Policy:
    return replace(get_policy(name), replay=replay)


def kept(cache: LavaCache, row: int = 0) -> list[list[int]]:
    """By layer and head."""
    heads = cache.lengths().shape[2]
    return [cache.kept_positions(layer, row, head).tolist() for layer in cache.layer_indices for head in range(heads)]


def compressed(
    model: PreTrainedModel, ids: Tensor, policy: str | Policy, budget: int = 24, **given: Tensor
) -> LavaCache:
    cache = LavaCache(model.config, budget=budget, policy=policy, window=WINDOW)
    with lavakv.enabled(model), torch.no_grad():
        model(ids, past_key_values=cache, **given)
    return cache


@torch.no_grad()
def eager_maxima(model: PreTrainedModel, ids: Tensor) -> list[ReplayMaxima]:
    """By layer, from attentions that transformers returns: context, then request, words before the chunk, and chunk."""
    num_tokens, parts = ids.shape[1], []
    filled = DynamicCache(config=model.config)
    model(ids, past_key_values=filled)
    for start in range(0, num_tokens, 30):
        stop = min(start + 30, num_tokens)
        before = [93, *ids[0, start - 4 : start].tolist()] if start else [91, 92]
        fed = torch.tensor([[*before, 94, 95, *ids[0, start:stop].tolist()]])
        found = model(fed, past_key_values=copy.deepcopy(filled), output_attentions=True, output_hidden_states=True)
        own = []
        for attention, stream in zip(found.attentions, found.hidden_states[:-1], strict=True):
            seen = [*range(min(4, start)), *range(start, stop), *range(num_tokens, num_tokens + fed.shape[1])]
            shares = attention[0][..., seen] / attention[0][..., seen].sum(dim=-1, keepdim=True)
            paid = shares[..., min(4, start) : min(4, start) + stop - start]
            relative = paid / stream[0].norm(dim=-1)[:, None]
            own.append((paid.amax(dim=1), relative.amax(dim=1)))
        parts.append(own)
    joined = [[torch.cat([chunk[layer][kind] for chunk in parts], dim=-1) for kind in (0, 1)] for layer in range(3)]
    return [ReplayMaxima(*(part.view(2, 2, num_tokens) for part in layer)) for layer in joined]


@pytest.mark.parametrize("num_tokens", [24, 30, 31, 75])
def test_maxima_are_those_of_the_attentions_that_transformers_returns(num_tokens: int) -> None:
    model, ids = tiny("llama", attention="eager"), prompt(num_tokens)
    expected = eager_maxima(model, ids)
    with lavakv.enabled(model):
        found = record(model, ids).replayed(REQUEST).layers
    assert list(found) == [0, 1, 2]
    for layer, maxima in enumerate(expected):
        torch.testing.assert_close(found[layer].attention, maxima.attention)
        torch.testing.assert_close(found[layer].per_norm, maxima.per_norm)


@pytest.mark.parametrize("budget", [10, 24, 60])
@pytest.mark.parametrize("name", ["kvzip", "kvzip+"])
def test_the_best_of_all_heads_and_layers_stay(name: str, budget: int) -> None:
    model, ids = tiny("llama", attention="eager"), prompt(75)
    lengths = [torch.ones(2, 2, 75)] * 3
    if name == "kvzip+":
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(ids, past_key_values=cache)
        lengths = []
        for layer, held in zip(model.model.layers, cache.layers, strict=True):
            weight = layer.self_attn.o_proj.weight.detach().T.view(2, 2, 8, 32)
            lengths.append(torch.einsum("hnd,hgdo->hgno", held.values[0], weight).norm(dim=-1))
    parts = [getattr(one, "per_norm" if name == "kvzip+" else "attention") for one in eager_maxima(model, ids)]
    scores = torch.cat([(part * length).amax(dim=1) for part, length in zip(parts, lengths, strict=True)])[
        :, : 75 - WINDOW
    ]
    scores[:, :4] = torch.tensor([13.0, 12, 11, 10]) * 2.0**64
    best = scores.flatten().topk(6 * (budget - WINDOW)).indices.tolist()
    expected: list[list[int]] = [[] for _ in range(6)]
    for place in best:
        expected[place // (75 - WINDOW)].append(place % (75 - WINDOW))
    held = kept(compressed(model, ids, asking(name), budget))
    assert held == [[*sorted(head), *range(75 - WINDOW, 75)] for head in expected]


@pytest.mark.parametrize(
    "kind", ["llama", "qwen3", "gemma2", "gemma3_text", "gpt_oss", "gpt2", "cohere2", "gemma4_text"]
)
@pytest.mark.parametrize("name", ["kvzip", "kvzip+"])
def test_a_recorded_prompt_keeps_what_a_forward_keeps(kind: str, name: str) -> None:
    """Sliding windows, shared keys, sinks and softcaps included; the replay runs once for all budgets and policies."""
    if (kind, name) == ("gpt2", "kvzip+"):
        pytest.skip("its output projection has another name")
    model, ids = tiny(kind), prompt(75)
    alone = [compressed(model, ids, asking(name), budget) for budget in (12, 30)]
    with lavakv.enabled(model):
        recording = record(model, ids)
        before = copy.deepcopy(recording.other_layers)
        for cache, budget in zip(alone, (12, 30), strict=True):
            filled = recording.fill(LavaCache(model.config, budget=budget, policy=asking(name), window=WINDOW))
            assert kept(filled) == kept(cache)
    assert len(recording.replays) == 1
    for index, layer in before.items():  # what sliding windows hold is as it was
        if getattr(layer, "keys", None) is not None:
            assert torch.equal(layer.keys, recording.other_layers[index].keys)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_a_padded_batch_keeps_what_its_sequences_keep_alone(kind: str) -> None:
    """With the positions that `generate` makes, and with those that a plain forward makes."""
    model, ids, short = tiny(kind, dtype=torch.float64), prompt(75), prompt(64, seed=3)
    alone = [kept(compressed(model, one, asking("kvzip"))) for one in (ids, short)]
    padded = torch.cat([ids, torch.cat([torch.zeros(1, 11, dtype=torch.int64), short], dim=1)])
    mask = (padded != 0).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cases = (
        [{"position_ids": positions}, {}] if kind != "gpt2" else [{"position_ids": positions}]
    )  # it has absolute ones
    for given in cases:
        cache = compressed(model, padded, asking("kvzip"), attention_mask=mask, **given)
        assert [kept(cache, 0), kept(cache, 1)] == alone


def test_generate_goes_on_from_what_is_kept() -> None:
    model, ids = tiny("llama"), prompt(75)
    cache = LavaCache(model.config, budget=24, policy=asking("kvzip"), window=WINDOW)
    runner = PromptRunner(model, ids)
    expected = runner.answer([Variant(asking("kvzip"), budget=24, window=WINDOW)], None, 6).tokens[0]
    with lavakv.enabled(model):
        found = model.generate(ids, past_key_values=cache, max_new_tokens=6, do_sample=False)
        assert found[0, 75:].tolist() == expected
        assert cache.get_seq_length() == 80
        turn = torch.cat([found, prompt(5, seed=9)], dim=1)
        model.generate(turn, past_key_values=cache, max_new_tokens=2, do_sample=False)


def test_what_fits_into_the_budget_is_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_replay, "_feed", None)
    model = tiny("llama")
    assert kept(compressed(model, prompt(24), "kvzip", 24)) == [list(range(24))] * 6


def test_the_request_matters_and_both_can_stand_in_one_batch() -> None:
    model, ids = tiny("llama"), prompt(75)
    variants = [
        Variant(policy, budget=24, window=WINDOW) for policy in (asking("kvzip"), "kvzip", "lava", asking("kvzip+"))
    ]
    runner = PromptRunner(model, ids)
    rows = runner.fill(variants)
    assert len(runner.recording.replays) == 2
    held = [kept(rows, row) for row in range(4)]
    assert held[0] != held[1]
    for variant, one in zip(variants, held, strict=True):
        assert kept(compressed(model, ids, variant.policy)) == one
    seconds = [runner.replay_seconds(variant) for variant in [*variants, Variant(None)]]
    assert seconds[0] == seconds[3] != seconds[1]
    assert all((one is not None and one > 0) == (row in (0, 1, 3)) for row, one in enumerate(seconds))


def test_a_prefix_is_replayed_by_itself() -> None:
    """As the query-agnostic mode needs it: the question behind the context is not repeated."""
    model, ids = tiny("llama"), prompt(90)
    shorter = PromptRunner(model, ids).prefix(75)
    variant = Variant("kvzip", budget=24, window=WINDOW)
    assert kept(shorter.fill([variant])) == kept(compressed(model, ids[:, :75], "kvzip"))


def test_seconds_are_apart_from_filling(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny("llama"), prompt(75)
    runner, variant = PromptRunner(model, ids), Variant("kvzip", budget=24, window=WINDOW)
    answers = runner.answer([variant], None, 2)
    first = runner.replay_seconds(variant)
    assert answers.fill_seconds > 0
    runner.answer([variant], None, 2)
    assert runner.replay_seconds(variant) == first


def _refused(
    error: type[LavaError], model: PreTrainedModel, policy: str | Policy, *args: Tensor, **given: Tensor
) -> LavaError:
    """The error of a forward of which no layer runs."""
    ran = []
    hooks = [layer.register_forward_pre_hook(lambda *_: ran.append(1)) for layer in model.get_decoder().layers]
    cache = LavaCache(model.config, budget=24, policy=policy, window=WINDOW)
    with lavakv.enabled(model), torch.no_grad(), pytest.raises(error) as caught:
        model(*args, past_key_values=cache, **given)
    for hook in hooks:
        hook.remove()
    assert ran == []
    assert cache.get_seq_length() == 0
    assert_all_parts(caught.value)
    cache.reset()
    return caught.value


def test_more_rows_than_positions_are_refused() -> None:
    model = tiny("llama", max_position_embeddings=150)
    found = _refused(InputError, model, "kvzip", prompt(76))
    assert found.got == "76 of the prompt and 76 that repeat a chunk of it"
    assert found.argument == "replay of policy 'kvzip'"
    compressed(model, prompt(75), "kvzip")
    compressed(model, prompt(110), asking("kvzip"))  # 110 and 30 with 7 before them
    _refused(InputError, model, asking("kvzip"), prompt(114))


@pytest.mark.parametrize(("tokens", "chunk"), [(76, 38), (130, 12), (141, 4), (145, 2)])
def test_the_chunk_that_is_proposed_fits(tokens: int, chunk: int) -> None:
    model = tiny("llama", max_position_embeddings=150)
    found = _refused(InputError, model, "kvzip", prompt(tokens))
    assert f"at most {chunk} `chunk_tokens`" in found.fix
    compressed(model, prompt(tokens), replace(get_policy("kvzip"), replay=Replay(chunk_tokens=chunk)))
    if chunk < tokens // 2:
        _refused(InputError, model, replace(get_policy("kvzip"), replay=Replay(chunk_tokens=chunk + 1)), prompt(tokens))


def test_no_chunk_is_proposed_where_none_fits() -> None:
    model = tiny("llama", max_position_embeddings=150)
    assert _refused(InputError, model, "kvzip", prompt(149)).fix == "Shorten the prompt, or use another policy."


def test_ids_that_the_model_does_not_know_are_refused() -> None:
    model = tiny("llama")
    assert _refused(InputError, model, asking("kvzip", Replay((96,))), prompt(75)).expected == "token ids below 96"


def test_embeddings_are_refused() -> None:
    model = tiny("llama")
    found = _refused(InputError, model, "kvzip", inputs_embeds=model.get_input_embeddings()(prompt(75)))
    assert (found.argument, found.got) == ("inputs_embeds", "embeddings")


@pytest.mark.parametrize("kind", ["qwen3_next", "falcon_h1", "zamba2"])
def test_recurrent_layers_are_refused(kind: str) -> None:
    """Their state behind a prompt cannot be read on for several tokens and taken back."""
    found = _refused(UnsupportedError, tiny(kind), "kvzip", prompt(75))
    assert found.argument == "policy 'kvzip'"


def test_a_stream_that_nobody_shows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the prompt is read to its end, let alone twice."""
    monkeypatch.setattr(hf_replay, "_feed", None)
    model, cache_layers = tiny("llama"), []
    with lavakv.enabled(model), torch.no_grad():
        cache = LavaCache(model.config, budget=24, policy="kvzip+", window=WINDOW)
        monkeypatch.setattr(cache, "note_hidden_states", cache_layers.append)
        with pytest.raises(PolicyError, match=r"policy 'kvzip\+' at layer 0: expected the norms") as caught:
            model(prompt(75), past_key_values=cache)
    assert_all_parts(caught.value, got="none")
    assert len(cache_layers) == 1


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_replay_that_fails_leaves_an_empty_cache(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    model, ids = tiny("llama"), prompt(75)
    cache = LavaCache(model.config, budget=24, policy="kvzip", window=WINDOW)
    with lavakv.enabled(model), torch.no_grad():
        with monkeypatch.context() as patch:
            patch.setattr(hf_replay, "_feed", fail)
            with pytest.raises(type(error)):
                model(ids, past_key_values=cache)
        assert cache.get_seq_length() == 0
        model(ids, past_key_values=cache)
    assert kept(cache) == kept(compressed(model, ids, "kvzip"))


def test_text_of_a_vision_model_is_replayed() -> None:
    """Its decoder is given embeddings, so it is refused by name."""
    model, ids = tiny_vision("gemma3"), prompt(75)
    cache = LavaCache(model.config, budget=24, policy="kvzip", window=WINDOW)
    with lavakv.enabled(model), torch.no_grad(), pytest.raises(InputError, match="inputs_embeds") as caught:
        model(ids, past_key_values=cache)
    assert_all_parts(caught.value)


def test_hooks_and_wraps_are_gone_afterwards() -> None:
    model = tiny("llama")
    before = [len(module._forward_pre_hooks) for module in model.modules()]
    expected = model(prompt(20)).logits
    compressed(model, prompt(75), "kvzip")
    assert [len(module._forward_pre_hooks) for module in model.modules()] == before
    assert torch.equal(model(prompt(20)).logits, expected)
