"""One folder for everything that is kept, and what is said when it cannot be used."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lavakv import ModelError, paths
from lavakv.models.default import fetched_model_dir
from lavakv.models.home import get_or_make_folder
from lavakv.models.home import home as model_home
from lavakv.native import build


def test_models_and_kernels_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for chosen in (None, "/somewhere"):
        if chosen:
            monkeypatch.setenv("LAVAKV_HOME", chosen)
        else:
            monkeypatch.delenv("LAVAKV_HOME", raising=False)
        assert model_home() == paths.home()
        assert build.folder() == paths.home() / "native"


def test_the_variable_is_read_as_a_shell_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    for chosen, expected in {"~/kept": "me/kept", "~": "me", "kept": "kept", "a/../kept": "a/../kept"}.items():
        monkeypatch.setenv("LAVAKV_HOME", chosen)
        assert paths.home() == tmp_path / expected
    monkeypatch.setenv("LAVAKV_HOME", "/abs")
    assert paths.home() == Path("/abs").absolute()


@pytest.mark.parametrize("name", ["LAVAKV_HOME", "XDG_CACHE_HOME"])
def test_an_empty_variable_is_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAVAKV_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    without = paths.home()
    monkeypatch.setenv(name, "")
    assert paths.home() == without
    assert without.is_absolute()


@pytest.mark.skipif(sys.platform != "linux", reason="XDG is Linux's")
def test_on_linux_it_is_where_xdg_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAVAKV_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paths.home() == tmp_path / "lavakv"


def test_a_user_without_a_home_gets_an_absolute_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAVAKV_HOME", raising=False)
    monkeypatch.setattr(paths, "_user_cache_path", lambda: Path("~/.cache/lavakv"))
    assert paths.home().is_absolute()
    assert "~" not in paths.home().parts


def test_it_needs_no_torch() -> None:
    code = "import sys, lavakv.paths; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.EACCES, "write permission"),
        (errno.EPERM, "write permission"),
        (errno.EROFS, "Make that file system writable"),
        (errno.ENOTDIR, "Remove what is in its place"),
        (errno.EIO, "Check that disk"),
    ],
)
def test_advice_fits_the_error(number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAVAKV_HOME", str(tmp_path))

    def fails(*_: Path) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(ModelError) as caught:
        get_or_make_folder("model", fails)
    assert advice in caught.value.fix
    assert ("space" in caught.value.fix) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert "LAVAKV_HOME" in caught.value.fix


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_a_folder_that_may_not_be_written_is_about_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *_: object, **__: object) -> None:  # root may write anywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setenv("LAVAKV_HOME", str(tmp_path / "new" / "folder"))
    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(ModelError, match="read and write permission"):
        get_or_make_folder("model", lambda *_: None)


def test_a_folder_that_may_not_be_read_is_about_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *_: object, **__: object) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setenv("LAVAKV_HOME", str(tmp_path))
    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(ModelError, match="read and write permission"):
        fetched_model_dir()
    with pytest.raises(ModelError, match="read and write permission"):
        get_or_make_folder("model", lambda *_: None)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, ".cache/lavakv"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/lavakv"),
        ("darwin", {}, "Library/Caches/lavakv"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "/x/lavakv"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/lavakv/lavakv/Cache"),
        ("win32", {}, "AppData/Local/lavakv/lavakv/Cache"),
    ],
)
def test_each_system_has_one_default(platform, variables, expected, tmp_path, monkeypatch) -> None:
    """The same with and without the packages that a bare GPU machine lacks."""
    for name in ("LAVAKV_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(paths.sys, "platform", platform)
    assert paths.home() == tmp_path / expected


def test_it_is_where_platformdirs_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As other programs' caches, and where earlier versions looked."""
    platformdirs = pytest.importorskip("platformdirs")
    monkeypatch.delenv("LAVAKV_HOME", raising=False)
    assert paths.home() == platformdirs.user_cache_path("lavakv")
