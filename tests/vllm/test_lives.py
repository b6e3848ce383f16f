"""Requests that come, are preempted, aborted and done with: blocks are given back, and texts do not change."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from vllm.v1.request import Request, RequestStatus

from lavakv.budgets.pages import block_counts, blocks_for
from tests.vllm.engine import BLOCKS, KEEP, PAGE, WINDOW
from tests.vllm.model import NAN_TOKEN, NUM_HEADS, NUM_LAYERS, prompt

STOCK = Path(__file__).with_name("stock.py")
PROMPTS = [(777, 0), (600, 1), (1500, 2), (512, 3), (90, 4)]


def counts(length: int):
    return block_counts(length, max(round(KEEP * length), WINDOW + 1), [NUM_HEADS] * NUM_LAYERS, WINDOW, PAGE)


@pytest.fixture(scope="module")
def undisturbed(engine) -> list[list[int]]:
    return [engine.generate([prompt(*one)], count=40)[0].tokens for one in PROMPTS]


def require_sound(engine) -> None:
    """No page twice, none outside the blocks that the scheduler counts as the request's, none shared."""
    state, held = engine.state, engine.held_blocks()
    first, heads = state.pages.first_pages.tolist(), state.pages.num_heads
    seen: set[int] = set()
    for full_name, evicted in state._evicted.items():
        name = full_name.rsplit("-", 1)[0]
        if name not in held or not held[name]:
            continue  # preempted, or just finished
        pages = state.head_pages.pages(evicted.row).tolist()
        own = {start + block * heads + head for start in first for block in held[name] for head in range(heads)}
        assert len(set(pages)) == len(pages)
        assert set(pages) <= own
        assert not set(pages) & seen
        seen |= set(pages)


def test_blocks_held_after_the_prompt_are_those_of_the_arithmetic(engine) -> None:
    name = engine.add(prompt(777, 0), 40)
    engine.step()
    assert len(engine.held_blocks()[name]) == counts(777).prompt
    for generated in range(1, 36):
        engine.step()
        more = blocks_for(777 + generated, PAGE) - blocks_for(777, PAGE)
        assert len(engine.held_blocks()[name]) == counts(777).kept + more
        require_sound(engine)
    engine.run()
    assert engine.is_empty
    assert counts(777).freed > 10


def test_preemption_at_any_time_changes_no_text(engine, undisturbed) -> None:
    """In the middle of prompts, in the step after them, while generating, and twice in a row."""
    names = [engine.add(prompt(*one), 40) for one in PROMPTS]
    done = {}
    with engine.chunks(700):
        for step in range(400):
            if step in (2, 5, 7, 8, 25, 40):
                assert engine.scheduler.reset_prefix_cache(reset_running_requests=True)
            done |= engine.step()
            require_sound(engine)
            if not engine.llm.llm_engine.has_unfinished_requests():
                break
    found = engine.run(done)
    assert [found[name].tokens for name in names] == undisturbed
    assert engine.is_empty


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_aborts_leave_the_others_alone(steps, engine, undisturbed) -> None:
    """While prompts are read in chunks, and while answers are generated."""
    with engine.chunks(600):
        names = [engine.add(prompt(*one), 40) for one in PROMPTS]
        done = {}
        for _ in range(steps):
            done |= engine.step()
        gone = [names[2], names[0]]
        engine.llm.llm_engine.abort_request(gone)
        found = engine.run(done)
    for name, expected in zip(names, undisturbed, strict=True):
        if name not in gone:
            assert found[name].tokens == expected
    assert engine.is_empty
    assert engine.generate([prompt(*PROMPTS[2])], count=40)[0].tokens == undisturbed[2]


def test_many_random_lives_leak_nothing(engine) -> None:
    """Random lengths, budgets, aborts and preemptions; a sample of texts is repeated alone."""
    draw, names, done, asked = random.Random(0), [], {}, {}
    for _ in range(150):
        if draw.random() < 0.7:
            length, seed, count = draw.randrange(5, 700), draw.randrange(1000), draw.randrange(1, 20)
            extra = draw.choice([{}, {"lavakv_keep": draw.choice([0.1, 0.5, 1])}, {"lavakv_budget": 40}])
            names.append(engine.add(prompt(length, seed), count, **extra))
            asked[names[-1]] = prompt(length, seed), count, extra
        if names and draw.random() < 0.1:
            engine.llm.llm_engine.abort_request([draw.choice(names)])
        if draw.random() < 0.04:
            engine.scheduler.reset_prefix_cache(reset_running_requests=True)
        with engine.chunks(draw.choice([100, 500, 4096])):
            done |= engine.step()
        require_sound(engine)
    found = engine.run(done)
    assert len(found) > 60
    assert engine.is_empty
    engine.generate([prompt(50, 0)], count=2)  # the next step forgets what is finished
    assert len(engine.state._plans) <= 1
    assert engine.state._evicted == {}
    assert engine.state._reading == {}
    for name in draw.sample(sorted(found), 12):
        tokens, count, extra = asked[name]
        assert engine.generate([tokens], count=count, **extra)[0].tokens == found[name].tokens


def test_a_prompt_whose_scores_are_nan_fails_alone(engine, undisturbed) -> None:
    """Read beside others, in one piece and in chunks."""
    broken = [NAN_TOKEN, *prompt(700, 6)]
    for tokens in (4096, 600):
        with engine.chunks(tokens):
            names = [engine.add(prompt(*PROMPTS[0]), 40), engine.add(broken, 40), engine.add(prompt(*PROMPTS[1]), 40)]
            found = {}
            while engine.llm.llm_engine.has_unfinished_requests():
                found |= engine.step()
                require_sound(engine)
        reasons = [found[name].outputs[0].finish_reason for name in names]
        assert reasons == ["length", "error", "length"]
        assert list(found[names[1]].outputs[0].token_ids) == []
        for name, expected in ((names[0], undisturbed[0]), (names[2], undisturbed[1])):
            assert list(found[name].outputs[0].token_ids) == expected
        assert engine.is_empty
    engine.generate([prompt(50, 0)], count=2)  # the next step forgets what is finished
    assert (engine.state._reading, engine.state._evicted, engine.state._failed) == ({}, {}, {})


def test_a_session_whose_input_comes_in_parts_is_kept_whole(engine) -> None:
    """Its prompt grows when the next part comes, so it cannot be evicted at its end."""
    held = []
    for name, resumable in (("once", False), ("session", True)):
        params = engine.sampling(8, lavakv_budget=100)
        engine.core.add_request(Request(name, prompt(600, 1), params, None, resumable=resumable))
        for _ in range(3):
            engine.core.step()
        held.append(len(engine.held_blocks()[name]))
        engine.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)
    assert held[1] == blocks_for(600, PAGE)
    assert held[0] < held[1] / 2
    engine.generate([prompt(20, 1)], count=1)
    assert engine.is_empty


@pytest.fixture(scope="module")
def stock(model_folder, tmp_path_factory) -> dict:
    """A vLLM without our arguments in the same environment: answers, and how it fares in a small pool."""
    out = tmp_path_factory.mktemp("stock") / "stock.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, str(STOCK), str(model_folder), str(out)], env=environment, check=True)
    return json.loads(out.read_text())


def test_below_the_budget_a_request_is_bitwise_as_in_stock_vllm(engine, stock) -> None:
    """Alone, and beside requests that are evicted."""
    alone = engine.generate([prompt(90, 4)], count=40, lavakv_budget=96)[0]
    name = engine.add(prompt(90, 4), 40, lavakv_budget=96)
    others = [engine.add(prompt(*one), 40) for one in PROMPTS[:4]]
    found = engine.run()
    assert others[0] in found
    for got in (alone, found[name]):
        assert got.kept is None
        assert got.tokens == stock["tokens"]
        assert got.logprobs == stock["logprobs"]


def test_without_our_arguments_nothing_of_lavakv_is_loaded(stock) -> None:
    assert stock["loaded"] == []


def test_a_small_pool_runs_more_requests_at_once_than_stock(engine, stock) -> None:
    """Counted in steps, not timed: 45 blocks, six requests of 510 tokens that generate 96."""
    pool = engine.scheduler.kv_cache_manager.block_pool
    taken = pool.get_new_blocks(BLOCKS - 1 - 45)
    names = [engine.add(prompt(510, 20 + index), 96, lavakv_budget=96) for index in range(6)]
    steps, most, done = 0, 0, {}
    while engine.llm.llm_engine.has_unfinished_requests():
        done |= engine.step()
        steps, most = steps + 1, max(most, len(engine.scheduler.running))
    pool.free_blocks(taken)
    assert engine.is_empty
    assert set(done) == set(names)
    assert stock["most_running"] == 2
    assert most == 6
    assert steps < stock["steps"] / 2
