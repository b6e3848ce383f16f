"""Building the C kernels with the machine's compiler, once for all runs, and loading them."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

from lavakv.files import put_in_place
from lavakv.native.trust import is_own_file, safe_folder
from lavakv.paths import HOME_VARIABLE, home

SOURCES = Path(__file__).parent
SWITCH = "LAVAKV_COMPILE"
_OPTIONS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_COMPILE_TIMEOUT_SECONDS = 60


class Library(ctypes.CDLL):
    """The loaded kernels, their functions typed."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        for function in (self.lavakv_chunk_entries, self.lavakv_chunk_bytes):
            function.restype, function.argtypes = ctypes.c_int64, []
        pointer = ctypes.c_void_p
        self.lavakv_decode.restype = None
        self.lavakv_decode.argtypes = [pointer, ctypes.c_float, *[pointer] * 14]
        self.lavakv_add_received.restype = None
        self.lavakv_add_received.argtypes = [pointer, ctypes.c_float, *[pointer] * 3]
        self.chunk_entries, self.chunk_bytes = int(self.lavakv_chunk_entries()), int(self.lavakv_chunk_bytes())


def compiler() -> list[str] | None:
    """The C compiler's command: `CC`, or the first of cc, gcc and clang; None if there is none."""
    try:
        chosen = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # unbalanced quotes
        return None
    if chosen:
        return chosen
    found = next((path for path in map(shutil.which, ("cc", "gcc", "clang")) if path), None)
    return [found] if found else None


def folder() -> Path:
    """Where built kernels are kept between runs: `native` in lavakv's folder."""
    return home() / "native"


@functools.cache
def library(folder: Path) -> Library | None:
    """The kernels, built if this machine has not built them yet; None where that is switched off or fails.

    They are loaded only from a folder that belongs to the user and that nobody else can write to (`native/trust.py`).
    Otherwise this process builds them in a private folder, and one warning says why.

    Args:
        folder: where built kernels are kept.
    """
    command = None if os.environ.get(SWITCH) == "0" else compiler()
    if command is None:
        return None
    try:
        folder, reason = safe_folder(folder)
    except OSError as error:
        warnings.warn(f"lavakv: no compiled kernels are used: {error.strerror or error}", stacklevel=2)
        return None
    if reason is not None:
        warnings.warn(_not_kept(reason), stacklevel=2)
    for threads in (["-fopenmp"], []) if _has_openmp() else ([],):
        try:
            return Library(_built(folder, [*command, *_OPTIONS, *threads]))
        except (OSError, subprocess.SubprocessError):
            continue  # without threads next, else no kernels
    return None


def _not_kept(reason: str) -> str:
    return (
        f"lavakv: compiled kernels are not loaded from where they are kept, because {reason}. This process builds them "
        f"in a private folder. To keep them, set {HOME_VARIABLE} to a folder of your own that only you can write to."
    )


def _has_openmp() -> bool:
    """True if PyTorch has loaded GNU OpenMP, whose threads the kernels may use; a second copy would compete with it."""
    return hasattr(ctypes.CDLL(None), "GOMP_parallel") if os.name == "posix" else False


def _built(folder: Path, command: list[str]) -> Path:
    """Path of the shared library for these sources, command and processor; built if it is not there."""
    sources = sorted(SOURCES.glob("*.c"))
    texts = [source.read_text() for source in (*sources, *sorted(SOURCES.glob("*.h")))]
    about = [*texts, *command, platform.machine(), platform.processor(), _processor()]
    name = hashlib.sha256("\0".join(about).encode()).hexdigest()[:20]
    final = folder / f"kernels-{name}.so"
    if not is_own_file(final):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            staged = Path(scratch) / final.name
            subprocess.run(
                [*command, *map(str, sources), "-o", str(staged), "-lm"],
                check=True,
                capture_output=True,
                timeout=_COMPILE_TIMEOUT_SECONDS,
            )
            put_in_place(staged, final, 0o700)  # other processes see all of it or nothing
    return final


def _processor() -> str:
    """Processor model and features as Linux lists them: code for another may use instructions that this one lacks."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
