"""Whatever ends a run, the next one goes on, and in the end the records are those of a run that nothing ended."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest

import lavakv
from lavakv.evaluation.executor import SerialExecutor
from lavakv.evaluation.folder import locked
from lavakv.evaluation.jsonl import JsonLog
from lavakv.evaluation.records import read_records
from lavakv.models.load import load
from tests.evaluation import madeup
from tests.evaluation.files import without_seconds

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.evaluation.madeup", "transformers.models.llama.modeling_llama"])


_MANY = 8


def _start(model_dir: str, out: Path) -> multiprocessing.Process:
    process = _PROCESSES.Process(target=madeup.run_alone, args=(model_dir, out, _MANY))
    process.start()
    return process


def _size(out: Path) -> int:
    file = out / "records.jsonl"
    return file.stat().st_size if file.exists() else 0


def test_killed_again_and_again(model_dir, tmp_path) -> None:
    """SIGKILL after nothing, after the first bytes of a record, between records; then a run to the end."""
    out, kept, num_finished = tmp_path / "run", b"", []
    for delay in (0.0, 0.003, 0.0, 0.005):
        finished = kept[: kept.rfind(b"\n") + 1]
        process = _start(model_dir, out)
        while process.is_alive() and _size(out) <= len(finished):
            time.sleep(0.0005)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kept = (out / "records.jsonl").read_bytes()
        assert kept.startswith(finished)
        num_finished.append(kept.count(b"\n"))
    assert num_finished[0] < num_finished[-1] < 5 * _MANY
    process = _start(model_dir, out)
    process.join()
    assert process.exitcode == 0
    madeup.run(madeup.settings(model_dir), tmp_path / "whole", madeup.echo(num_examples=_MANY))
    assert without_seconds(out) == without_seconds(tmp_path / "whole")


def test_cut_at_any_byte(model_dir, whole, tmp_path) -> None:
    """A torn last line is computed anew; no line before it is touched."""
    data = (whole / "records.jsonl").read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for cut in (0, 1, ends[0] - 1, ends[0], ends[3] + 700, ends[7] - 1, len(data) - 1, len(data)):
        out = tmp_path / str(cut)
        shutil.copytree(whole, out)
        (out / "records.jsonl").write_bytes(data[:cut])
        madeup.run(madeup.settings(model_dir), out)
        finished = data[: data.rfind(b"\n", 0, cut) + 1]
        assert (out / "records.jsonl").read_bytes().startswith(finished)
        assert without_seconds(out) == without_seconds(whole)


def test_interrupted_from_the_keyboard(model_dir, whole, tmp_path) -> None:
    class Impatient(madeup.Echo):
        def score(self, *arguments: object) -> float:
            if len(read_records(tmp_path)) == 7:
                raise KeyboardInterrupt
            return super().score(*arguments)

    task = Impatient(**{name: getattr(madeup.echo(), name) for name in madeup.Echo.__dataclass_fields__})
    with pytest.raises(KeyboardInterrupt):
        madeup.run(madeup.settings(model_dir), tmp_path, task)
    assert len(read_records(tmp_path)) == 7
    madeup.run(madeup.settings(model_dir), tmp_path)
    assert without_seconds(tmp_path) == without_seconds(whole)


def test_a_full_disk_keeps_what_is_finished(model_dir, whole, tmp_path) -> None:
    """The system refuses to let the file grow, in the middle of a record."""
    data = (whole / "records.jsonl").read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ends[3] + 500, limits[1]))
    try:
        with pytest.raises(lavakv.DiskError, match=r"records.jsonl: expected a file that can be written"):
            madeup.run(madeup.settings(model_dir), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert without_seconds(tmp_path).count(b"\n") == 4
    madeup.run(madeup.settings(model_dir), tmp_path)
    assert without_seconds(tmp_path) == without_seconds(whole)


def test_a_disk_that_is_full_from_the_start(model_dir, tmp_path) -> None:
    executor = SerialExecutor(load(model_dir, dtype="float32", device="cpu"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(lavakv.DiskError, match=r"run.json: expected a file that can be written"):
            madeup.run(madeup.settings(model_dir), tmp_path, executor=executor)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]


def test_records_in_another_order_are_put_in_order(model_dir, whole, tmp_path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    lines = (out / "records.jsonl").read_bytes().splitlines(keepends=True)
    (out / "records.jsonl").write_bytes(b"".join(lines[::-1]))
    madeup.run(madeup.settings(model_dir), out)
    assert without_seconds(out) == without_seconds(whole)


def test_two_runs_in_one_folder_refuse(model_dir, tmp_path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(lavakv.ResultsError, match="one that another run is writing into"),
    ):
        madeup.run(madeup.settings(model_dir), tmp_path)
    madeup.run(madeup.settings(model_dir), tmp_path)


def test_a_line_is_whole_or_not_there(tmp_path, monkeypatch) -> None:
    """Writes that come out short are continued, and one that fails in the middle leaves no trace."""
    file, write = tmp_path / "log", os.write
    log = JsonLog(file)
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    log.append({"a": "\u0085 \u2028 \udc80 ä"})
    assert json.loads(file.read_bytes()) == {"a": "\u0085 \u2028 \udc80 ä"}
    done = file.read_bytes()

    def interrupted(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        log.append({"b": 1})
    assert file.read_bytes() == done
