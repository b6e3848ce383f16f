"""`lavakv serve` with a small model: what other people's clients see."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.vllm.model import NAN_TOKEN, NUM_HEADS, NUM_LAYERS, prompt
from tests.vllm.server import BLOCKS
from tests.vllm.soak import soak


@pytest.fixture(scope="module")
def alone(server) -> list[str]:
    return [server.complete(prompt(length, length), 30) for length in (300, 420, 555, 610, 700, 40)]


def test_many_clients_at_once_get_what_each_gets_alone(server, alone) -> None:
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(server.complete, prompt(length, length), 30) for length in (300, 420, 555, 610, 700, 40)]
        assert [one.result() for one in asked] == alone
    server.wait_until_idle()


def test_the_answer_is_that_of_the_engine_in_python(server, engine) -> None:
    """One process and prompts in one piece there, three processes and chunks of 256 here."""
    expected = engine.generate([prompt(555, 555)], count=30)[0].tokens
    words = [f"w{token}" for token in expected if token != 2]  # the text leaves out the token that ends it
    assert server.complete(prompt(555, 555), 30).split() == words


def test_usage_falls_after_the_prompt_and_metrics_say_by_how_much(server) -> None:
    server.wait_until_idle()
    prompts, blocks = server.metric("lavakv:prompts_evicted_total"), server.metric("lavakv:kv_blocks_freed_total")
    tokens, seen = prompt(1000, 1), []
    body = {"model": "small", "prompt": tokens, "max_tokens": 900, "temperature": 0, "stream": True, "ignore_eos": True}
    headers = {"Authorization": "Bearer secret"}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, headers=headers, timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {") and len(seen) < 5:
                assert "error" not in json.loads(line.removeprefix("data: "))
                seen.append((server.metric("vllm:kv_cache_usage_perc"), server.metric("lavakv:kv_entries_held")))
    assert server.metric("lavakv:prompts_evicted_total") == prompts + 1
    freed = server.metric("lavakv:kv_blocks_freed_total") - blocks
    assert freed > 20
    usage, entries = seen[-1]
    per_token = NUM_LAYERS * NUM_HEADS
    generated = entries / per_token - 250  # a quarter of the prompt is held
    assert 0 <= generated < 900
    assert usage <= (32 - freed + generated / 32 + 1) / (BLOCKS - 1), (
        "32 blocks of a prompt, of which that many are given back"
    )
    server.wait_until_idle()


def test_clients_that_go_away_leave_nothing_behind(server, alone) -> None:
    """In the middle of a prompt, and of an answer."""
    headers = {"Authorization": "Bearer secret"}
    body = {"model": "small", "prompt": prompt(1900, 2), "max_tokens": 100, "stream": True, "ignore_eos": True}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json=body | {"stream": False}, headers=headers, timeout=0.05)
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, headers=headers, timeout=60) as answer:
        next(answer.iter_lines())
    assert server.complete(prompt(420, 420), 30) == alone[1]
    server.wait_until_idle()


def test_requests_with_budgets_of_their_own(server, alone) -> None:
    tokens = prompt(555, 555)
    assert server.complete(tokens, 30, lavakv_keep=0.25) == alone[2]
    full = server.complete(tokens, 30, lavakv_keep=1)
    assert full == server.complete(tokens, 30, lavakv_budget=5000), "a budget above the prompt keeps all of it"
    assert full != alone[2]


@pytest.mark.parametrize(
    "extra",
    [
        {"lavakv_keep": "half"}, {"lavakv_keep": 2}, {"lavakv_keep": 0}, {"lavakv_budget": 16}, {"lavakv_budget": -3},
        {"lavakv_budget": 40.5}, {"lavakv_keep": 0.5, "lavakv_budget": 64}, {"lavakv_policy": "snapkv"},
    ],
)  # fmt: skip
def test_bad_budgets_are_http_400_by_name_and_hurt_nobody(extra, server, alone) -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(server.complete, prompt(420, 420), 30)
        with pytest.raises(openai.BadRequestError, match=next(iter(extra))):
            server.complete(prompt(300, 300), 5, **extra)
        assert other.result() == alone[1]
    assert server.is_healthy()


def test_a_prompt_that_cannot_be_evicted_is_http_500_and_hurts_nobody(server, alone) -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(server.complete, prompt(420, 420), 30)
        with pytest.raises(openai.InternalServerError):
            server.complete([NAN_TOKEN, *prompt(600, 5)], 5)
        assert other.result() == alone[1]
    assert re.search(r"request \S+ fails alone, .*'lava' at layer", server.log.read_text())
    server.wait_until_idle()


def test_random_requests_of_many_clients_leak_nothing(server) -> None:
    """`python -m tests.vllm.soak` runs more of them."""
    found = soak(server, 60)
    assert found.wrong == []
    assert found.gone > 0
    assert found.preempted > 0
    server.wait_until_idle()


def test_the_chat_endpoint(server) -> None:
    words = " ".join(f"w{token}" for token in prompt(600, 8))

    def ask(**extra: Any) -> str:
        made = server.client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": words}], max_tokens=8, temperature=0,
            extra_body={"vllm_xargs": extra} if extra else None,
        )  # fmt: skip
        return made.choices[0].message.content

    assert ask() == ask(lavakv_keep=0.25)
    with pytest.raises(openai.BadRequestError, match="lavakv_budget"):
        ask(lavakv_budget=3)


def test_it_listens_on_this_machine_only_and_asks_for_the_key(server) -> None:
    assert "127.0.0.1" in server.log.read_text()
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()


def test_the_log_says_what_was_evicted(server, alone) -> None:
    assert re.search(r"lavakv: \d+ prompts evicted and \d+ KV cache blocks given back", server.log.read_text())


def test_a_second_server_on_the_port_is_refused_at_once(server, model_folder) -> None:
    port = server.url.rsplit(":", 1)[1]
    command = [sys.executable, "-c", "from lavakv.cli.main import main; main()", "serve", str(model_folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, "--", "--port", port], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert done.stderr.count("\n") == 1
