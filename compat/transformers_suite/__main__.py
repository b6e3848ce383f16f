"""Runs transformers' generation and cache tests with a `LavaCache` in place of `DynamicCache`.

Exit code 0: all outputs are equal or refused as listed in `refusals.toml`. 1: some are not. 2: there are no tests.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import lavakv
from transformers_suite.refusals import LIST, read_refusals
from transformers_suite.run import Runner
from transformers_suite.sources import SetupError, copy_tests, find_checkout, test_packages
from transformers_suite.verdict import needing_stock_run, summary, verdict_of

ROOT = Path(__file__).parents[2]
SELECTED = (
    "(generate or generation or cache or beam or assisted or lookup or padding or past_key_values or 4d) "
    "and not (compil or test_tp or flash)"  # slow or skipped, and no DynamicCache in them
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; returns the exit code."""
    given = _parser().parse_args(arguments)
    refusals = read_refusals(given.refusals)
    try:
        checkout = find_checkout(given.tests, given.build, given.any_version)
        tests = select(checkout, given.models)
        packages = test_packages(given.build)
    except SetupError as error:
        print(f"test-transformers: {error}", file=sys.stderr)
        return 2
    version = metadata.version("transformers")
    logs = given.build / f"test-transformers-{version}"
    copy_tests(checkout, logs / "tree")
    runner = Runner(logs / "tree", logs, packages, given.processes, given.seconds)
    print(f"transformers {version}, lavakv {lavakv.__version__}: {len(tests)} files; pytest's output is in {logs}")
    outcomes = runner.run("lavakv", tests, ["-k", given.select])
    repeated = needing_stock_run(outcomes, refusals)
    stock = runner.run("stock", repeated, []) if repeated else {}
    verdict = verdict_of(outcomes, stock, refusals, complete=given.models is None and given.select == SELECTED)
    print(summary(verdict))
    print(json.dumps({"transformers": version, "lavakv": lavakv.__version__, **verdict.as_dict()}))
    return int(verdict.failed)


def select(checkout: Path, models: str | None) -> list[str]:
    """Test files, relative to the checkout.

    Args:
        checkout: the folder that holds `tests`.
        models: folders of `tests/models`, separated by commas; None for all, and the cache tests.

    Raises:
        SetupError: a model has no tests there.
    """
    folder = checkout / "tests" / "models"
    names = sorted(path.name for path in folder.iterdir()) if models is None else models.split(",")
    files = {name: sorted(folder.glob(f"{name}/test_modeling_*.py")) for name in names}
    missing = [name for name in names if models is not None and not files[name]]
    if missing:
        raise SetupError(f"no tests of {', '.join(missing)} in {folder}")
    found = [file for name in names for file in files[name]]
    caches = checkout / "tests" / "utils" / "test_cache_utils.py"
    found += [caches] if models is None and caches.exists() else []
    return [str(file.relative_to(checkout)) for file in found]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("transformers_suite", description=__doc__)
    parser.add_argument("--tests", help="a checkout of transformers, or its tests folder; else the release's own")
    parser.add_argument("--any-version", action="store_true", help="accept a checkout of another version")
    parser.add_argument("--models", help="only these folders of tests/models, e.g. llama,qwen2")
    parser.add_argument("--select", default=SELECTED, help="pytest's -k expression (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="test processes (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=120.0, help="time limit of a test (default: %(default)s)")
    parser.add_argument("--refusals", type=Path, default=LIST, help="the list of known refusals")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder for sources and logs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
