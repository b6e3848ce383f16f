"""Makes the name `lavakv` known to lm-evaluation-harness, which has no plugins of its own.

PyTorch calls `register` at the end of its own import, by way of its entry points for out-of-tree code
(`torch.backends`), and the harness imports PyTorch before it looks models up. In processes that are not the harness it
looks at one dictionary and returns. TORCH_DEVICE_BACKEND_AUTOLOAD=0 turns it off, like all such entry points.
"""

from __future__ import annotations

import sys
from contextlib import suppress

TARGET = "lavakv.evaluation.harness:LavaLM"


def register() -> None:
    """Register the model class by name, where the harness is being imported; it is loaded when it is asked for."""
    if "lm_eval" not in sys.modules:
        return
    with suppress(Exception):  # a harness that has changed must not keep anyone from importing PyTorch
        import lm_eval.models  # noqa: F401  # its own models are registered only while the registry is empty
        from lm_eval.api.registry import model_registry

        model_registry.register("lavakv", target=TARGET)
