"""A local Ray cluster of two workers: the serial run's records, also when a worker is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import lavakv
from lavakv.evaluation import cluster
from lavakv.evaluation.records import read_records
from tests.evaluation import madeup
from tests.evaluation.files import without_seconds

ray = pytest.importorskip("ray", reason="Ray is not installed")
_EXAMINED = cluster._examined


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def _lost_once(marker: Path) -> object:
    """Work that takes its worker process down at the first prompt that it meets."""

    def examined(model: object, assignment: object) -> object:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return _EXAMINED(model, assignment)

    return examined


def _always_lost(model: object, assignment: object) -> object:
    os.kill(os.getpid(), signal.SIGKILL)


def test_two_workers_give_the_serial_run_s_records(model_dir, whole, tmp_path) -> None:
    settings = madeup.settings(model_dir)
    executor = cluster.RayExecutor(settings)
    assert executor.num_workers == 2
    assert executor.about_model() == {"dtype": "float32", "device": "cpu", "revision": None}
    madeup.run(settings, tmp_path, executor=executor)
    assert without_seconds(tmp_path) == without_seconds(whole)


def test_a_worker_s_complaint_arrives_as_it_was(model_dir, tmp_path, monkeypatch) -> None:
    def refusing(model: object, assignment: object) -> object:
        raise lavakv.PolicyError("policy", expected="scores", got="none", fix="Mend it.")

    monkeypatch.setattr(cluster, "_examined", refusing)
    settings = madeup.settings(model_dir)
    with pytest.raises(lavakv.PolicyError, match=r"^policy: expected scores, got none. Mend it.$"):
        madeup.run(settings, tmp_path, executor=cluster.RayExecutor(settings))
    assert read_records(tmp_path) == []


def test_a_lost_worker_loses_no_record(model_dir, whole, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cluster, "_examined", _lost_once(tmp_path / "died"))
    settings = madeup.settings(model_dir)
    madeup.run(settings, tmp_path / "run", executor=cluster.RayExecutor(settings))
    assert (tmp_path / "died").exists()
    assert without_seconds(tmp_path / "run") == without_seconds(whole)


def test_workers_that_die_at_every_attempt_are_an_error(model_dir, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cluster, "_examined", _always_lost)
    monkeypatch.setattr(cluster, "MAX_RETRIES", 0)
    settings = madeup.settings(model_dir)
    with pytest.raises(lavakv.WorkerError, match="Ray worker: expected one that finishes the prompt, got 1 that died"):
        madeup.run(settings, tmp_path, madeup.echo(num_examples=1), cluster.RayExecutor(settings))
