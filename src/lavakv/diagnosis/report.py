"""The whole diagnosis, as data and as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lavakv.diagnosis import machine, packages, paths


def diagnose() -> dict[str, Any]:
    """Look at packages, machine, kernels and settings; what cannot be determined holds `error` with the reason.

    Returns:
        Ready for JSON: `versions`, `transformers_range`, `problems`, `system`, `home`, `settings`, `compilers`,
        `devices`, `c_kernels`, `triton_refusals` and `decode_paths`.
    """
    found: dict[str, Any] = {
        "versions": packages.versions(),
        "transformers_range": packages.transformers_range(),
        "problems": packages.problems(),
        "system": machine.system(),
        "home": _result_or_error(_home),
        "settings": machine.settings(),
        "compilers": _result_or_error(machine.compilers),
        "devices": _result_or_error(machine.devices),
        "c_kernels": _result_or_error(paths.c_kernels),
    }
    known = found["devices"]
    names = [each["device"] for each in known] if isinstance(known, list) else []
    found["triton_refusals"] = _result_or_error(lambda: paths.triton_refusals(names))
    found["decode_paths"] = _result_or_error(lambda: paths.decode_paths(names))
    return found


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What `diagnose` found as text, a line a fact."""
    for name, version in found["versions"].items():
        allowed = found["transformers_range"] if name == "transformers" else None
        yield f"{name}: {version or 'missing'}{f' (lavakv needs {allowed})' if allowed else ''}"
    for name, value in found["system"].items():
        yield f"{name.replace('_', ' ')}: {_word(value)}"
    yield f"home: {_word(found['home'])}"
    yield from _listed("setting", found["settings"], "none")
    yield from _listed("compiler", found["compilers"], "none found")
    yield from _devices(found["devices"])
    yield f"C kernels: {_c_kernels(found['c_kernels'])}"
    refusals = found["triton_refusals"]
    if "error" not in refusals:
        refusals = {name: f"not used: {reason}" if reason else "can run" for name, reason in refusals.items()}
    yield from _listed("Triton kernels", refusals, "no device")
    yield from _listed("decode step", found["decode_paths"], "no device")
    yield from (f"PROBLEM: {problem}" for problem in found["problems"])


def _home() -> str:
    from lavakv.models.home import home

    return str(home())


def _result_or_error(find: Callable[[], Any]) -> Any:
    """The result, or the reason why there is none: a broken installation may raise anything."""
    try:
        return find()
    except Exception as error:
        return {"error": packages.one_line(error)}


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"unknown ({value['error']})"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _listed(title: str, facts: Mapping[str, Any], nothing: str) -> Iterator[str]:
    if "error" in facts:
        yield f"{title}: {_word(facts)}"
    elif not facts:
        yield f"{title}: {nothing}"
    else:
        yield from (f"{title}: {name}: {value or 'does not start'}" for name, value in facts.items())


def _devices(devices: Any) -> Iterator[str]:
    if isinstance(devices, Mapping):
        yield f"device: {_word(devices)}"
        return
    for device in devices:
        rest = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in device.items() if key != "device")
        yield f"device: {device['device']}: {rest}"


def _c_kernels(about: Mapping[str, Any]) -> str:
    if "error" in about:
        return _word(about)
    return f"used, from {about['library']}" if about["used"] else f"not used: {about['reason']} ({about['folder']})"
