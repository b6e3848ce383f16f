#!/usr/bin/env bash
# All that a GPU is needed for, in one command of less than ten minutes: tests/gpu, then benchmarks/gpu.py.
#
#     bash benchmarks/gpu_check.sh          PYTHON=... for another interpreter, LOG=FILE to keep what is printed
#
# Needs PyTorch with CUDA, Triton and transformers. tests/gpu also needs pytest and hypothesis; without them this says
# so and goes on. Exit code 2 without a GPU, 1 if a test or a measurement fails.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
if [ -n "${LOG:-}" ]; then exec > >(tee "$LOG") 2>&1; fi
python=${PYTHON:-python3}
seconds=${SECONDS_IN_ALL:-560} # of the whole check
test_seconds=150 bench_seconds=300
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

left() { echo $((seconds - SECONDS)); }
at_most() { [ "$1" -lt "$2" ] && echo "$1" || echo "$2"; }

"$python" -c '
import sys
from importlib.metadata import version
from importlib.util import find_spec
absent = [name for name in ("torch", "transformers") if find_spec(name) is None]
if absent:
    sys.exit("gpu-check: " + " and ".join(absent) + " not installed; nothing was run.")
import torch
if not torch.cuda.is_available():
    sys.exit("gpu-check: no GPU that torch can use; nothing was run.")
free, total = (size / 1e9 for size in torch.cuda.mem_get_info())
transformers_version = version("transformers")
triton = version("triton") if find_spec("triton") else "missing"
print(f"gpu-check: {torch.cuda.get_device_name()}, {free:.1f} of {total:.1f} GB free; torch {torch.__version__}, "
      f"CUDA {torch.version.cuda}, Triton {triton}, transformers {transformers_version}")
' || exit 2

failed=0
missing=$("$python" -c '
from importlib.util import find_spec
print(" and ".join(name for name in ("pytest", "hypothesis") if find_spec(name) is None))')
if [ -n "$missing" ]; then
    echo "gpu-check: tests/gpu not run: $missing not installed. Put them on PYTHONPATH to run them."
else
    echo "gpu-check: tests/gpu, at most $test_seconds s"
    timeout "$test_seconds" "$python" -m pytest -q -rs -p no:cacheprovider tests/gpu ||
        { code=$?; failed=1; echo "gpu-check: tests/gpu ended with exit code $code (124: out of time)"; }
fi

rest=$(left)
echo "gpu-check: benchmarks/gpu.py, $rest s left"
timeout "$rest" "$python" benchmarks/gpu.py --no-tests --seconds "$(at_most $((rest - 30)) "$bench_seconds")" "$@" ||
    { code=$?; failed=1; echo "gpu-check: benchmarks/gpu.py ended with exit code $code (124: out of time)"; }
echo "gpu-check: done after $SECONDS s"
exit "$failed"
