"""Where the tests of the installed transformers come from, and what is said where they are not to be had."""

from __future__ import annotations

import tarfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.compat.standin import make_checkout
from transformers_suite import sources
from transformers_suite.__main__ import main, select

VERSION = metadata.version("transformers")


def run(*arguments: str, build: Path) -> int:
    return main([*arguments, "--build", str(build)])


def test_a_source_distribution_without_the_tests_asks_for_a_folder(tmp_path: Path, capsys) -> None:
    (tmp_path / f"transformers-{VERSION}" / "tests").mkdir(parents=True)
    assert run(build=tmp_path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"checkout of transformers {VERSION}" in lines[0]
    assert "TRANSFORMERS_TESTS=DIR" in lines[0]


def test_a_source_distribution_with_the_tests_is_fetched_once(tmp_path: Path, monkeypatch) -> None:
    calls = []

    def download(command: list[str], **_: object) -> SimpleNamespace:
        calls.append(command)
        made = make_checkout(tmp_path / "made" / f"transformers-{VERSION}", VERSION)
        with tarfile.open(Path(command[command.index("--dest") + 1]) / "transformers.tar.gz", "w:gz") as archive:
            archive.add(made, made.name)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(sources.subprocess, "run", download)
    build = tmp_path / "build"
    for _ in range(2):
        assert sources.find_checkout(None, build) == build / f"transformers-{VERSION}"
    assert len(calls) == 1
    assert calls[0][-1] == f"transformers=={VERSION}"
    assert [found.name for found in build.iterdir()] == [f"transformers-{VERSION}"]


def test_a_registry_out_of_reach(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sources.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    assert run(build=tmp_path) == 2
    assert "could not be fetched" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nowhere", ".", "checkout/tests/models"])
def test_a_folder_that_has_none(name: str, tmp_path: Path, capsys) -> None:
    make_checkout(tmp_path / "checkout", VERSION)
    assert run("--tests", str(tmp_path / name), build=tmp_path / "build") == 2
    assert "is neither a checkout of transformers nor the tests folder of one" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "tests"])
def test_a_checkout_or_its_tests(name: str, tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout", VERSION)
    assert sources.find_checkout(str(checkout / name), tmp_path) == checkout


def test_another_version_is_refused_unless_accepted(tmp_path: Path, capsys) -> None:
    checkout = make_checkout(tmp_path / "checkout", "4.0.0")
    assert run("--tests", str(checkout), build=tmp_path) == 2
    assert f"is transformers 4.0.0, and {VERSION} is installed" in capsys.readouterr().err
    assert sources.find_checkout(str(checkout), tmp_path, any_version=True) == checkout


def test_tests_that_do_not_say_their_version_are_run_with_a_note(tmp_path: Path, capsys) -> None:
    checkout = make_checkout(tmp_path / "checkout", None)
    assert sources.find_checkout(str(checkout / "tests"), tmp_path) == checkout
    assert "does not state its version" in capsys.readouterr().out


def test_models_by_name(tmp_path: Path, capsys) -> None:
    checkout = make_checkout(tmp_path / "checkout", VERSION)
    assert select(checkout, "toy") == ["tests/models/toy/test_modeling_toy.py"]
    assert len(select(checkout, None)) == 2
    assert run("--tests", str(checkout), "--models", "toy,lama", build=tmp_path) == 2
    assert "no tests of lama" in capsys.readouterr().err


def test_the_tests_find_the_installed_transformers_as_their_source(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout", VERSION)
    (checkout / "src" / "transformers").mkdir(parents=True)
    sources.copy_tests(checkout, tmp_path / "copy")
    assert (tmp_path / "copy" / "src" / "transformers" / "__init__.py").samefile(
        sources.importlib.util.find_spec("transformers").origin
    )
    assert (tmp_path / "copy" / "tests" / "generation" / "test_utils.py").exists()
