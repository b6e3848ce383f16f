"""Which transformers are put beside the environment's: `.ci/versions.py`, with no registry asked."""

from __future__ import annotations

import importlib.util
import os
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

PINNED = metadata.version("transformers")


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("versions", Path(__file__).parents[1] / ".ci" / "versions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.metadata, "version", lambda _: "5.20.0")
    monkeypatch.delenv("CI", raising=False)
    return module


def release(folder: Path, name: str, version: str, *requires: str) -> None:
    """What pip leaves of an installed release."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (about / "METADATA").write_text("\n".join(lines) + "\n")


def serves(versions: ModuleType, monkeypatch: pytest.MonkeyPatch, version: str | None) -> list[str]:
    """Let the registry serve a version; what is installed of it is noted."""
    installed: list[str] = []

    def install(folder: Path, requirements: list[str]) -> None:
        installed.extend(requirements)
        release(folder, "transformers", requirements[0].removeprefix("transformers=="))
        (folder / "transformers").mkdir()

    monkeypatch.setattr(versions, "_served", lambda _: version)
    monkeypatch.setattr(versions, "_pip_install", install)
    return installed


def test_a_newer_release_is_installed_once(versions: ModuleType, tmp_path: Path, monkeypatch) -> None:
    installed, folder = serves(versions, monkeypatch, "5.21.0"), tmp_path / "newest"
    versions.newest(folder)
    versions.newest(folder)
    monkeypatch.setenv("CI", "true")
    versions.newest(folder)
    assert installed == ["transformers==5.21.0"]
    assert (folder / "transformers").is_dir()


def test_the_pinned_release_is_not_tested_twice(versions: ModuleType, tmp_path: Path, monkeypatch, capsys) -> None:
    folder = tmp_path / "newest"
    serves(versions, monkeypatch, "5.19.9")
    release(folder, "transformers", "5.20.0")  # what is pinned now was newer yesterday
    (folder / "transformers").mkdir()
    installed = serves(versions, monkeypatch, "5.20.0")
    versions.newest(folder)
    assert installed == []
    assert not (folder / "transformers").exists()
    assert "not tested twice" in capsys.readouterr().out


@pytest.mark.parametrize("version", [None, "5.19.0"])  # an index that lags behind is not the registry
def test_without_the_registry_only_ci_fails(version, versions: ModuleType, tmp_path: Path, monkeypatch, capsys) -> None:
    folder = tmp_path / "newest"
    release(folder, "transformers", "5.21.0")
    installed = serves(versions, monkeypatch, version)
    versions.newest(folder)
    assert "cannot be reached" in capsys.readouterr().err
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit) as caught:
        versions.newest(folder)
    assert caught.value.code not in (None, 0)
    assert installed == []
    assert (folder / "transformers-5.21.0.dist-info").exists()


def test_the_registry_is_asked_once_a_day_and_in_ci_always(versions: ModuleType, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "newest"
    serves(versions, monkeypatch, "5.21.0")
    versions.newest(folder)
    installed = serves(versions, monkeypatch, "5.22.0")
    versions.newest(folder)
    assert installed == []
    yesterday = (folder / ".ready").stat().st_mtime - 25 * 3600
    os.utime(folder / ".ready", (yesterday, yesterday))
    versions.newest(folder)
    assert installed == ["transformers==5.22.0"]
    installed = serves(versions, monkeypatch, "5.23.0")
    monkeypatch.setenv("CI", "true")
    versions.newest(folder)
    assert installed == ["transformers==5.23.0"]


def test_what_the_environment_does_not_meet_is_unmet(versions: ModuleType, tmp_path: Path) -> None:
    needed = ["pytest>=1", "pytest<1", "no-such-package", "other; extra == 'x'", "Present_One>=2", "present.one<2.1"]
    release(tmp_path, "transformers", "5.0.0", *needed)
    release(tmp_path, "present_one", "2.1")
    assert versions.unmet(tmp_path) == ["pytest<1", "no-such-package", "present.one<2.1"]


def test_pyproject_s_range_is_what_is_asked_for(versions: ModuleType) -> None:
    asked = versions.Requirement(versions._supported())
    assert asked.name == "transformers"
    assert asked.specifier.contains(PINNED)
