"""Tests the wheel as users install it: in an empty environment, outside the checkout, reading nothing from it.

    python .ci/wheel.py DIST   # the folder that holds exactly one wheel and one source distribution

Installs the wheel with its `gguf` extra and the pinned versions into a new virtual environment in a temporary folder,
and runs there the README's Python and the command line. An audit hook in that environment notes every file, folder and
process that names the checkout; there must be none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests import readme  # noqa: E402

_HOOK = """
import os, sys
_log, _root = os.environ.get("LAVAKV_TEST_LOG"), os.environ.get("LAVAKV_TEST_ROOT")
def _note(event, args):
    if event in ("open", "os.listdir", "os.scandir", "subprocess.Popen", "ctypes.dlopen"):
        if _root in " ".join(str(a) for a in args[:3]):  # a process's environment, the fourth, names it anyway
            descriptor = os.open(_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(descriptor, f"{event} {args}\\n".encode())
            os.close(descriptor)
if _log and _root:
    sys.addaudithook(_note)
"""


class Installed:
    """A virtual environment that holds the wheel, and a working folder beside it.

    Args:
        folder: an empty folder outside the checkout.
        wheel: the file to install.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.work, self.log = folder / "work", folder / "opened"
        self.work.mkdir()
        venv.create(folder / "venv", with_pip=True)
        self.bin = folder / "venv" / "bin"
        constraints = shutil.copy(ROOT / "constraints.txt", folder)  # pip, too, is outside the checkout
        pip = [str(self.bin / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", constraints, f"{shutil.copy(wheel, folder)}[gguf]"], cwd=self.work, check=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.environment = {**kept, "LAVAKV_TEST_LOG": str(self.log), "LAVAKV_TEST_ROOT": str(ROOT)}
        self.environment["PATH"] = f"{self.bin}{os.pathsep}{os.environ.get('PATH', '')}"
        for variable in ("VIRTUAL_ENV", "OLDPWD", "PWD"):
            self.environment.pop(variable, None)
        site = self.python("import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        (Path(site) / "lavakv_audit.py").write_text(_HOOK)
        (Path(site) / "lavakv_audit.pth").write_text("import lavakv_audit\n")  # run at every start

    def run(self, *command: str) -> str:
        """What a command prints, in the working folder.

        Raises:
            AssertionError: it failed.
        """
        done = subprocess.run(
            command, cwd=self.work, env=self.environment, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def lavakv(self, *arguments: str) -> str:
        """The installed command."""
        return self.run(str(self.bin / "lavakv"), *arguments)

    def python(self, code: str) -> str:
        """The environment's interpreter."""
        return self.run(str(self.bin / "python"), "-c", code)

    def opened(self) -> list[str]:
        """What was read from the checkout since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


def check_contents(wheel: Path) -> None:
    """Every data file of the source tree is in the wheel, and nothing but the package."""
    package = ROOT / "src" / "lavakv"
    files = [file for file in package.rglob("*") if file.is_file() and file.suffix not in (".pyc", ".pyo")]
    expected = {file.relative_to(package.parent).as_posix() for file in files}
    there = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert there == expected, f"not in both the tree and the wheel: {sorted(there ^ expected)}"
    for ending in ("/py.typed", ".c", ".h", "/layout.md", ".html", ".css", ".js"):
        assert any(name.endswith(ending) for name in there), f"no file *{ending} in the wheel"


def check_installed(place: Installed) -> None:
    """The package lies in the environment, and the hook would notice a file of the checkout."""
    where = Path(place.python("import lavakv; print(lavakv.__file__)").strip())
    assert where.is_relative_to(place.bin.parent), where
    assert place.opened() == []
    place.python(f"open({str(readme.README)!r}).close()")
    assert len(place.opened()) == 1, "the audit hook does not work"


def check_commands(place: Installed) -> None:
    """The command line, with the compiled kernels rebuilt from the wheel's own sources."""
    commands = place.lavakv("--help")
    assert "generate" in commands
    native = place.python(
        "from pathlib import Path\nfrom lavakv.native import build\n"
        f"found = build.library(Path({str(place.work / 'native')!r}))\nprint(build.compiler() is None or bool(found))"
    )
    assert native.strip() == "True", "the kernels could not be built from the wheel"
    prompt = ("What is this about?", "--file", "long.txt")
    answer = json.loads(place.lavakv("generate", *prompt, "--keep", "0.5", "--max-new-tokens", "4", "--json"))
    assert answer["new_tokens"] >= 1
    assert answer["kept_fraction"] < 0.6
    place.lavakv("inspect", *prompt, "--policies", "lava", "--budgets", "64", "--no-text", "--out", "inspect.html")
    assert "</html>" in (place.work / "inspect.html").read_text()
    if "doctor" in commands:
        place.lavakv("doctor")


def check_readme(place: Installed) -> None:
    """The README's Python, on the model that the installed command has fetched."""
    model = json.loads(place.lavakv("models", "--fetch", "--json"))["folder"]
    environment = {**place.environment, **readme.prepare(place.work, Path(model))}
    (block,) = readme.code_blocks(readme.README.read_text(encoding="utf-8"), "python")
    outcome = readme.run_block([str(place.bin / "python")], block, place.work, environment)
    assert outcome.nbytes == readme.exact_bytes(outcome.new_tokens)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say what was done and how long it took."""
    start = time.perf_counter()
    yield
    print(f"wheel: {name}, {time.perf_counter() - start:.0f} s", flush=True)


def main(dist: Path) -> None:
    """Run all checks."""
    (wheel,), (_,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    check_contents(wheel)
    with tempfile.TemporaryDirectory(prefix="lavakv-wheel-") as name:
        folder = Path(name).resolve()
        assert not folder.is_relative_to(ROOT)
        with step("installed into an empty environment"):
            place = Installed(folder, wheel)
            check_installed(place)
        with step("the README's Python runs"):
            check_readme(place)
        with step("the command runs"):
            check_commands(place)
        opened = place.opened()
    assert opened == [], "read from the checkout:\n" + "\n".join(opened)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
