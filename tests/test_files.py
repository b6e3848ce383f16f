"""Files written at the end: tried first, whole or not at all, and nobody else's file touched."""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from lavakv.errors import DiskError, InputError, ResultsError
from lavakv.evaluation.jsonl import cannot_write, write_lines
from lavakv.files import require_writable, unwritable, write_output


def _write(option: str, file: Path, data: bytes) -> None:
    require_writable(option, file)
    write_output(option, file, data)


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("old")
    file.chmod(0o640)
    require_writable("--csv", file)
    assert file.read_text() == "old"
    with file.open() as reader:
        write_output("--csv", file, b"new")
        assert reader.read() == "old"
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("x.csv", "new")]
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_new_file_is_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    _write("--csv", tmp_path / "x.csv", b"rows")
    assert (tmp_path / "x.csv").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_folders_are_made_only_where_asked(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "x.html"
    with pytest.raises(InputError, match=r"--out: expected a file that can be written, got [^:]*x\.html: No such file"):
        require_writable("--out", file)
    assert not file.parent.exists()
    require_writable("--out", file, make_folder=True)
    assert list(file.parent.iterdir()) == []
    write_output("--out", file, b"page", make_folder=True)
    assert file.read_bytes() == b"page"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which is a folder"):
        require_writable("--out", tmp_path)


def test_neighbours_of_any_name_stay(tmp_path: Path) -> None:
    for name in ("x.csv.part", "x.csv.try", "x.csv.try.part", "x.csv.new"):
        (tmp_path / name).write_text(name)
    _write("--csv", tmp_path / "x.csv", b"rows")
    assert {found.name: found.read_text() for found in tmp_path.iterdir() if found.name != "x.csv"} == {
        name: name for name in ("x.csv.part", "x.csv.try", "x.csv.try.part", "x.csv.new")
    }


@pytest.mark.parametrize(("length", "fits"), [(251, True), (300, False)])
def test_long_names(length: int, fits: bool, tmp_path: Path) -> None:
    file = tmp_path / f"{'x' * length}.csv"
    if fits:
        _write("--csv", file, b"rows")
        assert file.read_bytes() == b"rows"
    else:
        with pytest.raises(InputError, match="name too long"):
            require_writable("--csv", file)


def test_a_link_stays_one(tmp_path: Path) -> None:
    link = tmp_path / "link.csv"
    link.symlink_to("real.csv")
    for data in (b"first", b"second"):  # the first time it leads nowhere
        _write("--csv", link, data)
        assert link.is_symlink()
        assert (tmp_path / "real.csv").read_bytes() == data


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_a_descriptor_that_leads_to_a_pipe(tmp_path: Path) -> None:
    """As `/dev/stdout` does before a `|`: its link names no file."""
    reading, writing = os.pipe()
    link = tmp_path / "stdout"
    link.symlink_to(f"/proc/self/fd/{writing}")
    _write("--csv", link, b"rows")
    assert os.read(reading, 10) == b"rows"
    assert link.is_symlink()
    os.close(reading)
    os.close(writing)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    require_writable("--csv", pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_output("--csv", pipe, b"rows")
    reader.join()
    assert received == [b"rows"]
    assert pipe.is_fifo()


def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its folder would let it be replaced."""
    file = tmp_path / "x.csv"
    file.write_text("old")
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != file)  # root may write everything
    for write in (lambda: require_writable("--csv", file), lambda: write_output("--csv", file, b"new")):
        with pytest.raises(InputError, match=r"x\.csv: Permission denied"):
            write()
    assert file.read_text() == "old"


@pytest.mark.parametrize("code", [errno.EPERM, errno.EBUSY])
def test_a_file_that_cannot_be_replaced_is_written_to(code: int, tmp_path: Path, monkeypatch) -> None:
    """In use, mounted, or somebody else's in a sticky folder."""
    file = tmp_path / "x.csv"
    file.write_text("old")

    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refused)
    _write("--csv", file, b"new")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("x.csv", "new")]


def test_a_file_in_a_folder_where_no_other_may_be_made_is_written_to(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "x.csv"
    file.write_text("old")
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    monkeypatch.setattr("lavakv.files.tempfile.mkstemp", lambda **_: pytest.fail("a file was made"))
    _write("--csv", file, b"new")
    assert file.read_text() == "new"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device_is_not_the_path_s_fault() -> None:
    with pytest.raises(DiskError, match="No space left on device"):
        write_output("--csv", Path("/dev/full"), b"rows")
    assert Path("/dev/full").is_char_device()


def test_what_was_there_survives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.csv"
    file.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskError, match="No space left on device"):
        write_output("--csv", file, b"new")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("x.csv", "old")]


@pytest.mark.parametrize(
    ("name", "kind", "fix"),
    [
        ("ENOSPC", DiskError, "Free some space on that disk, or write to another disk."),
        ("EDQUOT", DiskError, "Free some space on that disk, or write to another disk."),
        ("EFBIG", DiskError, "Raise the limit on the size of files (ulimit -f), or write to another disk."),
        ("EIO", DiskError, "Check that disk, or write to another disk."),
        ("EACCES", InputError, "Get read and write permission for /runs, or name another folder."),
        ("EPERM", InputError, "Get read and write permission for /runs, or name another folder."),
        ("EROFS", InputError, "Make that file system writable, or name another folder."),
        ("ENOTDIR", InputError, "Remove what is in its place, or name another folder."),
        ("ENAMETOOLONG", InputError, "Check the path, or name another folder."),
    ],
)
def test_each_cause_has_its_own_remedy(name, kind, fix) -> None:
    """A folder that is not ours to write does not get better by freeing space."""
    number = getattr(errno, name)
    error = unwritable("--out", Path("/runs/x.csv"), OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert error.fix == fix
    results = cannot_write(Path("/runs/records.jsonl"), OSError(number, os.strerror(number)))
    assert isinstance(results, DiskError) == (kind is DiskError)
    assert results.fix == f"{fix} Finished records are kept: run the same command again to resume."


def test_a_replaced_file_is_on_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content first, then the name, then the folder: a power cut between two steps leaves the old file or the new."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        fsync(descriptor)

    def replaced(staged: str, final: str) -> None:
        steps.append("name")
        replace(staged, final)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_output("--csv", tmp_path / "x.csv", b"rows")
    assert steps == ["content", "name", "folder"]


@pytest.mark.parametrize(("code", "kind"), [(errno.EINVAL, None), (errno.EIO, DiskError)])
def test_a_folder_that_cannot_be_synced(code: int, kind: type | None, tmp_path: Path, monkeypatch) -> None:
    """Some file systems sync no folders; a broken disk is another matter."""
    fsync = os.fsync

    def refused(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    with nullcontext() if kind is None else pytest.raises(kind):
        write_output("--csv", tmp_path / "x.csv", b"rows")
    assert (tmp_path / "x.csv").read_bytes() == b"rows"


def test_results_are_replaced_or_unchanged_but_never_written_in_place(tmp_path: Path, monkeypatch) -> None:
    """Half of a records file is worse than an error; a link's target is replaced, and the link stays."""
    real, link = tmp_path / "real", tmp_path / "link"
    write_lines(real, [{"a": 1}])
    link.symlink_to(real)
    write_lines(link, [{"a": 2}])
    assert link.is_symlink()
    assert real.read_bytes() == b'{"a": 2}\n'

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(ResultsError, match="Operation not permitted"):
        write_lines(real, [{"a": 3}])
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == dict.fromkeys(
        ("real", "link"), b'{"a": 2}\n'
    )
