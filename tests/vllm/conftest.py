"""Engines are started once and shared: a start takes 10 to 40 seconds."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

collect_ignore = [] if find_spec("vllm") is not None else [
    "test_architectures.py", "test_contract.py", "test_equality.py", "test_kernels.py", "test_lives.py",
    "test_lm_eval.py", "test_refusals.py", "test_serve.py", "test_triton_backend.py",
]  # fmt: skip
os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_CPU_OMP_THREADS_BIND="nobind")


def pytest_report_header() -> str | None:
    """Say so where the tests inside vLLM are not collected."""
    return (
        "vLLM is not installed: of tests/vllm only what needs none (make test-vllm runs all)"
        if collect_ignore
        else None
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.vllm.model import make_model

    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def hf_model(model_folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    import lavakv

    model = LlamaForCausalLM.from_pretrained(model_folder).eval()
    lavakv.enable(model)
    return model


@pytest.fixture(scope="session")
def engine(model_folder: Path) -> Iterator[Any]:
    """One engine of the whole session, all of it in this process so that tests see inside."""
    from tests.vllm.engine import Engine

    started = Engine(model_folder)
    yield started
    del started
    gc.collect()


@pytest.fixture(scope="session")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`lavakv serve` with the same model."""
    from tests.vllm.server import Server

    started = Server(model_folder, tmp_path_factory.mktemp("server") / "log")
    yield started
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(60) == 0, started.log.read_text()[-3000:]
