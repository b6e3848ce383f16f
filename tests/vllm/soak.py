"""Random requests of many clients against `lavakv serve`, in a pool so small that some are preempted.

    .venv-vllm/bin/python -m tests.vllm.soak [REQUESTS] [--stock]

Random lengths, budgets and answers; a tenth of the clients go away in the middle. Afterwards a sample is asked again,
one at a time, and must get the same text; requests must have been preempted, and the pool must be empty. A thousand
requests or more must also make the server's processes grow less in the second half than between the first tenth and the
middle, where a leak would make them grow more. `--stock` does the same with vLLM alone, to compare with.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from tests.vllm.model import make_model, prompt
from tests.vllm.server import Server

_CLIENTS, _PARTS = 12, 10


class Case(NamedTuple):
    """One request.

    Attributes:
        length: tokens of its prompt.
        seed: of the prompt.
        count: tokens to generate.
        extra: its own budget, if any.
        leaves: whether its client goes away after the first tokens.
    """

    length: int
    seed: int
    count: int
    extra: dict[str, Any]
    leaves: bool


class Found(NamedTuple):
    """What became of the requests.

    Attributes:
        wrong: those whose text differs when asked again alone.
        asked_again: how many were.
        gone: clients that went away.
        preempted: how often a request lost its blocks to another one.
        megabytes: resident memory of each of the server's processes after each tenth of the requests.
    """

    wrong: list[Case]
    asked_again: int
    gone: int
    preempted: int
    megabytes: list[dict[str, float]]


def cases(count: int, seed: int = 0) -> list[Case]:
    """Random requests."""
    draw = random.Random(seed)
    extras = [{}, {}, {"lavakv_keep": 0.1}, {"lavakv_keep": 0.5}, {"lavakv_keep": 1}, {"lavakv_budget": 48}]
    return [
        Case(draw.randrange(5, 900), draw.randrange(1 << 20), draw.randrange(1, 300), draw.choice(extras),
             draw.random() < 0.1)
        for _ in range(count)
    ]  # fmt: skip


def soak(server: Server, count: int) -> Found:
    """Send random requests, twelve at a time."""
    asked, texts, megabytes = cases(count), [], []
    before = server.metric("vllm:num_preemptions_total")
    with ThreadPoolExecutor(_CLIENTS) as pool:
        for done, text in enumerate(pool.map(partial(_ask, server), asked), 1):
            texts.append(text)
            if done * _PARTS // count > len(megabytes):
                megabytes.append(_megabytes(server))
    preempted = server.metric("vllm:num_preemptions_total") - before
    stayed = [(case, text) for case, text in zip(asked, texts, strict=True) if not case.leaves]
    sample = random.Random(1).sample(stayed, max(25, len(stayed) // 10))
    wrong = [case for case, text in sample if _ask(server, case) != text]
    return Found(wrong, len(sample), len(asked) - len(stayed), int(preempted), megabytes)


def _ask(server: Server, case: Case) -> str | None:
    tokens = prompt(case.length, case.seed)
    if not case.leaves:
        return server.complete(tokens, case.count, **case.extra)
    body = {"model": "small", "prompt": tokens, "max_tokens": 200, "stream": True, "ignore_eos": True}
    headers = {"Authorization": "Bearer secret"}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, headers=headers, timeout=120) as answer:
        next(answer.iter_lines())
    return None


def _megabytes(server: Server) -> dict[str, float]:
    """Resident memory of the server's processes, in MiB, by name."""
    top = psutil.Process(server.process.pid)
    return {f"{one.name()} {one.pid}": one.memory_info().rss / 2**20 for one in (top, *top.children(recursive=True))}


def _leaks(megabytes: list[dict[str, float]]) -> bool:
    """Whether memory grew as evenly as by a leak."""
    first, middle, last = (sum(megabytes[part].values()) for part in (0, _PARTS // 2 - 1, _PARTS - 1))
    return last - middle > middle - first


def main() -> None:
    """Run it by itself."""
    stock, numbers = "--stock" in sys.argv, [int(word) for word in sys.argv[1:] if word.isdigit()]
    count = numbers[0] if numbers else 1000
    with tempfile.TemporaryDirectory() as folder:
        server = Server(make_model(Path(folder) / "model"), Path(folder) / "log", stock)
        begun = time.monotonic()
        found = soak(server, count)
        seconds = time.monotonic() - begun
        evicted = 0 if stock else server.metric("lavakv:prompts_evicted_total")
        server.wait_until_idle()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(60)
    print(f"{count} requests in {seconds:.0f} s, {found.gone} clients gone, {evicted:.0f} prompts evicted,")
    print(f"{found.preempted} preemptions, exit code {code}")
    for name in found.megabytes[0]:
        print(name, "MiB", [round(tenth.get(name, 0)) for tenth in found.megabytes])
    print(f"texts that differ when asked alone: {len(found.wrong)} of {found.asked_again} {found.wrong}")
    leaks = count >= 1000 and _leaks(found.megabytes)
    sys.exit(bool(found.wrong) or (code != 0 and not stock) or not found.preempted or leaks)


if __name__ == "__main__":
    main()
