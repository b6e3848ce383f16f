"""Registers the name `lavakv` with lm-evaluation-harness, which has no plugin mechanism.

PyTorch calls `register` at the end of its own import, by way of its entry points for out-of-tree code
(`torch.backends`), and the harness imports PyTorch before it looks models up. In processes that are not the harness it
looks at one dictionary and returns. Nothing but the standard library is imported here and nothing is raised: either
would be in the way of everyone who imports PyTorch. `docs/eval.md` says what can go wrong all the same.
"""

import sys
from contextlib import suppress

NAME, TARGET = "lavakv", "lavakv.evaluation.harness:LavaLM"


def register() -> None:
    """Register the model class by name if the harness is being imported; the class is loaded when it is used."""
    if "lm_eval" in sys.modules:
        with suppress(Exception):  # a harness that has changed must not keep anyone from PyTorch
            add_name()


def add_name() -> None:
    """Register the model class by name.

    Raises:
        Exception: the harness is missing or has changed.
    """
    import lm_eval.models  # noqa: F401  # its own models are registered only while the registry is empty
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=TARGET)
