"""Puts other releases of transformers beside the one in the environment, each in a folder of its own.

    python .ci/versions.py install FOLDER REQUIREMENT   # e.g. .oldest transformers==5.17.0
    python .ci/versions.py newest FOLDER                # what the registry serves today, in pyproject.toml's range

Only transformers itself is installed, and those of its requirements that the environment does not meet. With
PYTHONPATH=FOLDER it takes the place of the environment's. `newest` asks the registry once a day, or always if CI=true.
It leaves FOLDER without transformers where the newest release is the environment's own. Where the registry cannot be
reached it says so and changes nothing; with CI=true that is an error.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
DAY_SECONDS = 24 * 3600
MARK = ".ready"
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def install(folder: Path, requirement: str) -> None:
    """Install a release of transformers into a new folder, all of it or nothing."""
    staged = folder.with_name(folder.name + ".new")
    shutil.rmtree(staged, ignore_errors=True)
    _pip_install(staged, [requirement])
    while missing := unmet(staged):
        _pip_install(staged, missing)
    (staged / MARK).touch()
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)


def unmet(folder: Path) -> list[str]:
    """Requirements of what lies in a folder that neither the folder nor the environment behind it meets."""
    installed = {_name(found): found for found in metadata.distributions(path=[str(folder)])}
    missing = []
    for found in installed.values():
        for text in found.requires or []:
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            version = _version(wanted.name, installed)
            if version is None or not wanted.specifier.contains(version, prereleases=True):
                missing.append(text)
    return missing


def newest(folder: Path) -> None:
    """Bring a folder to the newest release of transformers that lavakv's range allows."""
    in_ci = os.environ.get("CI") == "true"
    supported, pinned = _supported(), metadata.version("transformers")
    if not in_ci and _asked_today(folder) and not _holds(folder, pinned):
        return
    version = _served(supported)
    if version is None or Version(version) < Version(pinned):  # older: only some other index was reached
        print("newest transformers: the registry cannot be reached; tested with what is there", file=sys.stderr)
        if in_ci:
            sys.exit(f"the registry could not be asked for the newest {supported}, and CI has to test it")
        return
    if version == pinned:
        print(f"newest transformers: {version}, the one that is pinned; not tested twice")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    else:
        print(f"newest transformers: {version}, tested beside the pinned {pinned}")
        if not _holds(folder, version) or unmet(folder):
            install(folder, f"transformers=={version}")
    (folder / MARK).touch()


def _asked_today(folder: Path) -> bool:
    mark = folder / MARK
    return mark.exists() and time.time() - mark.stat().st_mtime < DAY_SECONDS


def _holds(folder: Path, version: str) -> bool:
    return (folder / f"transformers-{version}.dist-info").exists()


def _served(requirement: str) -> str | None:
    """The version that would be installed today; None, with pip's reason printed, if pip cannot tell."""
    command = [*PIP, "install", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-", requirement]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return None
    (only,) = json.loads(done.stdout)["install"]
    return str(only["metadata"]["version"])


def _supported() -> str:
    """What pyproject.toml requires of transformers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = (text for text in project["dependencies"] if Requirement(text).name == "transformers")
    return str(found)


def _pip_install(folder: Path, requirements: list[str]) -> None:
    command = [*PIP, "install", "--no-deps", "--upgrade", "--target", str(folder), *requirements]
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"{', '.join(requirements)} could not be installed into {folder}")


def _name(found: metadata.Distribution) -> str:
    return canonicalize_name(str(found.metadata["Name"]))


def _version(name: str, installed: dict[str, metadata.Distribution]) -> str | None:
    try:
        return (installed.get(canonicalize_name(name)) or metadata.distribution(name)).version
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["install", where, what]:
            install(Path(where), what)
        case ["newest", where]:
            newest(Path(where))
        case _:
            sys.exit(__doc__)
