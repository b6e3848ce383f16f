"""Machine code is loaded only from where nobody but the user can have put it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lavakv.native import build, trust

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are POSIX's"),
    pytest.mark.skipif(build.compiler() is None, reason="no C compiler here"),
]
needs_root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
NOBODY = 65534


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    build.library.cache_clear()
    yield
    build.library.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A safe folder in a home directory that is safe, whatever lies above it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    tmp_path.chmod(0o755)
    made = tmp_path / "cache" / "native"
    made.mkdir(parents=True)
    for path in (made, made.parent):
        path.chmod(0o755)
    return made


def plant(folder: Path) -> tuple[Path, Path]:
    """A library in the place of the kernels that leaves a mark when it is loaded. Returns it and the mark."""
    honest = folder.parent / "honest"  # a path that was loaded before would not be loaded again
    assert build.library(honest) is not None
    (built,) = honest.glob("kernels-*.so")
    kernels = folder / built.name
    source, mark = folder.parent / "planted.c", folder.parent / "loaded"
    source.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) static void run(void) {{ fclose(fopen("{mark}", "w")); }}\n'
    )
    command = build.compiler()
    assert command is not None
    subprocess.run([*command, "-shared", "-fPIC", str(source), "-o", str(kernels)], check=True)
    return kernels, mark


def test_a_planted_library_would_run(folder: Path) -> None:
    """So that the tests below can fail: nothing protects a folder whose own user plants something."""
    _, mark = plant(folder)
    with pytest.raises(AttributeError):  # it has none of the kernels' functions
        build.library(folder)
    assert mark.exists()


def open_to_all(folder: Path, kernels: Path) -> None:
    folder.chmod(0o777)


def open_to_all_but_sticky(folder: Path, kernels: Path) -> None:
    folder.chmod(0o1777)


def open_to_another_group(folder: Path, kernels: Path) -> None:
    os.chown(folder, -1, NOBODY)
    folder.chmod(0o775)


def somebody_elses(folder: Path, kernels: Path) -> None:
    os.chown(folder, NOBODY, -1)


def below_one_open_to_all(folder: Path, kernels: Path) -> None:
    folder.parent.chmod(0o777)


def below_somebody_elses(folder: Path, kernels: Path) -> None:
    os.chown(folder.parent, NOBODY, -1)


def behind_a_link(folder: Path, kernels: Path) -> None:
    target = folder.parent / "elsewhere"
    folder.rename(target)
    target.chmod(0o777)
    folder.symlink_to(target)


@needs_root
@pytest.mark.parametrize(
    "spoil",
    [open_to_all, open_to_all_but_sticky, open_to_another_group, somebody_elses, below_one_open_to_all,
     below_somebody_elses, behind_a_link],
)  # fmt: skip
def test_from_an_unsafe_folder_nothing_is_loaded(folder: Path, spoil: Callable[[Path, Path], None]) -> None:
    kernels, mark = plant(folder)
    spoil(folder, kernels)
    with pytest.warns(UserWarning, match="compiled kernels are not loaded") as caught:
        found = build.library(folder)
    assert found is not None, "built in a private folder"
    assert trust.private_folder() in Path(found._name).parents
    assert len(caught) == 1
    assert str(folder.parent) in str(caught[0].message)
    assert not mark.exists()


@needs_root
def test_somebody_elses_file_in_a_safe_folder_is_replaced(folder: Path) -> None:
    kernels, mark = plant(folder)
    os.chown(kernels, NOBODY, -1)
    assert_replaced(folder, kernels, mark)


def test_a_file_open_to_all_is_replaced(folder: Path) -> None:
    kernels, mark = plant(folder)
    kernels.chmod(0o777)
    assert_replaced(folder, kernels, mark)


def test_a_link_is_replaced(folder: Path) -> None:
    kernels, mark = plant(folder)
    elsewhere = kernels.rename(folder.parent / "elsewhere.so")
    kernels.symlink_to(elsewhere)
    assert_replaced(folder, kernels, mark)
    assert elsewhere.exists()


def assert_replaced(folder: Path, kernels: Path, mark: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build.library(folder) is not None
    assert not mark.exists()
    assert trust.is_own_file(kernels)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_what_is_made_is_safe_whatever_the_umask(umask: int, folder: Path) -> None:
    before = os.umask(umask)
    try:
        assert trust.safe_folder(folder / "new" / "one") == (folder / "new" / "one", None)
        build.library(folder / "new" / "one")
    finally:
        os.umask(before)
    (kernels,) = (folder / "new" / "one").iterdir()
    assert trust.is_own_file(kernels)


def test_a_group_that_is_the_user_alone_may_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o775)
    monkeypatch.setattr(trust, "_is_private_group", lambda gid: gid == folder.stat().st_gid)
    assert trust.unsafe_reason(folder) is None
    monkeypatch.setattr(trust, "_is_private_group", lambda _: False)
    assert trust.unsafe_reason(folder) is not None


def test_a_sticky_folder_above_may_be_open(folder: Path) -> None:
    folder.parent.chmod(0o1777)
    assert trust.unsafe_reason(folder) is None


def test_where_no_folder_can_be_made_a_private_one_serves(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.warns(UserWarning, match="file cannot be used"):
        found = build.library(folder / "file")
    assert found is not None
    assert trust.private_folder() in Path(found._name).parents


def test_without_a_safe_private_folder_there_are_no_kernels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "private_folder", lambda: folder)
    folder.chmod(0o777)
    with pytest.warns(UserWarning, match="no compiled kernels are used"):
        assert build.library(folder) is None


def test_the_private_folder_is_the_users_alone_and_goes_with_the_process(tmp_path: Path) -> None:
    code = (
        "import os\nfrom lavakv.native.trust import private_folder\nmade = private_folder()\n"
        "if os.fork() == 0:\n    raise SystemExit\nos.wait()\n"  # a child that ends leaves it alone
        "print(made, oct(made.stat().st_mode & 0o777))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    made, mode = done.stdout.split()
    assert mode == "0o700"
    assert Path(made).parent == tmp_path.resolve()
    assert not Path(made).exists()
