"""The tiny model of the command's tests, and an uninterrupted run of the made-up task on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import make_model
from tests.evaluation import madeup


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("tiny-eval")))


@pytest.fixture(scope="session")
def whole(model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    madeup.run(madeup.settings(model_dir), out)
    return out
