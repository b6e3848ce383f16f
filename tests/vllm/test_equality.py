"""The same as `LavaCache`: kept positions, greedy text, log probabilities."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

import lavakv
from lavakv.policy.builtin import FAMILY
from lavakv.selection.select import select
from lavakv.vllm.checks import check_policy
from tests.oracle.reference import masked_greedy, survivors
from tests.vllm.engine import KEEP, PAGE, WINDOW, captured
from tests.vllm.model import NUM_HEADS, NUM_LAYERS, Answer, as_lists, differing, prompt, reference

LENGTHS = (777, 600, 1500, 512)


def allowed(name: str) -> bool:
    try:
        check_policy(FAMILY[name], is_eager=True)
    except lavakv.UnsupportedError:
        return False
    return True


ALLOWED = [name for name in FAMILY if allowed(name)]


def require_same(got: Answer, expected: Answer, ties: float = 0.001) -> None:
    """Positions but for near ties, text, and log probabilities unless a tie was lost."""
    assert got.kept is not None
    assert expected.kept is not None
    wrong, total = differing(got.kept, expected.kept)
    assert wrong <= ties * total
    assert got.tokens == expected.tokens
    if wrong == 0:
        assert max(abs(one - other) for one, other in zip(got.logprobs, expected.logprobs, strict=True)) < 1e-4


@pytest.fixture(scope="module")
def alone(engine) -> list[Answer]:
    """Each prompt by itself, in one piece."""
    return [engine.generate([prompt(length, seed)])[0] for seed, length in enumerate(LENGTHS)]


def test_prompts_alone_keep_what_lavacache_keeps(alone, hf_model) -> None:
    for seed, (length, got) in enumerate(zip(LENGTHS, alone, strict=True)):
        require_same(got, reference(hf_model, prompt(length, seed), got.tokens, keep=KEEP, window=WINDOW))


def test_the_budget_is_exact_and_heads_are_uneven(alone) -> None:
    for length, got in zip(LENGTHS, alone, strict=True):
        counts = torch.tensor([[len(head) for head in layer] for layer in got.kept])
        assert int(counts.sum()) == round(KEEP * length) * NUM_LAYERS * NUM_HEADS
        assert int(counts.max()) > int(counts.min()), "a model whose heads are all alike tests nothing"


@pytest.mark.parametrize("tokens", [4096, 250, 100])
def test_batches_and_chunks_change_nothing(tokens, engine, alone) -> None:
    """Prompts of all lengths at once, and one below its budget beside them; some chunks cut the window."""
    prompts = [prompt(length, seed) for seed, length in enumerate(LENGTHS)]
    with engine.chunks(tokens):
        found = engine.generate([*prompts, prompt(20, 9)])
    assert found[-1].kept is None
    for got, expected in zip(found, alone, strict=False):
        require_same(got, expected)
    assert engine.is_empty


def test_with_the_same_scores_the_core_keeps_the_same(engine, alone) -> None:
    """Bit for bit: the scores that the worker had, ranked by the core's own two calls."""
    (got,) = engine.generate([prompt(777, 0)])
    name = next(reversed(engine.prompts))
    read = engine.prompts[name]
    again = select("lava", read.scores, read.plan.tokens_per_head, WINDOW)
    assert all(map(torch.equal, again.flat_positions, engine.evicted[name].flat_positions))
    assert got.tokens == alone[0].tokens


def test_of_the_same_queries_and_keys_a_reference_apart_from_lavakv_keeps_the_same(engine) -> None:
    with engine.chunks(250), captured() as captures:
        (got,) = engine.generate([prompt(777, 0)])
    assert as_lists(got.kept) == survivors(captures, round(KEEP * 777), WINDOW)


def test_answers_are_those_of_full_attention_under_a_mask(alone, hf_model, model_folder) -> None:
    """No pages: transformers' own cache of all entries, under a mask of what the engine kept, and the masked store."""
    plain = LlamaForCausalLM.from_pretrained(model_folder).eval()
    for seed, (length, got) in enumerate(zip(LENGTHS, alone, strict=True)):
        tokens = prompt(length, seed)
        text = masked_greedy(plain, torch.tensor([tokens]), as_lists(got.kept), len(got.tokens))
        assert text[0].tolist() == got.tokens
        require_same(got, reference(hf_model, tokens, got.tokens, store="masked", keep=KEEP, window=WINDOW))


def test_a_prompt_just_above_its_budget_is_kept_whole(engine, hf_model) -> None:
    """No block could be given back, so nothing is evicted; the answer is the full cache's."""
    tokens = prompt(130, 3)
    (got,) = engine.generate([tokens], lavakv_budget=128 - PAGE // 2)
    assert got.kept is None
    expected = reference(hf_model, tokens, got.tokens)
    assert got.tokens == expected.tokens
    assert max(abs(one - other) for one, other in zip(got.logprobs, expected.logprobs, strict=True)) < 1e-4


def test_requests_with_budgets_of_their_own(engine, hf_model) -> None:
    tokens = prompt(600, 1)
    inputs = [{"prompt_token_ids": tokens}] * 3
    extras = ({"lavakv_keep": 0.5}, {"lavakv_budget": 100}, {"lavakv_keep": 1})
    results = engine.llm.generate(inputs, [engine.sampling(12, **extra) for extra in extras], use_tqdm=False)
    kept = [engine.evicted.get(result.request_id) for result in results]
    total = NUM_LAYERS * NUM_HEADS
    assert [None if one is None else int(one.counts.sum()) for one in kept] == [300 * total, 100 * total, None]


def test_in_bfloat16_only_rounding_differs(model_folder, tmp_path) -> None:
    """Of the same scores, and of the same queries and keys, the same is kept; from end to end within twice what two
    attentions of PyTorch differ by.

    Rounding in bfloat16 decides many ties of this model, whose weights are random.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    script, out = Path(__file__).with_name("bfloat16.py"), tmp_path / "kept.pt"
    subprocess.run([sys.executable, str(script), str(model_folder), str(out)], env=environment, check=True)
    made = torch.load(out)
    assert made["is_empty"]
    assert made["kernels"] == {"vec"}, "not those that vLLM chose"
    assert made["together"] == [tokens for _, tokens, _ in made["found"]]
    models = [
        LlamaForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16, attn_implementation=name).eval()
        for name in ("sdpa", "eager")
    ]
    for model in models:
        lavakv.enable(model)
    for (kept, _, same), one in zip(made["found"], ((777, 0), (600, 1)), strict=True):
        assert same
        ours, others = (reference(model, prompt(*one), [5], keep=KEEP, window=WINDOW).kept for model in models)
        (between, _), (wrong, _) = differing(ours, others), differing(kept, ours)
        assert wrong <= 2 * between


@pytest.fixture(scope="module")
def eager_model(model_folder) -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(model_folder, attn_implementation="eager").eval()
    lavakv.enable(model)
    return model


@pytest.mark.parametrize("name", ALLOWED)
def test_every_policy_that_needs_no_replay(name, engine, hf_model, eager_model) -> None:
    """Near ties, or twice what two attentions of PyTorch differ by: `residual-far` subtracts what is nearly equal."""
    tokens = prompt(600, 1)
    with engine.policy(name):
        (got,) = engine.generate([tokens], count=6)
    chosen = {"policy": name, "keep": KEEP, "window": WINDOW}
    expected, other = (reference(model, tokens, got.tokens, **chosen) for model in (hf_model, eager_model))
    assert expected.kept is not None
    assert other.kept is not None
    between, total = differing(expected.kept, other.kept)
    assert got.kept is not None
    if between == 0:
        require_same(got, expected)
    else:  # then texts may differ as well
        assert differing(got.kept, expected.kept)[0] <= max(0.001 * total, 2 * between)


def test_enough_policies_are_allowed() -> None:
    assert {"lava", "snapkv", "pyramidkv", "ada-snapkv", "cake", "vatp", "tova", "caote", "dropkv"} <= set(ALLOWED)
    assert {"residual", "residual-max", "criticalkv", "layer-defensivekv", "laprox"} <= set(ALLOWED)
    assert {"residual-far", "h2o", "reach", "reach-question", "expected-attention", "compactor"} <= set(ALLOWED)
    assert not {"kvzip", "kvzip+"} & set(ALLOWED)


@pytest.mark.parametrize("name", ["reach", "reach-question", "h2o", "compactor"])
@pytest.mark.parametrize("tokens", [250, 96])
def test_policies_that_need_all_queries_gather_them_over_chunks(name, tokens, engine) -> None:
    """Several prompts at once, whose last chunk may hold a part of the window."""
    prompts = [prompt(length, seed) for seed, length in enumerate(LENGTHS)]
    with engine.policy(name):
        expected = [engine.generate([each])[0] for each in prompts]
        with engine.chunks(tokens):
            found = engine.generate(prompts)
    for got, alone in zip(found, expected, strict=True):
        require_same(got, alone)
    assert engine.is_empty
