"""Finds the tests of the transformers release that is installed."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

NEEDED = ("tests/generation/test_utils.py", "tests/models")
IMPORTED = ("parameterized", "timeout_decorator")
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


class SetupError(Exception):
    """The suite cannot be run with these arguments; the text says why and what to do."""


def find_checkout(given: str | None, build: Path, any_version: bool = False) -> Path:
    """The folder that holds transformers' `tests` folder.

    Args:
        given: a checkout of transformers or its tests folder; None to take the release's source distribution.
        build: where a source distribution is unpacked, `build/transformers-VERSION/`.
        any_version: accept a checkout of another version than the one that is installed.

    Raises:
        SetupError: there are no such tests, or they belong to another version.
    """
    version = metadata.version("transformers")
    if not given:
        release = unpacked(version, build)
        if not is_checkout(release):
            raise SetupError(
                f"the source distribution of transformers {version} has no generation and model tests: name a checkout "
                f"of transformers {version}, or its tests folder, with TRANSFORMERS_TESTS=DIR"
            )
        return release
    folder = Path(given).resolve()
    found = next((place for place in (folder, folder.parent) if is_checkout(place)), None)
    if found is None or (found != folder and folder != found / "tests"):
        raise SetupError(
            f"{given} is neither a checkout of transformers nor the tests folder of one: {NEEDED[0]} is missing"
        )
    _check_version(found, version, any_version)
    return found


def is_checkout(folder: Path) -> bool:
    """Whether a folder has the tests that are run."""
    return all((folder / path).exists() for path in NEEDED)


def version_of(checkout: Path) -> str | None:
    """The version that a checkout states, or None if it has only tests."""
    for path in ("src/transformers/__init__.py", "setup.py"):
        file = checkout / path
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        found = re.search(r"""^\s*(?:__version__\s*=|version=)\s*["']([^"']+)["']""", text, re.MULTILINE)
        if found:
            return found[1]
    return None


def _check_version(checkout: Path, installed: str, any_version: bool) -> None:
    found = version_of(checkout)
    if found is None:
        print(f"{checkout} does not state its version; its tests are run on transformers {installed}")
    elif found != installed:
        text = f"{checkout} is transformers {found}, and {installed} is installed"
        if not any_version:
            raise SetupError(f"{text}: check out v{installed}, or accept the difference with ARGS=--any-version")
        print(text)


def unpacked(version: str, build: Path) -> Path:
    """The source distribution of one release, fetched once.

    Raises:
        SetupError: it cannot be downloaded.
    """
    target = build / f"transformers-{version}"
    if not target.exists():
        build.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=build) as scratch:
            command = [
                *PIP,
                "download",
                "--no-deps",
                "--no-build-isolation",
                "--no-binary",
                "transformers",
                "--dest",
                scratch,
            ]
            done = subprocess.run([*command, f"transformers=={version}"], check=False)
            archive = next(Path(scratch).glob("*.tar.gz"), None)
            if done.returncode != 0 or archive is None:
                raise SetupError(
                    f"the source distribution of transformers {version} could not be fetched: "
                    "name a checkout of it with TRANSFORMERS_TESTS=DIR"
                )
            with tarfile.open(archive) as packed:
                packed.extractall(scratch, filter="data")
            shutil.move(Path(scratch) / f"transformers-{version}", target)
    return target


def copy_tests(checkout: Path, target: Path) -> None:
    """Copy the tests of a checkout next to a `src` that links to the installed transformers."""
    shutil.rmtree(target, ignore_errors=True)
    for name in ("tests", "utils"):  # the tests import from the checkout's utils
        if (checkout / name).exists():
            shutil.copytree(checkout / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    if (checkout / "conftest.py").exists():
        shutil.copy(checkout / "conftest.py", target)
    installed = importlib.util.find_spec("transformers")
    assert installed is not None
    assert installed.origin is not None
    (target / "src").mkdir()
    (target / "src" / "transformers").symlink_to(Path(installed.origin).parent)


def test_packages(build: Path) -> list[Path]:
    """Folders with packages that the tests import and the environment lacks; installed once.

    Raises:
        SetupError: it cannot be downloaded.
    """
    missing = [name for name in IMPORTED if importlib.util.find_spec(name) is None]
    folder = build / "transformers-test-packages"
    needed = [name for name in missing if not list(folder.glob(f"{name}*"))]
    if needed:
        command = [*PIP, "install", "--no-deps", "--upgrade", "--target", str(folder), *needed]
        if subprocess.run(command, check=False).returncode != 0:
            raise SetupError(f"the tests import {', '.join(needed)}, which could not be installed")
    return [folder] if missing else []
