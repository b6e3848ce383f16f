"""The pytest plugin of the test processes: installs our cache, limits each test's time, records outcomes."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from lavakv.errors import LavaError
from transformers_suite import substitute

CACHE, RESULTS, SECONDS = "TRANSFORMERS_SUITE_CACHE", "TRANSFORMERS_SUITE_RESULTS", "TRANSFORMERS_SUITE_SECONDS"
_RANDOM = "test_modeling_common"  # the module of transformers that draws the tests' inputs from its own generator
_INPUTS = "prepare_config_and_inputs_for_generate"  # of transformers' mixin of generation tests


class TimeLimitError(BaseException):
    """A test exceeded its time limit; not caught by `except Exception` in a test."""


def pytest_configure(config: pytest.Config) -> None:
    """Install our cache in every process of the run that uses it."""
    if os.environ.get(CACHE) == "lavakv":
        substitute.install()
    if hasattr(config, "workerinput"):
        return
    Path(os.environ[RESULTS]).write_text("")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Turn right into left padding, which lavakv supports, in the masks of the tests' random inputs."""
    for owner in {getattr(item, "cls", None) for item in items}:
        prepare = getattr(owner, _INPUTS, None)
        if prepare is not None and not hasattr(prepare, "__wrapped__"):
            setattr(owner, _INPUTS, _padded_left(prepare))


def _padded_left(prepare: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(prepare)
    def prepare_padded_left(*args: Any, **kwargs: Any) -> Any:
        config, inputs = prepare(*args, **kwargs)
        mask = inputs.get("attention_mask")
        if mask is not None and mask.ndim == 2:
            inputs["attention_mask"] = mask.sort(dim=-1).values
        return config, inputs

    return prepare_padded_left


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Start a record, and seed the generators so that every run draws the same inputs."""
    substitute.use = substitute.Use()
    generators = [getattr(module, "global_rng", None) for name, module in sys.modules.items() if name.endswith(_RANDOM)]
    torch.manual_seed(0)
    for generator in (random, *filter(None, generators)):
        generator.seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """Run a test with a time limit."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, float(os.environ[SECONDS]))
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _too_long(*_: Any) -> NoReturn:
    raise TimeLimitError(f"over {os.environ[SECONDS]} s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Add the errors of a test, and its use of our cache, to its report."""
    report = yield
    errors = [] if call.excinfo is None else error_chain(call.excinfo.value)
    report.user_properties.append(("suite", {"errors": errors, **vars(substitute.use)}))
    return report


def error_chain(error: BaseException | None) -> list[list[str]]:
    """An error, what it was raised from, and so on: `[class name, name of a LavaError or "", text]` each."""
    chain: list[list[str]] = []
    while error is not None and len(chain) < 10:
        ours = type(error).__name__ if isinstance(error, LavaError) else ""
        chain.append([type(error).__name__, ours, str(error)[:2000]])
        error = error.__cause__ or error.__context__
    return chain


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record an outcome, in the process that collects those of all workers."""
    if "PYTEST_XDIST_WORKER" in os.environ or (report.when != "call" and report.passed):
        return
    outcome = "skipped" if hasattr(report, "wasxfail") else report.outcome
    own = dict(report.user_properties).get("suite")  # absent where a worker died
    _write({"test": report.nodeid, "outcome": outcome, **_used(own)})


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record what could not be collected."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        _write({"test": report.nodeid, "outcome": "uncollected", **_used({"errors": [["", "", str(report.longrepr)]]})})


def _used(own: Any) -> dict[str, Any]:
    nothing = {"errors": [["WorkerDied", "", "the process that ran it ended"]], **vars(substitute.Use())}
    return {**nothing, **(own if isinstance(own, dict) else {})}


def _write(record: dict[str, Any]) -> None:
    with Path(os.environ[RESULTS]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
