"""`python -m lavakv.lm_eval --model lavakv ...`: lm-evaluation-harness's command, which then knows `lavakv`.

For installations whose `lm_eval` does not know the name: TORCH_DEVICE_BACKEND_AUTOLOAD=0, or no entry point.
"""

from __future__ import annotations

from lavakv._lm_eval import add_name
from lavakv.cli.guard import guarded
from lavakv.tasks.extras import import_extra


def main() -> None:
    """Run the harness's command on this command line.

    Raises:
        MissingExtraError: the harness is not installed.
    """
    command = import_extra("lm_eval.__main__").cli_evaluate
    add_name()
    command()


if __name__ == "__main__":
    raise SystemExit(guarded(main))
