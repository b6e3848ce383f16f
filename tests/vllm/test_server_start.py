"""`lavakv serve` before and around vLLM: options it refuses, the command it runs, what it says when that fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from lavakv.cli.main import run
from lavakv.errors import FailedRunError, InputError, LavaError, UnsupportedError
from lavakv.vllm.server import check_arguments, given_options, run_server, server_command
from lavakv.vllm.settings import Settings


def test_options_by_their_long_names() -> None:
    words = ["--port", "1", "--dtype=float32", "-tp", "2", "--enable_lora", "--max-num-seqs", "-1", "--seed=-3"]
    words += ["--compilation-config.mode", "0"]
    found = given_options(words)
    assert found == {
        "--port": "1", "--dtype": "float32", "--tensor-parallel-size": "2", "--enable-lora": "--max-num-seqs",
        "--max-num-seqs": "-1", "--seed": "-3", "--compilation-config": "0",
    }  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        "--enable-prefix-caching", "--enable-lora", "--enable_sleep_mode", "--speculative-config {}", "-sc={}",
        "--speculative-config.method ngram",
        "--kv-transfer-config {}", "--kv-offloading-size 1", "-tp 2", "--pipeline-parallel-size=2", "-dcp 2",
        "--kv-cache-dtype fp8", "--block-size 24", "--block-size x", "--runner pooling", "--enable-dbo",
        "--enable-prompt-embeds",
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_vllm_starts(words) -> None:
    with pytest.raises(UnsupportedError) as refused:
        check_arguments(["--port", "0", *words.split()])
    assert str(refused.value).startswith("--")


@pytest.mark.parametrize("word", ["--model", "--worker-cls", "--scheduler_cls=x", "--logits-processors",
                                  "--additional-config", "--additional_config.lavakv.keep=1"])  # fmt: skip
def test_what_lavakv_sets_is_not_given_twice(word) -> None:
    with pytest.raises(InputError, match="lavakv serve sets it"):
        check_arguments([word, "x"])


@pytest.mark.parametrize("words", ["-tp 1 --block-size 16 --kv-cache-dtype auto", "--dtype bfloat16 --runner generate"])
def test_what_works_passes(words) -> None:
    check_arguments(["--port", "0", *words.split()])


@pytest.mark.parametrize("port", ["70000", "x", "-1"])
def test_ports_that_are_none(port) -> None:
    with pytest.raises(InputError, match="--port"):
        check_arguments(["--port", port])


def test_a_port_in_use_and_a_host_that_is_none() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        with pytest.raises(InputError, match=f"127.0.0.1:{port}, Address already in use"):
            check_arguments(["--port", port])
    with pytest.raises(LavaError, match="--host"):
        check_arguments(["--port", "0", "--host", "no such host"])


def test_the_command() -> None:
    command = server_command("/models/m", "m", Settings(keep=0.25), ["--port", "8001"])
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--served-model-name") + 1] == "m"
    assert command[-2:] == ["--port", "8001"]
    own = ["--host", "0.0.0.0", "--served-model-name", "other", "--block-size", "64"]
    command = server_command("/models/m", "m", Settings(keep=0.25), own)
    for option in ("--host", "--served-model-name", "--block-size"):
        assert command.count(option) == 1


def test_a_server_that_does_not_start_says_why_in_one_line(capfd) -> None:
    program = "import sys\nprint('INFO fine', flush=True)\nraise ValueError('no such model')"
    with pytest.raises(FailedRunError, match=r"got ValueError: no such model\.") as failed:
        run_server([sys.executable, "-c", program])
    assert "\n" not in str(failed.value)
    assert "INFO fine" in capfd.readouterr().err
    with pytest.raises(FailedRunError, match="exit code 3"):
        run_server([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_server_and_end_it_without_an_error(number) -> None:
    program = (  # like vLLM's server it handles interrupts even where a shell in the background has them ignored
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    raise SystemExit(7)"
    )
    begun = time.monotonic()
    timer = threading.Timer(2, os.kill, (os.getpid(), number))
    timer.start()
    assert run_server([sys.executable, "-c", program]) == 0
    assert time.monotonic() - begun < 30


def test_the_metrics_folder_is_the_servers_own() -> None:
    program = "import os, sys\nassert os.path.isdir(os.environ['PROMETHEUS_MULTIPROC_DIR'])"
    assert run_server([sys.executable, "-c", program]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere --keep 0.5", "model 'nowhere'"),
        ("smollm2 --keep 2", "--keep"),
        ("smollm2 --budget 20", "more than the window"),
        ("smollm2 --policy nope", "--policy"),
        ("smollm2 -- -tp 2", "--tensor-parallel-size"),
        ("smollm2 -- --port x", "--port"),
    ],
)
def test_the_command_line_answers_in_one_line(words, message, capsys) -> None:
    assert run(["serve", *words.split()]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_without_vllm_the_command_says_so() -> None:
    program = (
        "import sys; sys.modules['vllm'] = None\nfrom lavakv.cli.main import run\nraise SystemExit(run(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", program, "serve", "smollm2", "--", "--port", "0"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "vllm>=0.32,<0.33" in done.stderr
    assert done.stderr.count("\n") == 1
