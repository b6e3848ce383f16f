"""`lavakv serve`: vLLM's OpenAI-compatible server, with eviction."""

from __future__ import annotations

from typing import Annotated

import typer

from lavakv.cli import options
from lavakv.cli.lists import fraction
from lavakv.cli.loading import starting
from lavakv.models.source import source_of
from lavakv.policy.names import require_policy_name, window_for
from lavakv.vllm.server import check_arguments, given_options, run_server, server_command
from lavakv.vllm.settings import DEFAULT_POLICY, Settings
from lavakv.vllm.versions import require_vllm


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hugging Face id, directory, GGUF file, or smollm2.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="VLLM_ARGUMENTS", help="Behind --: arguments of `vllm serve`.", show_default=False),
    ] = None,
    budget: options.Budget = None,
    keep: options.Keep = None,
    policy: Annotated[str, typer.Option(metavar="NAME", help="Eviction policy name.")] = DEFAULT_POLICY,
    window: options.Window = None,
) -> int:
    """Serve a model through vLLM, evicting every prompt to its budget. Listens on 127.0.0.1 unless --host is given."""
    require_policy_name(policy, "--policy")
    settings = Settings(budget=budget, keep=fraction("--keep", keep), window=window_for(policy, window), policy=policy)
    source_of(model)
    given = arguments or []
    check_arguments(given)
    require_vllm()
    with starting():
        from lavakv.models.load import resolve
        from lavakv.policy.registry import get_policy
        from lavakv.vllm.checks import check_policy

    check_policy(get_policy(policy), is_eager="--enforce-eager" in given_options(given))
    return run_server(server_command(resolve(model), model, settings, given))
