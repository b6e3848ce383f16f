"""`lavakv serve` with a small model, as tests and the soak run it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import openai

START_SECONDS = 900  # of a machine that does other work as well
BLOCKS = 66  # one request of 2,048 tokens has room, and some of many at once are preempted
ARGUMENTS = [
    "--dtype", "float32", "--enforce-eager", "--num-gpu-blocks-override", str(BLOCKS),
    "--kv-cache-memory-bytes", "268435456", "--max-model-len", "2048", "--max-num-batched-tokens", "256",
    "--max-num-seqs", "16",
]  # fmt: skip
_LAVAKV = ["-c", "from lavakv.cli.main import main; main()", "serve"]
_STOCK = ["-m", "vllm.entrypoints.openai.api_server", "--no-enable-prefix-caching", "--block-size", "32", "--model"]


class Server:
    """A server in a process of its own.

    Args:
        folder: of the model.
        log: file for what it prints.
        stock: vLLM alone, to compare with.
    """

    def __init__(self, folder: Path, log: Path, stock: bool = False) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.log, self.url = log, f"http://127.0.0.1:{port}"
        first = [*_STOCK, str(folder)] if stock else [*_LAVAKV, str(folder), "--keep", "25%", "--window", "16", "--"]
        own = ["--port", str(port), "--api-key", "secret", "--served-model-name", "small", *ARGUMENTS]
        command = [sys.executable, *first, *own]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with log.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="secret", max_retries=0, timeout=120)
        deadline = time.monotonic() + START_SECONDS
        while not self.is_healthy():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)

    def is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.HTTPError:
            return False

    def complete(self, tokens: list[int], count: int = 10, **extra: Any) -> str:
        made = self.client.completions.create(
            model="small", prompt=tokens, max_tokens=count, temperature=0,
            extra_body={"vllm_xargs": extra, "ignore_eos": True} if extra else {"ignore_eos": True},
        )  # fmt: skip
        return made.choices[0].text

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = httpx.get(f"{self.url}/metrics").text
        found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        assert found, name
        return sum(map(float, found))

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 60
        while self.metric("vllm:kv_cache_usage_perc") > 0 or self.metric("vllm:num_requests_running") > 0:
            assert time.monotonic() < deadline, "blocks that are never given back"
            self.complete([5, 6, 7], 1)  # a metric is renewed by the next step
