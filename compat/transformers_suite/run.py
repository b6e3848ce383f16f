"""Runs pytest on transformers' tests, with our cache or without it, and reads the outcomes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers_suite import plugin

_RANK = ("passed", "skipped", "failed", "uncollected")


@dataclass
class Outcome:
    """The outcome of one test; the worst of its subtests and setup.

    Attributes:
        outcome: passed, skipped, failed or uncollected.
        errors: of a test that did not pass, the error and its causes: class, lavakv's class or "", text.
        caches: LavaCaches that took part.
        compared: outputs of `generate` compared with the stock cache's.
        stock: why the stock cache was left in place.
    """

    outcome: str = "passed"
    errors: list[list[str]] = field(default_factory=list)
    caches: int = 0
    compared: int = 0
    stock: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Runner:
    """Runs pytest.

    Attributes:
        tree: the folder that holds transformers' `tests`.
        logs: the folder for pytest's output and the results.
        python_path: folders in front of PYTHONPATH.
        processes: test processes.
        seconds: time limit of each test.
    """

    tree: Path
    logs: Path
    python_path: Sequence[Path]
    processes: int
    seconds: float

    def run(self, cache: str, tests: Sequence[str], options: Sequence[str]) -> dict[str, Outcome]:
        """Run tests.

        Args:
            cache: "lavakv" or "stock"; also the name of the log.
            tests: files or tests, relative to the tree.
            options: more options of pytest.

        Returns:
            The outcome of every test, by its id.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        listed, results = self.logs / f"{cache}.tests", self.logs / f"{cache}.jsonl"
        listed.write_text("".join(f"{test}\n" for test in tests))
        results.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "pytest", "-p", "transformers_suite.plugin", "-p", "no:cacheprovider",
            "-c", os.devnull, "--rootdir", str(self.tree), "-q", "--tb=short", "--disable-warnings",
            "--continue-on-collection-errors", "-n", str(self.processes),
            *options, f"@{listed}",
        ]  # fmt: skip
        with (self.logs / f"{cache}.log").open("w") as log:
            environment = self._environment(cache, results)
            done = subprocess.run(
                command, cwd=self.tree, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
            )
        outcomes = read(results)
        if done.returncode not in (0, 1, 5) and not any(found.outcome == "uncollected" for found in outcomes.values()):
            raise RuntimeError(f"pytest ended with {done.returncode}: see {log.name}")
        return outcomes

    def _environment(self, cache: str, results: Path) -> dict[str, str]:
        outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # of an outer run
        inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        folders = [Path(__file__).parents[1], *self.python_path, *(Path(folder).absolute() for folder in inherited)]
        return {
            **outer,
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "TRANSFORMERS_TEST_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            plugin.CACHE: cache,
            plugin.RESULTS: str(results),
            plugin.SECONDS: str(self.seconds),
        }


def read(results: Path) -> dict[str, Outcome]:
    """Read the plugin's records; a test may have several lines."""
    outcomes: dict[str, Outcome] = {}
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else []:
        record: dict[str, Any] = json.loads(line)
        test, new = record.pop("test"), Outcome(**record)
        old = outcomes.get(test)
        if old is None or _RANK.index(new.outcome) > _RANK.index(old.outcome):
            outcomes[test] = new
    return outcomes
