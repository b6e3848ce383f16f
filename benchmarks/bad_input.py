"""Response time to mistakes on the command line, which must give one clear line and exit code 2.

Runs the command once for each kind of bad input below, with small broken files in a temporary folder, and repeats them
--rounds times in turns, so that a busy moment does not affect one kind alone. Prints the median of each kind in seconds
and one JSON line last. Exit code 1 if an answer was not exit code 2 in one line that names what is wrong, or if a
median is over the limit.

lavakv must be installed, or its source on the path:

    PYTHONPATH=src python benchmarks/bad_input.py
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

LIMIT_SECONDS = 1.5
COMMAND = "import sys; from lavakv.cli.main import main; sys.exit(main())"


class Kind(NamedTuple):
    """A kind of bad input.

    Attributes:
        arguments: of `lavakv`; FOLDER stands for the folder of `make_files`.
        named: text that the answer must contain: the wrong argument.
    """

    arguments: tuple[str, ...]
    named: str


_MODEL = ("-m", "FOLDER/model")
_OUT = ("--out", "FOLDER/run")
KINDS: dict[str, Kind] = {
    # the line itself
    "unknown command": Kind(("generat", "hi"), "generat"),
    "unknown option": Kind(("generate", "hi", "--budgte", "9"), "--budgte"),
    "option without a value": Kind(("generate", "hi", "--budget"), "--budget"),
    "missing argument": Kind(("report",), "run"),
    "number that is none": Kind(("generate", "hi", "--budget", "2.5"), "--budget"),
    "number out of range": Kind(("bench", "--rounds", "0"), "--rounds"),
    "time limit that is no number": Kind(("bench", "--shape", "tiny", "--seconds", "nan"), "seconds"),
    "compilation of what is left out": Kind(("bench", "--shape", "tiny", "--compiled", "--no-generate"), "compiled"),
    "seed beyond 63 bits": Kind(("generate", "hi", "--seed", str(2**63)), "--seed"),
    "temperature that is no number": Kind(("generate", "hi", "--temperature", "nan"), "--temperature"),
    # budgets
    "kept fraction of zero": Kind(("generate", "hi", "--keep", "0%"), "--keep"),
    "kept fraction over one": Kind(("compare", "hi", "--keep", "50%,120%"), "--keep"),
    "kept fraction in words": Kind(("inspect", "hi", "--keep", "half"), "--keep"),
    "percent sign alone": Kind(("eval", "--tasks", "needle", *_OUT, "--keep", "%"), "--keep"),
    "two budgets": Kind(("generate", "hi", "--budget", "9", "--keep", "0.5"), "budget and keep"),
    "budget of zero": Kind(("compare", "hi", "--budgets", "0"), "budget"),
    "budgets that are no list": Kind(("compare", "hi", "--budgets", "64;128"), "--budgets"),
    "budget given twice": Kind(("inspect", "hi", "--budgets", "64,64"), "budgets"),
    "bytes in words": Kind(("generate", "hi", "--max-bytes", "lots"), "max_bytes"),
    "window of zero": Kind(("generate", "hi", "--window", "0"), "window"),
    "budget within the window": Kind(("bench", "--shape", "tiny", "--tokens", "99", "--budgets", "32"), "budget"),
    "budget for the full cache": Kind(("generate", "hi", "--full-cache", "--budget", "9"), "--full-cache"),
    # names
    "unknown policy": Kind(("generate", "hi", "--policy", "snap"), "--policy"),
    "unknown policy in a list": Kind(("compare", "hi", "--policies", "lava,snap"), "--policies"),
    "policy given twice": Kind(("inspect", "hi", "--policies", "lava,lava"), "policies"),
    "unknown task": Kind(("eval", *_MODEL, "--tasks", "longbench_lc", *_OUT), "task"),
    "pattern of no task": Kind(("eval", *_MODEL, "--tasks", "long*x", *_OUT), "--tasks"),
    "unknown preset": Kind(("eval", "--preset", "mine", *_OUT), "--preset"),
    "unknown mode": Kind(("eval", *_MODEL, "--tasks", "needle", *_OUT, "--mode", "later"), "--mode"),
    "unknown half": Kind(("eval", *_MODEL, "--tasks", "needle", *_OUT, "--half", "first"), "--half"),
    "positions below zero": Kind(("eval", *_MODEL, "--tasks", "needle", *_OUT, "--kl", "-1"), "--kl"),
    "answers of no token": Kind(
        ("eval", *_MODEL, "--tasks", "needle", *_OUT, "--max-new-tokens", "0"), "--max-new-tokens"
    ),
    "lengths of zero": Kind(("eval", *_MODEL, "--tasks", "needle", *_OUT, "--lengths", "0"), "lengths"),
    "depth beyond the prompt": Kind(("eval", *_MODEL, "--tasks", "needle", *_OUT, "--depths", "150"), "depths"),
    "unknown dtype": Kind(("generate", "hi", *_MODEL, "--dtype", "int4"), "--dtype"),
    "unknown device": Kind(("compare", "hi", *_MODEL, "--device", "abacus"), "--device"),
    "unknown attention": Kind(("inspect", "hi", *_MODEL, "--attention", "sdap"), "--attention"),
    "unknown shape": Kind(("bench", "--shape", "huge"), "--shape"),
    "a model and a shape": Kind(("bench", *_MODEL, "--shape", "tiny"), "--model, --shape"),
    # models
    "model that does not exist": Kind(("generate", "hi", "-m", "FOLDER/none"), "model"),
    "directory without a model": Kind(("demo", "-m", "FOLDER"), "model"),
    "config that is no JSON": Kind(("compare", "hi", "-m", "FOLDER/broken"), "config.json"),
    "model without weights": Kind(("bench", "-m", "FOLDER/weightless"), "model"),
    "adapter without its base": Kind(("generate", "hi", "-m", "FOLDER/adapter"), "model"),
    "file that is no GGUF": Kind(("generate", "hi", "-m", "FOLDER/no.gguf"), "model file"),
    # files and folders
    "prompt file that does not exist": Kind(("generate", *_MODEL, "-f", "FOLDER/none.txt"), "--file"),
    "prompt file that is a folder": Kind(("compare", *_MODEL, "-f", "FOLDER"), "--file"),
    "prompt file that is no text": Kind(("inspect", *_MODEL, "-f", "FOLDER/no.txt"), "--file"),
    "blank prompt": Kind(("generate", "  ", *_MODEL), "prompt"),
    "blank question": Kind(("compare", "hi", *_MODEL, "-q", " "), "--question"),
    "CSV in a folder that does not exist": Kind(("compare", "hi", *_MODEL, "--csv", "FOLDER/none/x.csv"), "--csv"),
    "plot of an unknown kind": Kind(("compare", "hi", *_MODEL, "--plot", "FOLDER/x.doc"), "--plot"),
    "CSV and plot in one file": Kind(
        ("compare", "hi", *_MODEL, "--csv", "FOLDER/x.svg", "--plot", "FOLDER/x.svg"), "--plot"
    ),
    "server within the window": Kind(("serve", "smollm2", "--budget", "20"), "budget"),
    "server on no port": Kind(("serve", "smollm2", "--", "--port", "x"), "--port"),
    "server on two devices": Kind(("serve", "smollm2", "--", "-tp", "2"), "--tensor-parallel-size"),
    "text to compress that does not exist": Kind(("compress", "FOLDER/none.txt", *_MODEL, "-o", "FOLDER/x"), "FILE"),
    "no file for a context": Kind(("compress", "FOLDER/notes.md", *_MODEL), "--out"),
    "context below a file": Kind(("compress", "FOLDER/notes.md", *_MODEL, "-o", "FOLDER/no.txt/x"), "--out"),
    "context that does not exist": Kind(("generate", "hi", *_MODEL, "--context", "FOLDER/none"), "--context"),
    "context that is a folder": Kind(("generate", "hi", *_MODEL, "--context", "FOLDER"), "--context"),
    "context that is none": Kind(("generate", "hi", *_MODEL, "--context", "FOLDER/no.gguf"), "--context"),
    "context that is cut": Kind(("generate", "hi", *_MODEL, "--context", "FOLDER/cut.safetensors"), "--context"),
    "context of a newer format": Kind(("generate", "hi", *_MODEL, "--context", "FOLDER/new.safetensors"), "--context"),
    "context of another model": Kind(("generate", "hi", *_MODEL, "--context", "FOLDER/qwen2.safetensors"), "--model"),
    "context of another dtype": Kind(
        ("generate", "hi", *_MODEL, "--dtype", "float16", "--context", "FOLDER/llama.safetensors"), "--dtype"
    ),
    "context of several sequences": Kind(
        ("generate", "hi", *_MODEL, "--context", "FOLDER/two.safetensors"), "--context"
    ),
    "budget beside a context": Kind(
        ("generate", "hi", *_MODEL, "--context", "FOLDER/llama.safetensors", "--keep", "0.5"), "--keep"
    ),
    "page that is a folder": Kind(("inspect", "hi", *_MODEL, "-o", "FOLDER"), "--out"),
    "page below a file": Kind(("inspect", "hi", *_MODEL, "-o", "FOLDER/no.txt/x.html"), "--out"),
    "no results folder": Kind(("eval", *_MODEL, "--tasks", "needle"), "--out"),
    "results folder that is a file": Kind(("eval", *_MODEL, "--tasks", "needle", "--out", "FOLDER/no.txt"), "no.txt"),
    "results folder of another version": Kind(
        ("eval", *_MODEL, "--tasks", "needle", "--out", "FOLDER/old"), "run.json"
    ),
    "data folder that does not exist": Kind(
        ("eval", *_MODEL, "--tasks", "needle", *_OUT, "--data-dir", "FOLDER/none"), "--data-dir"
    ),
    "nothing to score again": Kind(("eval", "--rescore", "--out", "FOLDER/none"), "--out"),
    "benchmark folder in use": Kind(("bench", "--shape", "tiny", "--tokens", "99", "--out", "FOLDER/bench"), "--out"),
    "run that does not exist": Kind(("report", "FOLDER/none"), "run"),
    "several runs without a page": Kind(("report", "FOLDER/records", "FOLDER/records"), "run"),
    "page that is no Markdown": Kind(("report", "FOLDER/records", "--page", "FOLDER/x.html"), "--page"),
    "page that holds something else": Kind(("report", "FOLDER/records", "--page", "FOLDER/notes.md"), "--page"),
    "record that is broken": Kind(("report", "FOLDER/records"), "records.jsonl, line 1"),
}


def make_files(folder: Path) -> None:
    """Make the files that the kinds refer to: a model without weights, broken models, and results."""
    for name, files in {
        "model": {"config.json": '{"model_type": "llama"}', "model.safetensors": ""},
        "broken": {"config.json": "{", "model.safetensors": ""},
        "weightless": {"config.json": '{"model_type": "llama"}'},
        "adapter": {"adapter_config.json": "{}", "adapter_model.safetensors": ""},
        "old": {"run.json": '{"schema": 0}', "records.jsonl": ""},
        "bench": {"results.jsonl": ""},
        "records": {"records.jsonl": "{}\n"},
    }.items():
        (folder / name).mkdir()
        for file, text in files.items():
            (folder / name / file).write_text(text)
    contexts: dict[str, dict[str, object]] = {
        "llama": {}, "qwen2": {"model": {"config_type": "qwen2"}}, "two": {"batch": 2}, "new": {"format": 99},
    }  # fmt: skip
    for name, changes in contexts.items():
        (folder / f"{name}.safetensors").write_bytes(context_of(changes))
    (folder / "cut.safetensors").write_bytes(context_of({})[:-20])
    (folder / "notes.md").write_text("# Notes")
    (folder / "no.gguf").write_bytes(b"PK\x03\x04 a zip")
    (folder / "no.txt").write_bytes(b"\xff\xfe\xff")


def context_of(changes: dict[str, object]) -> bytes:
    """A saved context without tensors, whose header is believed until the model is loaded."""
    about: dict[str, object] = {"model": {"config_type": "llama", "dtype": "float32"}, "policy": "lava", "batch": 1}
    about |= {"policy_is_named": True, "store": "ragged", "columns": 9, "layers": [], "checksum": "", "format": 1}
    about |= {name: {} for name in ("budget", "state", "versions", "notes")}
    text = json.dumps({"__metadata__": {"lavakv": json.dumps(about | changes)}}).encode()
    return len(text).to_bytes(8, "little") + text


def arguments_of(kind: Kind, folder: Path) -> list[str]:
    """The command line of a kind, with its files in a folder."""
    return [argument.replace("FOLDER", str(folder)) for argument in kind.arguments]


def complaint(kind: Kind, code: int | None, out: str, err: str) -> str | None:
    """The fault of an answer, or None if it is exit code 2 and one line that names the argument."""
    if code != 2:
        return f"exit code {code}"
    if out or err.count("\n") != 1 or not err.startswith("lavakv: "):
        return f"not one line: {out + err!r}"
    return None if kind.named in err else f"{kind.named!r} is not named: {err!r}"


def measured(kind: Kind, folder: Path) -> tuple[float, str | None]:
    """Seconds of one run, and the fault of its answer, or None."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments_of(kind, folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return time.perf_counter() - start, complaint(kind, done.returncode, done.stdout, done.stderr)


def main() -> int:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=KINDS, help="one kind")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    kinds = {options.only: KINDS[options.only]} if options.only else KINDS
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    wrong: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        make_files(Path(scratch))
        for _ in range(options.rounds):
            for name, kind in kinds.items():
                took, fault = measured(kind, Path(scratch))
                seconds[name].append(took)
                if fault is not None:
                    wrong[name] = fault
    medians = {name: round(median(each), 3) for name, each in seconds.items()}
    for name, value in sorted(medians.items(), key=lambda item: -item[1]):
        print(f"{value:7.3f} s  {name}{f': {wrong[name]}' if name in wrong else ''}")
    slowest = max(medians.values())
    counts = {"kinds": len(kinds), "rounds": options.rounds}
    summary = {**counts, "slowest_median_seconds": slowest, "limit_seconds": LIMIT_SECONDS}
    about = {"python": platform.python_version(), "machine": platform.machine()}
    print(json.dumps({**summary, "wrong": wrong, "median_seconds": medians, **about}))
    return int(bool(wrong) or slowest > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
