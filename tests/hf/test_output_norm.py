"""Norms between the output projection and the residual stream: found where they are, and used in the stream's units."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import lavakv
from lavakv.hf.recorder import record
from lavakv.scoring.output_norm import norm_behind
from lavakv.scoring.window import ScoringWindow
from tests.hf import zoo
from tests.hf.helpers import WINDOW, feed, kept, lava_cache, position_score

PROMPT = 40
_KINDS = [kind for kind in zoo.TEXT if kind in CONFIG_MAPPING and kind != "zamba2"]  # its output joins no stream
_MORE = {
    "olmo3": {},
    "exaone4": {"sliding_window": 8, "sliding_window_pattern": 2},
    "flex_olmo": {"num_experts": 4, "num_experts_per_tok": 2},
    "glm4": {"head_dim": 8},
    "gemma4_text": {"head_dim": 8, "sliding_window": 8, "vocab_size_per_layer_input": 96, "global_head_dim": 8},
    "hyperclovax": {"use_post_norm": True},
}
NORMED = ["gemma2", "gemma3_text", "olmo2", "olmo3", "exaone4", "flex_olmo", "glm4", "hyperclovax"]


def _model(kind: str) -> nn.Module:
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    if kind in zoo.TEXT:
        return zoo.with_large_weights(zoo.tiny(kind))
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**{**zoo.common(), **_MORE[kind]})
    return zoo.with_large_weights(AutoModelForCausalLM.from_config(config).eval())


def _attentions(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Layers with the attention in them."""
    return [
        (layer, child)
        for layer in model.modules()
        for child in layer.children()
        if isinstance(getattr(child, "is_causal", None), bool) and hasattr(child, "layer_idx")
    ]


def _seen_behind(model: nn.Module, ids: Tensor) -> dict[nn.Module, list[nn.Module]]:
    """Which modules of its layer were called with just what an attention returned."""
    returned: dict[nn.Module, Tensor] = {}
    found: dict[nn.Module, list[nn.Module]] = {}
    hooks: list[Any] = []
    for layer, attention in _attentions(model):

        def note(module: nn.Module, _args: Any, output: Any) -> None:
            returned[module] = output[0] if isinstance(output, tuple) else output

        def compare(module: nn.Module, args: Any, attention: nn.Module = attention) -> None:
            if args and attention in returned and args[0] is returned[attention]:
                found[attention].append(module)

        found[attention] = []
        hooks.append(attention.register_forward_hook(note))
        hooks += [child.register_forward_pre_hook(compare) for child in layer.children() if child is not attention]
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("kind", [*_KINDS, *_MORE])
def test_the_norm_is_the_module_that_is_given_what_the_attention_returns(kind: str) -> None:
    model = _model(kind)
    found = _seen_behind(model, zoo.prompt(PROMPT))
    assert found
    for attention, modules in found.items():
        norms = [module for module in modules if not isinstance(module, nn.Identity | nn.Dropout)]
        assert [norm_behind(model, attention)] == (norms or [None])
    assert any(norm_behind(model, attention) is not None for attention in found) == (kind in [*NORMED, "gemma4_text"])


def _windows(model: nn.Module, ids: Tensor, **settings: Any) -> list[ScoringWindow]:
    seen: list[ScoringWindow] = []

    def score(window: ScoringWindow) -> Tensor:
        seen.append(window)
        return position_score(window)

    policy = lavakv.Policy("spy", "notes the windows", score, needs=("output_weight", "residual_norms"))
    feed(model, lava_cache(model, policy=policy, **settings), [ids])
    return seen


@pytest.mark.parametrize("kind", NORMED)
def test_gain_and_root_mean_square_are_those_of_the_norm(kind: str) -> None:
    """Seen from outside: the norm's inputs, and what it makes of them."""
    torch.manual_seed(0)
    model = lavakv.enable(_model(kind))
    for parameter in model.parameters():  # gains of their own
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    calls: dict[int, tuple[Tensor, Tensor]] = {}
    for _, attention in _attentions(model):
        norm = norm_behind(model, attention)
        assert norm is not None

        def note(_module: nn.Module, args: Any, output: Tensor, index: int = attention.layer_idx) -> None:
            calls[index] = args[0], output

        norm.register_forward_hook(note)
    ids = zoo.prompt(PROMPT, batch=2)
    for place, window in enumerate(_windows(model, ids)):
        given, made = (part[place % 2, -WINDOW:] for part in calls[window.layer])
        assert window.output_scale is not None
        gain, rms = window.output_scale
        torch.testing.assert_close(given * gain / rms[:, None], made)


def test_without_a_norm_there_is_no_scale() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    assert all(window.output_scale is None for window in _windows(model, zoo.prompt(PROMPT)))


def test_a_norm_that_is_replaced_is_found_again() -> None:
    model = _model("olmo2")
    layer, attention = _attentions(model)[0]
    assert norm_behind(model, attention) is layer.post_attention_layernorm
    layer.post_attention_layernorm = nn.RMSNorm(32)
    assert norm_behind(model, attention) is layer.post_attention_layernorm


@pytest.mark.parametrize("policy", ["residual", "residual-far", "residual-max", "reach", "reach-question"])
@pytest.mark.parametrize("kind", ["gemma3_text", "olmo2"])
def test_scores_do_not_change_with_the_size_of_the_output_projection(kind: str, policy: str) -> None:
    """The norm takes it out again: the model answers the same, and must keep the same."""
    model = lavakv.enable(_model(kind))
    ids, before = zoo.prompt(PROMPT, batch=2), lava_cache(model, policy=policy)
    feed(model, before, [ids])
    with torch.no_grad():
        for place, (_, attention) in enumerate(_attentions(model)):
            attention.o_proj.weight.mul_(4.0 ** (place % 3))
    after = lava_cache(model, policy=policy)
    feed(model, after, [ids])
    assert kept(before) == kept(after)


@pytest.mark.parametrize("policy", ["residual", "residual-max"])
def test_later_rounds_weigh_with_the_norm_too(policy: str) -> None:
    model = lavakv.enable(_model("olmo2"))
    chunks = zoo.prompt(3 * PROMPT).split(PROMPT, dim=1)
    caches = []
    for _ in range(2):
        cache = lava_cache(model, policy=policy, evict="turns")
        feed(model, cache, chunks)
        caches.append(cache)
        with torch.no_grad():
            for place, (_, attention) in enumerate(_attentions(model)):
                attention.o_proj.weight.mul_(4.0 ** (place % 3))
    assert kept(caches[0]) == kept(caches[1])
    assert caches[0].lengths().max() < 3 * PROMPT


def test_a_recorded_prompt_keeps_the_same() -> None:
    model, ids = lavakv.enable(_model("gemma3_text")), zoo.prompt(PROMPT)
    direct = lava_cache(model, policy="reach")
    feed(model, direct, [ids])
    filled = record(model, ids).fill(lava_cache(model, policy="reach"), num_rows=2)
    rows = direct.lengths().shape[2]
    for layer in direct.layer_indices:
        for head in range(rows):
            expected = direct.kept_positions(layer, 0, head)
            assert all(filled.kept_positions(layer, row, head).equal(expected) for row in range(2))
