"""vLLM's OpenAI-compatible server with eviction: its arguments checked as far as they can be seen, then started."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lavakv.errors import FailedRunError, InputError, UnsupportedError
from lavakv.vllm.arguments import command_line
from lavakv.vllm.settings import Settings

LOCAL_HOST = "127.0.0.1"
_PORT = 8000  # vLLM's own default
_SHORT = {
    "-tp": "--tensor-parallel-size", "-pp": "--pipeline-parallel-size", "-dcp": "--decode-context-parallel-size",
    "-pcp": "--prefill-context-parallel-size", "-sc": "--speculative-config",
}  # fmt: skip
_OURS = ("--model", "--worker-cls", "--scheduler-cls", "--logits-processors", "--additional-config")
_OFF = (
    "--enable-prefix-caching", "--enable-lora", "--enable-sleep-mode", "--enable-prompt-embeds", "--enable-dbo",
    "--speculative-config", "--kv-transfer-config", "--ec-transfer-config", "--kv-events-config",
    "--kv-offloading-size",
)  # fmt: skip
_ALONE = ("tensor", "pipeline", "decode-context", "prefill-context")
_CAUSE = re.compile(r"(?:^|\s)((?:[\w.]+\.)?\w+(?:Error|Exception): .+|\S+: error: .+)")


def given_options(arguments: Sequence[str]) -> dict[str, str | None]:
    """Options on a command line of vLLM by their long names, with their values; without the keys of those in JSON."""
    found: dict[str, str | None] = {}
    for index, word in enumerate(arguments):
        if not word.startswith("-") or word.lstrip("-")[:1].isdigit():
            continue
        name, has_value, value = word.partition("=")
        name = name.partition(".")[0]  # --speculative-config.method ngram sets one key of an option that is JSON
        name = _SHORT.get(name, name.replace("_", "-"))
        following = arguments[index + 1] if index + 1 < len(arguments) else None
        found[name] = value if has_value else following
    return found


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse vLLM's options with which eviction cannot work; the worker checks the whole configuration again.

    Raises:
        UnsupportedError: such an option.
        InputError: an option that `lavakv serve` sets itself, or a port that is no number or in use.
    """
    given = given_options(arguments)
    for name in _OURS:
        if name in given:
            raise InputError(name, expected="left to lavakv", got="given", fix="Remove it; lavakv serve sets it.")
    for name in _OFF:
        if name in given:
            raise UnsupportedError(name, expected="left out", got="given", fix="Evicted caches do not work with it.")
    for kind in _ALONE:
        name = f"--{kind}-parallel-size"
        if given.get(name, "1") != "1":
            raise UnsupportedError(name, expected="1", got=str(given[name]), fix="Remove it.")
    if given.get("--kv-cache-dtype", "auto") not in ("auto", given.get("--dtype")):
        got = str(given["--kv-cache-dtype"])
        raise UnsupportedError("--kv-cache-dtype", expected="the model's dtype", got=got, fix="Remove it.")
    size = given.get("--block-size", "32")
    if size is None or not size.isdigit() or int(size) % 16 or not int(size):
        raise UnsupportedError("--block-size", expected="a multiple of 16", got=str(size), fix="Remove it for 32.")
    if given.get("--runner", "auto") not in ("auto", "generate"):
        raise UnsupportedError("--runner", expected="generate", got=str(given["--runner"]), fix="Remove it.")
    _check_port(given.get("--host", LOCAL_HOST), given.get("--port", str(_PORT)))


def _check_port(host: str | None, port: str | None) -> None:
    """Raise InputError for a port that cannot be listened on."""
    if port is None or not port.isdigit() or not 0 <= int(port) < 1 << 16:
        raise InputError("--port", expected="a number from 0 to 65535", got=repr(port), fix="The default is 8000.")
    family = socket.AF_INET6 if host and ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((host or "", int(port)))
        except (OSError, UnicodeError) as error:
            raise InputError(
                "--port" if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else "--host",
                expected="an address that can be listened on",
                got=f"{host}:{port}, {getattr(error, 'strerror', None) or error}",
                fix="Pass another one, e.g. -- --port 8001.",
            ) from error


def server_command(model: str, name: str, settings: Settings, arguments: Sequence[str]) -> list[str]:
    """The command line that starts vLLM's server.

    Args:
        model: directory or Hugging Face id.
        name: what requests call the model, unless `arguments` say otherwise.
        settings: of eviction.
        arguments: vLLM's own, which come last.
    """
    given = given_options(arguments)
    ours = command_line(settings)
    if "--block-size" in given:
        at = ours.index("--block-size")
        del ours[at : at + 2]
    if "--host" not in given:
        ours += ["--host", LOCAL_HOST]
    if "--served-model-name" not in given:
        ours += ["--served-model-name", name]
    return [sys.executable, "-m", *_entry_point(model), *ours, *arguments]


def _entry_point(model: str) -> list[str]:
    """`vllm serve` if the distribution has that name, which it asks for; builds for a CPU have another."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return ["vllm.entrypoints.openai.api_server", "--model", model]
    return ["vllm.entrypoints.cli.main", "serve", model]


def run_server(command: Sequence[str]) -> int:
    """Run vLLM's server until it ends, its output on stderr, and return 0 if it was stopped.

    Raises:
        FailedRunError: it ended by itself; says why in one line.
    """
    cause = None
    with tempfile.TemporaryDirectory(prefix="lavakv-metrics-") as metrics:
        environment = {
            "VLLM_USE_V2_MODEL_RUNNER": "0", "PROMETHEUS_MULTIPROC_DIR": metrics, "PYTHONUNBUFFERED": "1",
        } | os.environ  # fmt: skip
        server = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            process_group=0,
        )  # fmt: skip
        with _signals_passed_to(server) as stopped:
            assert server.stdout is not None
            for line in server.stdout:
                sys.stderr.write(line)
                match = _CAUSE.search(line.rstrip())
                cause = cause or (match[1] if match else None)
            code = server.wait()
    if code == 0 or stopped:
        return 0
    raise FailedRunError(
        "vLLM's server", expected="a server that runs until it is stopped", got=cause or f"exit code {code}",
        fix="Its output above has the details.",
    )  # fmt: skip


@contextmanager
def _signals_passed_to(server: subprocess.Popen[str]) -> Iterator[list[int]]:
    """Pass interrupts and requests to terminate on to the server; gives those that came."""
    came: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        server.send_signal(number)
        came.append(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
