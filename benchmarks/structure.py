"""Size of the source's modules and functions, and how many of them a prompt layer and a decode step use.

Counts modules, those that exactly one other module imports, lines of files and of functions; then runs a prompt and a
decode step of a tiny Llama with a `LavaCache` under a profiler. Prints what it counts and one JSON line last.

A module's importers are the modules of the package that import it anywhere, functions and type-checking blocks
included. A name that a package's `__init__` hands on counts for the module that defines it: both the `__init__` and who
imports the name from the package are its importers. `__init__` files are not counted as modules.

    PYTHONPATH=src python benchmarks/structure.py
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import lavakv
from lavakv.hf.contract import cache_argument

ROOT = Path(lavakv.__file__).parent
SPLINTER_LINES = 60
MAX_FUNCTION_LINES = 60
KERNELS = "triton/kernel.py"
NUM_LAYERS, PROMPT_TOKENS, BUDGET = 4, 96, 32
_MODULE_CALL = torch.nn.Module._wrapped_call_impl.__code__  # around a module's forward and its hooks


class Function(NamedTuple):
    """A function of the source: where it is and how many lines it has, signature and docstring included."""

    file: str
    name: str
    lines: int


class Source(NamedTuple):
    """The package as it is written.

    Attributes:
        lines: lines of each module's file, by dotted name.
        files: each module's file, below the package.
        importers: which modules import each module.
        functions: all functions, kernels left out.
    """

    lines: dict[str, int]
    files: dict[str, str]
    importers: dict[str, set[str]]
    functions: list[Function]

    def record(self) -> dict[str, Any]:
        """The counts, ready for JSON."""
        modules = [name for name in self.lines if not self.files[name].endswith("__init__.py")]
        alone = [name for name in modules if len(self.importers[name]) == 1]
        splinters = sorted(name for name in alone if self.lines[name] < SPLINTER_LINES)
        sizes, lengths = [self.lines[name] for name in modules], sorted(function.lines for function in self.functions)
        too_long = [function for function in self.functions if function.lines > MAX_FUNCTION_LINES]
        return {
            "modules": len(modules),
            "one_importer": len(alone),
            "splinters": len(splinters),
            "file_lines_median": statistics.median(sizes),
            "file_lines_max": max(sizes),
            "functions": len(lengths),
            "function_lines_p90": statistics.quantiles(lengths, n=10)[-1],
            "function_lines_max": lengths[-1],
            "long_functions": [f"{function.file}:{function.name} ({function.lines})" for function in too_long],
            "splinter_names": [f"{self.files[name]} ({self.lines[name]})" for name in splinters],
        }


def read_source(root: Path) -> Source:
    """Parse every file of the package."""
    paths = sorted(root.rglob("*.py"))
    trees = {module_name(path, root): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    names = {module_name(path, root): path for path in paths}
    importers: dict[str, set[str]] = defaultdict(set)
    for name, tree in trees.items():
        for imported in imported_modules(tree, trees):
            if imported != name:
                importers[imported].add(name)
    return Source(
        {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in names.items()},
        {name: path.relative_to(root).as_posix() for name, path in names.items()},
        importers,
        [function for path in paths for function in functions_of(path, root)],
    )


def module_name(path: Path, root: Path) -> str:
    """Dotted name of a file; a package's `__init__` has the package's name."""
    names = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def imported_modules(tree: ast.AST, trees: dict[str, ast.Module]) -> Iterator[str]:
    """Modules of the package that a file imports; text that names one (`"lavakv.hf.cache"`) counts as its import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in trees)
        elif isinstance(node, ast.ImportFrom) and node.module in trees:
            for alias in node.names:
                yield from {node.module, origin(node.module, alias.name, trees)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in trees:
            yield node.value


def origin(module: str, name: str, trees: dict[str, ast.Module]) -> str:
    """The module that a name imported from `module` comes from, through any number of packages' `__init__` files."""
    if f"{module}.{name}" in trees:
        return f"{module}.{name}"
    for node in trees[module].body:
        if isinstance(node, ast.ImportFrom) and node.module in trees:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return origin(node.module, alias.name, trees)
    return module


def functions_of(path: Path, root: Path) -> Iterator[Function]:
    """The functions and methods of a file, nested ones as well; none of a kernel."""
    file = path.relative_to(root).as_posix()
    if file.endswith(KERNELS):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield Function(file, node.name, node.end_lineno - node.lineno + 1)


class Calls:
    """Calls of the package's Python functions between `start` and `stop`; comprehensions are not counted."""

    def __init__(self) -> None:
        self.by_function: dict[tuple[str, str], int] = defaultdict(int)

    @property
    def files(self) -> list[str]:
        """Files in which a function ran."""
        return sorted({file for file, _ in self.by_function})

    @property
    def count(self) -> int:
        """Number of calls."""
        return sum(self.by_function.values())

    def note(self, frame: FrameType) -> None:
        """Count a call, if it is one of the package's."""
        code = frame.f_code
        if code.co_filename.startswith(f"{ROOT}/") and (code.co_name[0] != "<" or code.co_name == "<lambda>"):
            file = Path(code.co_filename).relative_to(ROOT).as_posix()
            self.by_function[file, code.co_qualname] += 1


class Forward:
    """Calls in one forward of a model.

    Attributes:
        layers: calls from the entry of each layer's attention to its return, cache update and eviction included.
        whole: all calls of the forward.
    """

    def __init__(self, model: Any) -> None:
        self.whole = Calls()
        self.layers: list[Calls] = []
        self._attention = {id(layer.self_attn) for layer in model.model.layers}
        self._inside: Calls | None = None

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        is_module = frame.f_code is _MODULE_CALL and event in ("call", "return")
        if is_module and id(frame.f_locals["self"]) in self._attention:
            self._inside = Calls() if event == "call" else None
            self.layers += [] if self._inside is None else [self._inside]
        elif event == "call":
            self.whole.note(frame)
            if self._inside is not None:
                self._inside.note(frame)

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Count what runs within."""
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)


@torch.inference_mode()
def walk(device: str, store: Any) -> tuple[Forward, Forward]:
    """A prompt and a decode step of a tiny Llama, each after one of its kind that is not traced."""
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().to(device)
    ids = torch.randint(0, config.vocab_size, (1, PROMPT_TOKENS), device=device)
    lavakv.enable(model)
    prompt, step = Forward(model), Forward(model)
    for forward in (None, prompt):
        cache = lavakv.LavaCache(config, budget=BUDGET, window=8, store=store)
        _run(model, ids, cache, forward)
    _run(model, ids[:, :1], cache, None)
    _run(model, ids[:, :1], cache, step)
    return prompt, step


def _run(model: Any, ids: torch.Tensor, cache: Any, forward: Forward | None) -> None:
    arguments = cache_argument(model, cache)
    with nullcontext() if forward is None else forward.traced():
        model(ids, **arguments)


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="device of the traced model")
    parser.add_argument("--store", default="ragged", help="store of the traced cache, ragged or masked")
    parser.add_argument("--calls", action="store_true", help="list the calls of one layer, prompt and decode step")
    options = parser.parse_args()
    record = read_source(ROOT).record()
    prompt, step = walk(options.device, options.store)
    most_files = max(prompt.layers, key=lambda layer: len(layer.files))
    most_calls = max(step.layers, key=lambda layer: layer.count)
    record |= {
        "prompt_layer_files": len(most_files.files),
        "prompt_files_of_each_layer": [len(layer.files) for layer in prompt.layers],
        "prompt_forward_files": len(prompt.whole.files),
        "prompt_calls_per_layer": prompt.whole.count / NUM_LAYERS,
        "decode_layer_files": len(most_calls.files),
        "decode_layer_calls": most_calls.count,
        "decode_calls_of_each_layer": [layer.count for layer in step.layers],
        "decode_calls_per_layer": step.whole.count / NUM_LAYERS,
        "device": options.device,
    }
    for title, calls in (("prompt layer", most_files), ("decode layer", most_calls)):
        print(f"{title}: {len(calls.files)} files, {calls.count} calls")
        for (file, name), count in sorted(calls.by_function.items()) if options.calls else ():
            print(f"  {count:4} {file} {name}")
    for name, value in record.items():
        print(f"{name}: {value}" if not isinstance(value, list) else f"{name}:\n  " + "\n  ".join(map(str, value)))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
