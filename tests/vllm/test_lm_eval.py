"""lm-evaluation-harness as a client of `lavakv serve`: the scores of `lavakv eval` at the same budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import lavakv
from lavakv.evaluation.records import read_records
from tests.vllm.model import prompt

if find_spec("lm_eval") is None or find_spec("tenacity") is None:
    pytest.skip("lm-eval[api] is not installed", allow_module_level=True)

NUM_NEW = 6
TASK = """\
include: {harness}
task: triviaqa_local
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{train: {file}, validation: {file}}}}}
"""


def make_data(folder: Path, hf_model: Any, tokenizer: Any) -> Path:
    """Eight questions of hundreds of words, as TriviaQA has them; to every other one the answer is the model's own."""
    records = []
    for index in range(8):
        question = " ".join(f"w{token}" for token in prompt(300 + 40 * index, index))
        ids = tokenizer(f"Question: {question}?\nAnswer:", return_tensors="pt").input_ids
        cache = lavakv.LavaCache(hf_model.config, keep=0.25, window=16)
        made = hf_model.generate(ids, past_key_values=cache, max_new_tokens=NUM_NEW, do_sample=False, pad_token_id=1)
        text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        records.append({"question": question, "answer": {"aliases": [text if index % 2 else "w3"]}})
    (folder / "harness" / "triviaqa").mkdir(parents=True)
    files = [folder / "harness" / "triviaqa" / f"{split}.jsonl" for split in ("train", "validation")]
    for file in files:
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return files[1]


def run(*words: str, **more: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"} | more
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_local_completions_score_as_lavakv_eval(server, hf_model, model_folder, tmp_path) -> None:
    """A task of the harness, each prompt evicted to a quarter by the server and by `lavakv eval`."""
    from transformers import AutoTokenizer

    with torch.no_grad():
        file = make_data(tmp_path, hf_model, AutoTokenizer.from_pretrained(model_folder))
    description = Path(find_spec("lm_eval").origin).parent / "tasks" / "triviaqa" / "default.yaml"
    (tmp_path / "task.yaml").write_text(TASK.format(harness=description, file=file))
    run(
        "-m", "lm_eval", "--model", "local-completions", "--tasks", "triviaqa_local", "--include_path", str(tmp_path),
        "--model_args", f"model=small,base_url={server.url}/v1/completions,tokenizer_backend=none,num_concurrent=4",
        "--gen_kwargs", json.dumps({"max_gen_toks": NUM_NEW}), "--log_samples",
        "--output_path", str(tmp_path / "theirs"),
        OPENAI_API_KEY="secret", HF_DATASETS_OFFLINE="1", HF_DATASETS_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    run(
        "-c", "from lavakv.cli.main import main; main()", "eval", "--model", str(model_folder), "--tasks", "triviaqa",
        "--policies", "lava", "--keep", "25%", "--window", "16", "--max-new-tokens", str(NUM_NEW),
        "--data-dir", str(tmp_path), "--out", str(tmp_path / "ours"),
    )  # fmt: skip
    (samples,) = (tmp_path / "theirs").rglob("samples_*.jsonl")
    theirs = {found["doc_id"]: found["exact_match"] for found in map(json.loads, samples.read_text().splitlines())}
    kept = [record for record in read_records(tmp_path / "ours") if record["policy"] == "lava"]
    assert {int(record["example"]): record["score"] for record in kept} == theirs
    assert sum(theirs.values()) == len(theirs) / 2, "half of the answers are the model's own"
