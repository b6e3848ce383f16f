"""`benchmarks/structure.py`: what it counts in a made-up package, and that its walk passes through ours."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "structure.py"
FILES = {
    "__init__.py": "from pack.core import run\n",
    "core.py": "def run():\n    from pack.parts import helper\n    return helper\n",
    "parts/__init__.py": "from pack.parts.tool import helper\n",
    "parts/tool.py": "def helper():\n    def inner():\n        pass\n    return inner\n",
    "user.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack import run\nNAME = 'pack.lone'\n",
    "lone.py": "class Lone:\n    def long(self):\n" + "        self.x = 1\n" * 60,
}


def test_counts_of_a_package(tmp_path: Path) -> None:
    for name, text in FILES.items():
        file = tmp_path / "pack" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    source = runpy.run_path(str(SCRIPT))["read_source"](tmp_path / "pack")
    assert source.importers["pack.core"] == {"pack", "pack.user"}  # by way of the package
    assert source.importers["pack.parts.tool"] == {"pack.parts", "pack.core"}
    assert source.importers["pack.lone"] == {"pack.user"}  # named in text
    record = source.record()
    assert record["modules"] == 4
    assert record["one_importer"] == 1
    assert record["splinters"] == 0  # 62 lines
    assert record["functions"] == 4
    assert record["long_functions"] == ["lone.py:long (61)"]


def test_the_walk_counts_files_and_calls_of_each_layer() -> None:
    namespace = runpy.run_path(str(SCRIPT))
    prompt, step = namespace["walk"]("cpu", "ragged")
    assert len(prompt.layers) == len(step.layers) == namespace["NUM_LAYERS"]
    for forward in (prompt, step):
        for layer in forward.layers:
            assert 0 < layer.count < forward.whole.count
            assert set(layer.files) <= set(forward.whole.files)
            assert "hf/layer.py" in layer.files
    assert any(file.startswith("scoring/") for file in prompt.layers[0].files)
    assert not any(file.startswith("scoring/") for file in step.layers[0].files)
