"""Models of other architectures: what the policies weigh by, and undo, is what it is under transformers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import lavakv
from tests.vllm.architectures import ARCHITECTURES, POLICIES, PROMPT, make
from tests.vllm.engine import KEEP, WINDOW
from tests.vllm.model import Answer, prompt, reference
from tests.vllm.test_equality import require_same


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_policies_keep_what_a_lavacache_keeps(kind, tmp_path) -> None:
    """In one piece, and in chunks of which one cuts the window."""
    folder, out = make(kind, tmp_path / kind), tmp_path / "found.pt"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    script = Path(__file__).with_name("architectures.py")
    subprocess.run([sys.executable, str(script), str(folder), str(out)], env=environment, check=True)
    model = lavakv.enable(AutoModelForCausalLM.from_pretrained(folder).eval())
    answers = torch.load(out)
    refused = {name: text for name, text in answers.items() if isinstance(text, str)}
    assert refused.keys() == ({"reach"} if kind == "olmo2" else set()), refused
    assert all("rotary embedding of layer 0" in text for text in refused.values())
    if kind == "exaone4":  # transformers decides in the forward whether a layer rotates, vLLM when it is made
        with pytest.raises(lavakv.UnsupportedError, match="rotates in some cases"):
            reference(model, prompt(*PROMPT), [], policy="reach", keep=KEEP, window=WINDOW)
    for name in POLICIES:
        is_known = name not in refused and (kind, name) != ("exaone4", "reach")
        for found in answers[name] if is_known else ():
            got = Answer(*found)
            expected = reference(model, prompt(*PROMPT), got.tokens, policy=name, keep=KEEP, window=WINDOW)
            require_same(got, expected)
