"""Reading downward is the data's way: a stage knows only what comes before it, and the core knows no engine."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lavakv

ROOT = Path(lavakv.__file__).parent
STAGES = [
    "_version",
    "errors",
    "files",
    "paths",
    "kernels",
    "native",
    "scoring",
    "budgets",
    "policy",
    "selection",
    "store",
    "attention",
    "eviction",
    "hf",
    "vllm",
    "models",
    "tasks",
    "evaluation",
    "_lm_eval",
    "report",
    "bench",
    "demo",
    "diagnosis",
    "cli",
    "lm_eval",
]
ENGINE_FREE = STAGES[: STAGES.index("hf")]
CORE_MAY_IMPORT = {"lavakv", "numpy", "torch", "typing_extensions", *sys.stdlib_module_names}
MAY_IMPORT_TRITON = {ROOT / "scoring" / "triton", ROOT / "attention" / "triton"}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def stage_of(module: str) -> str:
    """Stage of `lavakv.<stage>...`; the package itself imports the whole core."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ENGINE_FREE[-1]


def imported_by(source: str) -> set[str]:
    """Modules that a file imports anywhere, functions and type-checking blocks included."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their stage"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules.update(names if node.module == "lavakv" else {node.module})
    return modules


def too_late(path: Path, source: str) -> list[str]:
    """Imports of stages that come after the file's own."""
    own = STAGES.index(path.relative_to(ROOT).parts[0].removesuffix(".py"))
    ours = {module for module in imported_by(source) if module.split(".")[0] == "lavakv"}
    return sorted(module for module in ours if STAGES.index(stage_of(module)) > own)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_stage_imports_only_earlier_ones(path: Path) -> None:
    assert too_late(path, path.read_text()) == []


def test_the_test_itself_sees_a_late_import() -> None:
    """Inside a function, and by way of the package, too."""
    lazy = "def f():\n    from lavakv.hf.cache import LavaCache\n"
    assert too_late(ROOT / "store" / "ragged.py", lazy) == ["lavakv.hf.cache"]
    assert too_late(ROOT / "budgets" / "split.py", "from lavakv import selection") == ["lavakv.selection"]
    assert too_late(ROOT / "budgets" / "split.py", "import lavakv") == ["lavakv"]
    assert too_late(ROOT / "policy" / "rules.py", "import lavakv.scoring.lava, torch") == []


def test_every_stage_has_its_place() -> None:
    there = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES}
    assert there <= set(STAGES), "a new stage needs a place in STAGES"


@pytest.mark.parametrize("stage", ENGINE_FREE)
def test_the_core_imports_nothing_but_torch(stage: str) -> None:
    files = [path for path in FILES if path.relative_to(ROOT).parts[0].removesuffix(".py") == stage]
    assert files
    foreign = {
        module.split(".")[0]
        for path in files
        for module in imported_by(path.read_text())
        if module.split(".")[0] != "triton" or not MAY_IMPORT_TRITON & set(path.parents)
    } - CORE_MAY_IMPORT
    assert foreign == set()


def test_only_its_own_folder_knows_vllm() -> None:
    """And that folder knows no other engine."""
    importers = {path.relative_to(ROOT).parts[0] for path in FILES if "vllm" in roots(path)}
    assert importers == {"vllm"}
    for path in (ROOT / "vllm").glob("*.py"):
        assert "transformers" not in roots(path)
        assert not any(module.startswith("lavakv.hf") for module in imported_by(path.read_text()))


def roots(path: Path) -> set[str]:
    """Packages that a file imports."""
    return {module.split(".")[0] for module in imported_by(path.read_text())}


def test_using_the_core_loads_no_engine() -> None:
    program = """
import sys
import torch
import lavakv
scores = lavakv.scores("lava", torch.randn(4, 2, 8), torch.randn(2, 20, 8), torch.randn(2, 20, 8))
assert lavakv.select("lava", [scores], budget=8, window=2).counts.sum() == 16
lavakv.worst_case_entries(100, 64, [2], 32)
import lavakv.attention, lavakv.eviction.round, lavakv.store.masked
loaded = sorted({"transformers", "vllm", "triton", "typer", "rich"} & set(sys.modules))
assert not loaded, loaded
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_package_offers_what_it_lists() -> None:
    for name in lavakv.__all__:
        assert getattr(lavakv, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lavakv.nonsense  # noqa: B018
