"""Trained gates from a file, made up here: what they read of a model, and which files and models are refused."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import lavakv
from lavakv import LavaCache, PolicyError
from lavakv.evaluation.runner import PromptRunner
from lavakv.evaluation.variant import Variant
from lavakv.hf.gates import fast_kvzip, kvzap
from lavakv.policy.apply import policy_scores
from lavakv.scoring.window import ScoringWindow
from tests.errors import assert_all_parts
from tests.hf.zoo import prompt, tiny

WINDOW, HEADS, HIDDEN, LAYERS, DIM = 8, 2, 32, 3, 4


def linear_tensors(layers: int = LAYERS, heads: int = HEADS, hidden: int = HIDDEN) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for index in range(layers):
        found[f"layers.{index}.weight"] = torch.randn(heads, hidden, generator=generator)
        found[f"layers.{index}.bias"] = torch.randn(heads, generator=generator)
    return found


def mlp_tensors(layers: int = LAYERS, width: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for index in range(layers):
        found[f"layers.{index}.0.weight"] = torch.randn(width, HIDDEN, generator=generator)
        found[f"layers.{index}.0.bias"] = torch.randn(width, generator=generator)
        found[f"layers.{index}.2.weight"] = torch.randn(HEADS, width, generator=generator)
        found[f"layers.{index}.2.bias"] = torch.randn(HEADS, generator=generator)
    return found


def fast_tensors(layers: int = LAYERS, group: int = 2, sinks: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "q_proj.weight": (HEADS * group * DIM, HIDDEN), "q_proj.bias": (HEADS * group * DIM,),
        "k_proj.weight": (HEADS * DIM, HIDDEN), "q_norm.weight": (DIM,), "k_norm.weight": (DIM,),
        "k_base": (HEADS, 1, sinks, DIM), "b": (HEADS, 1, group),
    }  # fmt: skip
    return {
        f"layers.{index}.{name}": torch.randn(shape, generator=generator)
        for index in range(layers)
        for name, shape in shapes.items()
    }


def saved(tensors: dict[str, Tensor], folder: Path, name: str = "gates.safetensors") -> Path:
    save_file(tensors, folder / name)
    return folder / name


def attention_inputs(model: torch.nn.Module, ids: Tensor) -> list[Tensor]:
    """What transformers gives each attention, `[columns, hidden]`."""
    found: list[Tensor] = []
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda _, __, given: found.append(given["hidden_states"][0]), with_kwargs=True
        )
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    return found


def kept(cache: LavaCache, row: int = 0) -> list[list[int]]:
    return [cache.kept_positions(layer, row, head).tolist() for layer in cache.layer_indices for head in range(HEADS)]


@pytest.mark.parametrize("kind", ["linear", "two layers", "fast"])
def test_the_best_of_all_heads_and_layers_stay(kind: str, tmp_path: Path) -> None:
    """Scores of what the attention is given, worked out here; a forward, a padded row and a recording agree."""
    tensors = {"linear": linear_tensors, "two layers": mlp_tensors, "fast": fast_tensors}[kind]()
    policy = (fast_kvzip if kind == "fast" else kvzap)(saved(tensors, tmp_path))
    model, ids = tiny("llama"), prompt(60)
    scores = [_scores(kind, tensors, index, states) for index, states in enumerate(attention_inputs(model, ids))]
    flat = torch.cat(scores)[:, : 60 - WINDOW]
    expected: list[list[int]] = [[] for _ in range(6)]
    for place in flat.flatten().topk(6 * 12).indices.tolist():
        expected[place // 52].append(place % 52)
    expected = [[*sorted(head), *range(52, 60)] for head in expected]
    padded = torch.cat([torch.cat([torch.zeros(1, 7, dtype=torch.int64), ids], dim=1), prompt(67, seed=3)])
    with lavakv.enabled(model), torch.no_grad():
        cache = LavaCache(model.config, budget=20, policy=policy, window=WINDOW)
        model(ids, past_key_values=cache)
        assert kept(cache) == expected
        both = LavaCache(model.config, budget=20, policy=policy, window=WINDOW)
        model(padded, attention_mask=(padded != 0).long(), past_key_values=both)
        assert kept(both) == expected
    assert not [hook for module in model.modules() for hook in module._forward_pre_hooks]
    runner, variants = (
        PromptRunner(model, ids),
        [Variant(policy, budget=20, window=WINDOW), Variant("lava", budget=20, window=WINDOW)],
    )
    rows = runner.fill(variants)
    assert kept(rows, 0) == expected
    assert kept(rows, 1) != expected
    assert kept(PromptRunner(model, torch.cat([ids, prompt(9)], dim=1)).prefix(60).fill(variants[:1])) == expected


def _scores(kind: str, tensors: dict[str, Tensor], index: int, states: Tensor) -> Tensor:
    """Of one layer, `[H, tokens]`."""
    start = f"layers.{index}."
    own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    if kind == "linear":
        return (states @ own["weight"].T + own["bias"]).T
    if kind == "two layers":
        width = torch.nn.functional.gelu(states @ own["0.weight"].T + own["0.bias"])
        return (width @ own["2.weight"].T + own["2.bias"]).T
    shares = _shares(states, own)
    shares[:, :4] = torch.tensor([4.0, 3, 2, 1]) + 1
    return shares


def _shares(states: Tensor, gate: dict[str, Tensor]) -> Tensor:
    """As the authors' formula has them, `[H, tokens]`."""

    def normed(vectors: Tensor, weight: Tensor) -> Tensor:
        return vectors / (vectors.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight

    tokens = len(states)
    queries = normed(
        (states @ gate["q_proj.weight"].T + gate["q_proj.bias"]).view(tokens, HEADS, -1, DIM), gate["q_norm.weight"]
    )
    keys = normed((states @ gate["k_proj.weight"].T).view(tokens, HEADS, 1, DIM), gate["k_norm.weight"])
    own = (queries * keys).sum(dim=-1).permute(1, 0, 2) / DIM**0.5 + gate["b"]
    others = torch.einsum("thgd,hsd->htgs", queries, gate["k_base"][:, 0]) / DIM**0.5
    return (1 / (1 + (others - own[..., None]).exp().sum(dim=-1))).mean(dim=-1)


def test_the_policy_says_what_it_is(tmp_path: Path) -> None:
    for policy in (kvzap(saved(linear_tensors(), tmp_path)), fast_kvzip(saved(fast_tensors(), tmp_path))):
        assert policy.trained
        assert policy.needs == ("hidden_states",)
        assert policy.sees_question is False
        assert "gates.safetensors" in policy.summary
    assert "linear" in kvzap(saved(linear_tensors(), tmp_path)).summary
    assert "two-layer" in kvzap(saved(mlp_tensors(), tmp_path)).summary


def test_a_folder_and_half_precision_are_read(tmp_path: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in mlp_tensors().items()}
    saved(tensors, tmp_path, "model.safetensors")
    states = torch.randn(20, HIDDEN)
    keys = torch.zeros(HEADS, 20, 2)
    window = ScoringWindow(torch.zeros(HEADS, 1, 3, 2), [keys], [keys], 1.0, hidden_states=states)
    exact = kvzap(saved({name: tensor.float() for name, tensor in tensors.items()}, tmp_path))
    assert torch.equal(policy_scores(kvzap(tmp_path), window), policy_scores(exact, window))


def _damaged(kind: str, path: Path) -> Path:
    if kind == "missing":
        return path / "nowhere.safetensors"
    whole = saved(linear_tensors(), path)
    if kind == "cut":
        whole.write_bytes(whole.read_bytes()[:-40])
    elif kind == "pickled":
        whole.write_bytes(pickle.dumps({"layers.0.weight": [1.0]}))
    elif kind == "empty":
        whole.write_bytes(b"")
    return path if kind == "folder" else whole


@pytest.mark.parametrize("kind", ["missing", "cut", "pickled", "empty", "folder"])
@pytest.mark.parametrize("load", [kvzap, fast_kvzip])
def test_a_file_that_cannot_be_read_is_named(load, kind: str, tmp_path: Path) -> None:
    place = _damaged(kind, tmp_path)
    with pytest.raises(PolicyError, match=r"gates .*: expected a safetensors file") as caught:
        load(place)
    assert_all_parts(caught.value)
    assert str(place) in caught.value.argument


def _changed(tensors: dict[str, Tensor], name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    changed = {**tensors, name: torch.zeros(1) if tensor is None else tensor}
    if tensor is None:
        del changed[name]
    return changed


@pytest.mark.parametrize(
    ("load", "tensors", "name", "tensor"),
    [
        (kvzap, linear_tensors(), "layers.1.bias", None),
        (kvzap, linear_tensors(), "layers.1.more", torch.ones(2)),
        (kvzap, linear_tensors(), "layers.4.weight", torch.ones(2, 32)),
        (kvzap, linear_tensors(), "layers.1.weight", torch.ones(2, 31)),
        (kvzap, linear_tensors(), "layers.1.weight", torch.ones(2)),
        (kvzap, linear_tensors(), "layers.0.weight", torch.ones(0, 32)),
        (kvzap, linear_tensors(), "layers.1.bias", torch.ones(3)),
        (kvzap, linear_tensors(), "layers.1.bias", torch.ones(2, dtype=torch.int64)),
        (kvzap, linear_tensors(), "layers.1.bias", torch.tensor([1.0, torch.nan])),
        (kvzap, linear_tensors(), "layers.2.weight", torch.full((2, 32), torch.inf)),
        (kvzap, mlp_tensors(), "layers.1.0.bias", torch.ones(4)),
        (kvzap, mlp_tensors(), "layers.1.0.weight", torch.ones(4, 32)),
        (kvzap, mlp_tensors(), "layers.2.0.weight", torch.ones(5, 31)),
        (kvzap, mlp_tensors(), "layers.2.2.weight", None),
        (kvzap, fast_tensors(), "layers.0.k_base", torch.ones(2, 1, 3, 4)),
        (kvzap, {}, "weight", torch.ones(2)),
        (fast_kvzip, linear_tensors(), "layers.0.bias", torch.ones(2)),
        (fast_kvzip, fast_tensors(), "layers.0.k_base", torch.ones(2, 3, 4)),
        (fast_kvzip, fast_tensors(), "layers.1.k_base", torch.ones(3, 1, 3, 4)),
        (fast_kvzip, fast_tensors(), "layers.1.b", torch.ones(2, 2)),
        (fast_kvzip, fast_tensors(), "layers.1.b", torch.tensor(1.0)),
        (fast_kvzip, fast_tensors(), "layers.1.k_norm.weight", torch.ones(5)),
        (fast_kvzip, fast_tensors(), "layers.1.q_proj.bias", torch.ones(15)),
        (fast_kvzip, fast_tensors(), "layers.1.k_proj.weight", torch.ones(8, 31)),
        (fast_kvzip, fast_tensors(), "layers.1.q_norm.weight", None),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(load, tensors, name: str, tensor: Tensor | None, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"of gates .*gates.safetensors: expected ") as caught:
        load(saved(_changed(tensors, name, tensor), tmp_path))
    assert_all_parts(caught.value)


@pytest.mark.parametrize(
    ("overrides", "got"),
    [
        ({"num_hidden_layers": 4}, "a llama of 4, 2 and 32"),
        ({"num_key_value_heads": 4}, "a llama of 3, 4 and 32"),
        ({"hidden_size": 64}, "a llama of 3, 2 and 64"),
    ],
)
def test_another_model_is_refused_before_anything_runs(overrides: dict[str, int], got: str, tmp_path: Path) -> None:
    policy, model = kvzap(saved(linear_tensors(), tmp_path)), tiny("llama", **overrides)
    with pytest.raises(PolicyError, match=r"policy 'kvzap' with gates gates.safetensors: expected the model") as caught:
        LavaCache(model.config, budget=20, policy=policy)
    assert_all_parts(caught.value, got=got)
    variants = [Variant("lava", budget=20), Variant(policy, budget=20)]
    with pytest.raises(PolicyError, match="expected the model that they were trained on"):
        PromptRunner(model, prompt(60)).fill(variants)


def test_layers_with_sliding_windows_need_no_gate_that_is_used(tmp_path: Path) -> None:
    """The file has one for every layer of the model, those of full attention count."""
    policy, model = kvzap(saved(linear_tensors(layers=6), tmp_path)), tiny("gemma3_text")
    cache = LavaCache(model.config, budget=20, policy=policy, window=WINDOW)
    with lavakv.enabled(model), torch.no_grad():
        model(prompt(60), past_key_values=cache)
    assert cache.layer_indices == (1, 3, 5)
    assert int(cache.budgets().layer_entries.sum()) == 20 * 6


def test_what_an_attention_is_given_must_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, model = kvzap(saved(linear_tensors(), tmp_path)), tiny("llama")
    cache = LavaCache(model.config, budget=20, policy=policy, window=WINDOW)
    monkeypatch.setattr(cache, "note_attention_inputs", lambda _: None)
    with lavakv.enabled(model), torch.no_grad(), pytest.raises(PolicyError, match="'kvzap' at layer 0") as caught:
        model(prompt(60), past_key_values=cache)
    assert_all_parts(caught.value, got="none")


def test_caches_with_gates_can_be_copied(tmp_path: Path) -> None:
    policy, model = kvzap(saved(linear_tensors(), tmp_path)), tiny("llama")
    cache = LavaCache(model.config, budget=20, policy=replace(policy, name="mine"), window=WINDOW)
    with lavakv.enabled(model), torch.no_grad():
        model(prompt(60), past_key_values=cache)
        twin = copy.deepcopy(cache)
        pickle.loads(pickle.dumps(cache))
        assert torch.equal(
            model(prompt(1), past_key_values=cache).logits, model(prompt(1), past_key_values=twin).logits
        )
