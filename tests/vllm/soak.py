"""Random requests of many clients against `lavakv serve`, in a pool so small that some are preempted.

    .venv-vllm/bin/python -m tests.vllm.soak [REQUESTS]

Random lengths, budgets and answers; a tenth of the clients go away in the middle. Afterwards a sample is asked again,
one at a time, and must get the same text; the pool must be empty, and the memory of the server's processes flat.
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

_SAMPLE = 25


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
        gone: clients that went away.
        megabytes: resident memory of the server's processes after each quarter.
    """

    wrong: list[Case]
    gone: int
    megabytes: list[float]


def cases(count: int, seed: int = 0) -> list[Case]:
    """Random requests."""
    draw = random.Random(seed)
    extras = [{}, {}, {"lavakv_keep": 0.1}, {"lavakv_keep": 0.5}, {"lavakv_keep": 1}, {"lavakv_budget": 48}]
    return [
        Case(draw.randrange(5, 900), draw.randrange(1 << 20), draw.randrange(1, 60), draw.choice(extras),
             draw.random() < 0.1)
        for _ in range(count)
    ]  # fmt: skip


def soak(server: Server, count: int) -> Found:
    """Send random requests, eight at a time."""
    asked, texts, megabytes = cases(count), [], []
    for quarter in range(4):
        part = asked[quarter * count // 4 : (quarter + 1) * count // 4]
        with ThreadPoolExecutor(8) as pool:
            texts += pool.map(partial(_ask, server), part)
        megabytes.append(_megabytes(server))
    stayed = [(case, text) for case, text in zip(asked, texts, strict=True) if not case.leaves]
    sample = random.Random(1).sample(stayed, min(_SAMPLE, len(stayed)))
    wrong = [case for case, text in sample if _ask(server, case) != text]
    return Found(wrong, len(asked) - len(stayed), megabytes)


def _ask(server: Server, case: Case) -> str | None:
    tokens = prompt(case.length, case.seed)
    if not case.leaves:
        return server.complete(tokens, case.count, **case.extra)
    body = {"model": "small", "prompt": tokens, "max_tokens": 200, "stream": True, "ignore_eos": True}
    headers = {"Authorization": "Bearer secret"}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, headers=headers, timeout=120) as answer:
        next(answer.iter_lines())
    return None


def _megabytes(server: Server) -> float:
    """Resident memory of the server and its processes."""
    top = psutil.Process(server.process.pid)
    return sum(one.memory_info().rss for one in (top, *top.children(recursive=True))) / 2**20


def main() -> None:
    """Run it by itself."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        server = Server(make_model(Path(folder) / "model"), Path(folder) / "log")
        begun = time.monotonic()
        found = soak(server, count)
        seconds = time.monotonic() - begun
        preempted = server.metric("vllm:num_preemptions_total")
        evicted = server.metric("lavakv:prompts_evicted_total")
        server.wait_until_idle()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(60)
    print(f"{count} requests in {seconds:.0f} s, {found.gone} clients gone, {evicted:.0f} prompts evicted,")
    print(f"{preempted:.0f} preemptions, MiB {[round(one) for one in found.megabytes]}, exit code {code}")
    print(f"texts that differ when asked alone: {len(found.wrong)} of {_SAMPLE} {found.wrong}")
    sys.exit(bool(found.wrong) or code != 0)


if __name__ == "__main__":
    main()
