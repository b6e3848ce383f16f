"""`lm_eval --model lavakv`: found by name in a process of its own, and the same numbers as the library's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
import torch

import lavakv
from lavakv import _lm_eval
from lavakv.models.load import load

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
_ROOT = Path(__file__).parents[2]
_WORDS = " ".join(f"word{7 * each % 80}" for each in range(60))
_LM_EVAL = """
from functools import partialmethod
from lm_eval.tasks import TaskManager
TaskManager.__init__ = partialmethod(TaskManager.__init__, include_defaults=False)  # reading them takes 10 s
import runpy
runpy.run_module("{command}", run_name="__main__")
"""
_TASK = """
task: made_up_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{target}}}}"
generation_kwargs: {{until: ["</s>"], max_gen_toks: 5, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def lm(model_dir):
    from lavakv.evaluation.harness import LavaLM

    return LavaLM(pretrained=model_dir, budget=20, window=8, dtype="float32", device="cpu", batch_size=2)


@pytest.fixture(scope="module")
def loaded(model_dir):
    return load(model_dir, dtype="float32", device="cpu")


def _request(kind: str, *arguments: object) -> object:
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, arguments, 0)


def _cache(loaded) -> lavakv.LavaCache:
    return lavakv.LavaCache(loaded.model.config, budget=20, window=8)


def _expected_text(loaded, text: str) -> str:
    ids = loaded.tokenizer(text, return_tensors="pt").input_ids
    with lavakv.enabled(loaded.model):
        output = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), past_key_values=_cache(loaded), max_new_tokens=5, do_sample=False
        )
    return loaded.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def test_generation_in_padded_batches_is_that_of_the_library(lm, loaded) -> None:
    texts = [_WORDS, f"{_WORDS} word3 word4 word5"]
    answers = lm.generate_until(
        [_request("generate_until", text, {"until": ["</s>"], "max_gen_toks": 5}) for text in texts], disable_tqdm=True
    )
    assert answers == [_expected_text(loaded, text) for text in texts]


def test_likelihoods_are_those_after_a_compressed_context(lm, loaded) -> None:
    choices = [" word5", " word9 word11 word2"]
    found = lm.loglikelihood([_request("loglikelihood", _WORDS, choice) for choice in choices], disable_tqdm=True)
    context = loaded.tokenizer(_WORDS, return_tensors="pt").input_ids
    for choice, (total, _) in zip(choices, found, strict=True):
        target, cache = loaded.tokenizer(choice, return_tensors="pt").input_ids, _cache(loaded)
        with lavakv.enabled(loaded.model), torch.no_grad():
            first = loaded.model(context, past_key_values=cache).logits[:, -1:]
            rest = loaded.model(target, past_key_values=cache).logits[:, :-1]
        scores = torch.cat([first, rest], dim=1).log_softmax(dim=-1)[0]
        assert total == pytest.approx(float(scores.gather(1, target[0][:, None]).sum()), rel=1e-5)


def test_whole_texts_are_refused(lm) -> None:
    with pytest.raises(lavakv.UnsupportedError, match="likelihood of whole texts"):
        lm.loglikelihood_rolling([_request("loglikelihood_rolling", _WORDS)])


def _installed(place: Path) -> None:
    """The entry points of pyproject.toml, as pip would install them, in a folder of this test's own."""
    entry_points = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["torch.backends"]
    about = place / "lavakv_here-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lavakv-here\nVersion: 0\n")
    lines = [f"{name} = {target}" for name, target in entry_points.items()]
    (about / "entry_points.txt").write_text("\n".join(["[torch.backends]", *lines]))


def _run(program: str, *arguments: object, place: Path, **environment: str) -> subprocess.CompletedProcess:
    """A Python program in a process of its own."""
    path = os.pathsep.join([str(place), str(_ROOT / "src")])
    variables = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "home"), **environment}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False)


@pytest.mark.parametrize("command", ["lm_eval", "lavakv.lm_eval"])
def test_the_command_finds_the_model_by_name(command, model_dir, loaded, tmp_path) -> None:
    """The harness's by way of PyTorch's entry points, ours without them."""
    _installed(tmp_path)
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": _WORDS, "target": _expected_text(loaded, _WORDS)}))
    (tmp_path / "words.yaml").write_text(_TASK.format(data=tmp_path / "data.jsonl"))
    done = _run(
        _LM_EVAL.format(command={"lm_eval": "lm_eval.__main__"}.get(command, command)),
        *("--model", "lavakv", "--tasks", tmp_path / "words.yaml"),
        *("--model_args", f"pretrained={model_dir},budget=20,window=8,dtype=float32", "--device", "cpu"),
        *("--output_path", tmp_path / "results"),
        place=tmp_path,
        TORCH_DEVICE_BACKEND_AUTOLOAD=str(int(command == "lm_eval")),
    )
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "results").rglob("results_*.json")
    assert json.loads(file.read_text())["results"]["made_up_words"]["exact_match,none"] == 1.0


def test_importing_pytorch_loads_next_to_nothing_of_ours(tmp_path) -> None:
    _installed(tmp_path)
    program = "import sys, torch; print(*sorted(name for name in sys.modules if name.split('.')[0] == 'lavakv'))"
    done = _run(program, place=tmp_path, TORCH_DEVICE_BACKEND_AUTOLOAD="1")
    assert done.stdout.split() == ["lavakv", "lavakv._lm_eval", "lavakv._version", "lavakv.errors"], done.stderr


@pytest.mark.parametrize("there", ["lm_eval", "lm_eval.models", "lm_eval.api.registry"])
def test_a_harness_that_has_changed_keeps_nobody_from_pytorch(there, monkeypatch) -> None:
    for name in ("lm_eval", "lm_eval.models", "lm_eval.api.registry"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, there, None)
    _lm_eval.register()
    with pytest.raises(ImportError):
        _lm_eval.add_name()


def test_the_name_is_the_class_s(lm) -> None:
    from lm_eval.api.registry import get_model

    _lm_eval.add_name()
    assert get_model(_lm_eval.NAME) is type(lm)
    module, name = _lm_eval.TARGET.split(":")
    assert (module, name) == (type(lm).__module__, type(lm).__name__)
