"""The check of each request at admission, in the process of the API: a bad budget becomes HTTP 400.

vLLM calls it as the class method of a logits processor, which it knows by name only. The window, within which no budget
may lie, is therefore part of the name: `Arguments` for the default, else for example `Arguments64`.
"""

from __future__ import annotations

import re
from typing import Any

from vllm.v1.sample.logits_processor import LogitsProcessor

from lavakv.budgets.spec import DEFAULT_WINDOW
from lavakv.errors import LavaError
from lavakv.vllm.arguments import CHECK, check_name
from lavakv.vllm.settings import Settings


class Arguments(LogitsProcessor):
    """Refuses `lavakv_...` arguments of a request that cannot be met; leaves logits alone."""

    window = DEFAULT_WINDOW

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        pass

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Check one request.

        Raises:
            ValueError: what is wrong with it, in lavakv's words; vLLM answers HTTP 400.
        """
        try:
            Settings(keep=1.0, window=cls.window).for_request(sampling_params.extra_args)
        except LavaError as error:
            raise ValueError(str(error)) from error

    def is_argmax_invariant(self) -> bool:
        """True: logits are not touched."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Nothing to remember."""

    def apply(self, logits: Any) -> Any:
        """The logits as they are."""
        return logits


def by_name(name: str) -> type[Arguments]:
    """The check for the window in a name, as `check_name` makes it.

    Raises:
        AttributeError: no such name.
    """
    match = re.fullmatch(rf"{CHECK}([1-9][0-9]*)?", name)
    if match is None:
        raise AttributeError(f"module 'lavakv.vllm' has no attribute {name!r}")
    window = int(match[1] or DEFAULT_WINDOW)
    return Arguments if check_name(window) == CHECK else type(name, (Arguments,), {"window": window})
