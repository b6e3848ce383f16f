from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

import lavakv
from lavakv import PolicyError
from lavakv.policy import names as policy_names
from lavakv.policy.builtin import FAMILY
from lavakv.policy.names import BUILT_IN, require_policy_name
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.scoring.lava import lava_score
from tests.errors import assert_all_parts

SOURCES = {
    "lava": "2509.09754",
    "lava-uniform-layers": "2509.09754",
    "lava-uniform-heads": "2509.09754",
    "snapkv": "2404.14469",
    "pyramidkv": "2406.02069",
    "ada-snapkv": "2407.11550",
    "ada-pyramidkv": "2407.11550",
    "chunkkv": "2502.00299",
    "cake": "2503.12491",
    "vatp": "2406.12335",
    "criticalkv": "2502.03805",
    "defensivekv": "2510.13334",
    "layer-defensivekv": "2510.13334",
    "caote": "2504.14051",
    "dropkv": "MqfNzH3TVH",
    "laprox": "2605.07234",
    "residual": "lavakv's own",
    "residual-far": "distant queries",
    "residual-max": "worst case over the window",
    "reach": "asked again at its end",
    "reach-question": "what follows it",
    "kvzip": "2505.23416",
    "kvzip+": "2601.07891",
    "h2o": "2306.14048",
    "tova": "2401.06104",
    "streaming-llm": "2309.17453",
    "knorm": "2406.11430",
    "keydiff": "2504.15364",
    "lagkv": "2504.04704",
    "r-kv": "2505.24133",
    "curdkv": "2509.15038",
    "expected-attention": "2510.00636",
    "compactor": "2507.08143",
    "random": "seed 0",
}
MINE = Policy("mine", "test", lava_score)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package whose entry points are three good policies and some that cannot be loaded."""
    module = ModuleType("lavakv_test_plugin")
    module.mine, module.number, module.kind = MINE, 3, Policy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    values = {
        "mine": "lavakv_test_plugin:mine",
        "lava": "lavakv_test_plugin:mine",
        "gone": "lavakv_test_plugin:gone",
        "no-module": "lavakv_no_such_module:mine",
        "number": "lavakv_test_plugin:number",
        "kind": "lavakv_test_plugin:kind",
    }
    points = [EntryPoint(name, value, policy_names.ENTRY_POINTS) for name, value in values.items()]
    monkeypatch.setattr(policy_names, "entry_points", lambda group: [each for each in points if each.group == group])
    return module


def test_the_family_is_listed_in_its_order_with_its_sources() -> None:
    lines = lavakv.policies()
    assert list(lines) == list(SOURCES)
    assert all(SOURCES[name] in lines[name] for name in SOURCES)
    assert len(set(lines.values())) == len(SOURCES)
    assert not any("\n" in line for line in lines.values())


def test_names_are_known_without_what_they_compute() -> None:
    assert tuple(FAMILY) == BUILT_IN


def test_a_name_is_checked_without_loading_its_plugin(plugins) -> None:
    assert require_policy_name("no-module") == "no-module"
    assert require_policy_name("lava") == "lava"


@pytest.mark.parametrize(("name", "fix"), [("snap", "Did you mean snapkv?"), ("x", "`lavakv.policies()` lists")])
def test_an_unknown_name_gets_the_close_ones(name, fix) -> None:
    with pytest.raises(PolicyError) as caught:
        require_policy_name(name, "--policy")
    assert caught.value.argument == "--policy"
    assert caught.value.fix.startswith(fix)
    with pytest.raises(PolicyError) as also:
        get_policy(name)
    assert also.value.fix == caught.value.fix


def test_the_list_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        lavakv.policies()["mine"] = "a line"  # type: ignore[index]


@pytest.mark.parametrize("name", SOURCES)
def test_a_name_finds_the_policy_of_that_name(name: str) -> None:
    assert get_policy(name).name == name
    assert get_policy(get_policy(name)) is get_policy(name)


@pytest.mark.parametrize("policy", ["", "LAVA", None, 3, ["lava"]])
def test_an_unknown_policy_is_refused(policy: object) -> None:
    with pytest.raises(PolicyError, match=r"^policy: expected a Policy or one of lava, ") as caught:
        get_policy(policy)  # type: ignore[arg-type]
    assert_all_parts(caught.value, got=repr(policy))


def test_plugins_are_listed_after_the_family(plugins: ModuleType) -> None:
    assert list(lavakv.policies())[len(SOURCES) :] == ["mine", "gone", "no-module", "number", "kind"]
    assert lavakv.policies()["mine"] == "from lavakv_test_plugin:mine"
    with pytest.raises(PolicyError, match="random, mine"):
        get_policy("unknown")


def test_a_plugin_is_loaded_by_its_name(plugins: ModuleType) -> None:
    assert get_policy("mine") is MINE


def test_a_plugin_reports_under_the_name_it_was_asked_by(plugins: ModuleType) -> None:
    plugins.mine = replace(MINE, name="another")  # type: ignore[attr-defined]
    assert get_policy("mine") == MINE


def test_built_in_names_come_first(plugins: ModuleType) -> None:
    assert get_policy("lava").summary == lavakv.policies()["lava"] != MINE.summary


@pytest.mark.parametrize(
    ("name", "got"),
    [("gone", "AttributeError: "), ("no-module", "ModuleNotFoundError: "), ("number", "int: 3"), ("kind", "type: ")],
)
def test_a_broken_plugin_is_named(name: str, got: str, plugins: ModuleType) -> None:
    with pytest.raises(PolicyError, match=f"policy '{name}': expected a lavakv.Policy at lavakv_") as caught:
        get_policy(name)
    assert_all_parts(caught.value)
    assert caught.value.got.startswith(got)
