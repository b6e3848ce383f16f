"""Which path a ragged store's attention takes, and what is said about it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch

from lavakv.attention import AttentionRequest, AttentionSettings, attend, plan
from lavakv.attention.dense import attend_read
from lavakv.attention.native import attend_native
from lavakv.attention.ragged import attend_ragged
from lavakv.attention.triton import sizes
from lavakv.kernels import SWITCH, Fallback, device_unsupported_reason
from lavakv.store.base import LayerStore
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore
from tests.attention.cases import Case
from tests.attention.kernel_cases import case

KERNEL = "lavakv.attention.triton.kernel"


@pytest.fixture(autouse=True)
def _like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let CPU tensors be considered for the kernels, with nothing warned of and nothing failed yet."""
    monkeypatch.setattr(plan, "fallback", Fallback("decoding"))
    plan.fallback.on_cpu = True
    device_unsupported_reason.cache_clear()
    yield
    device_unsupported_reason.cache_clear()


def _filled(example: Case) -> RaggedStore:
    store = example.fill(RaggedStore())
    assert isinstance(store, RaggedStore)
    return store


def assert_plain_with_one_warning(example: Case, reason: str) -> None:
    store = _filled(example)
    with pytest.warns(UserWarning, match="takes the plain path") as caught:
        answers = [attend(store, example.request) for _ in range(3)]
    assert len(caught) == 1
    assert reason in str(caught[0].message)
    assert all(torch.equal(answer, attend_ragged(store, example.request)) for answer in answers)


@pytest.fixture
def _no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("_no_warning")
def test_cpu_tensors_never_take_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.fallback, "on_cpu", False)
    example = case(torch.float32, 16)
    store = _filled(example)
    assert plan.choose(store, example.request) in (attend_native, attend_ragged)
    attend(store, example.request)


@pytest.mark.usefixtures("_no_warning")
def test_the_kernels_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    example = case(torch.float32, 16)
    assert plan.choose(_filled(example), example.request) in (attend_native, attend_ragged)


@pytest.mark.usefixtures("_no_warning")
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 16), (torch.bfloat16, 64)])
def test_a_chunk_of_tokens_takes_the_kernels_unless_gradients_are_wanted(dtype: torch.dtype, most: int) -> None:
    example = case(dtype, 16, group=1, num_queries=most + 1)
    store = _filled(example)
    assert plan.kernels_expected(store, example.request)
    trained = example.request._replace(queries=example.request.queries.requires_grad_())
    assert not plan.kernels_expected(store, trained)
    assert plan.choose(store, trained) is attend_ragged
    with torch.no_grad():
        assert plan.kernels_expected(store, trained)


def test_an_unsupported_dtype() -> None:
    assert_plain_with_one_warning(case(torch.float64, 16), "torch.float64 is neither")


def test_an_unsupported_head_size() -> None:
    assert_plain_with_one_warning(case(torch.float32, 320), "head size 320 is over 256")


def test_mixed_dtypes() -> None:
    keys = torch.zeros(1, 1, 1, 16)
    assert (
        sizes.refusal(keys.half(), keys, keys)
        == "queries, keys and values are torch.float16, torch.float32 and torch.float32"
    )


def test_wanted_gradients() -> None:
    example = case(torch.float32, 16)
    example.request = example.request._replace(queries=example.request.queries.requires_grad_())
    assert_plain_with_one_warning(example, "gradients are wanted")
    with torch.no_grad():
        assert "gradients" not in str(plan.kernel_refusal(_filled(example), example.request))


def test_triton_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "triton"] + ["triton"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, KERNEL, raising=False)
    assert_plain_with_one_warning(case(torch.float32, 16), "Triton cannot be loaded (ModuleNotFoundError")


@pytest.mark.parametrize(
    ("hip", "capability", "reason"),
    [("6.4", (9, 0), "ROCm build"), (None, (7, 5), "compute capability 7.5 is below 8.0")],
)
def test_devices_that_are_not_tried(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, capability: tuple[int, int], reason: str
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert reason in str(device_unsupported_reason(torch.device("cuda", 0), sizes.MODULE))


def _pretend_kernel(monkeypatch: pytest.MonkeyPatch, launched: Callable[..., object]) -> None:
    """A kernel that takes everything and does what a test wants when it is launched."""
    launch = pytest.importorskip("lavakv.attention.triton.launch")
    monkeypatch.setattr(plan, "refusal", lambda *_: None)
    monkeypatch.setattr(launch.TileLaunch, "__call__", launched)


@pytest.mark.parametrize("error", [RuntimeError("PTX was compiled\nwith another version"), FileNotFoundError("gcc")])
def test_a_kernel_that_does_not_compile_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    calls = []

    def broken(*_: object) -> None:
        calls.append(1)
        raise error

    _pretend_kernel(monkeypatch, broken)
    reason = f"the kernel does not run here ({type(error).__name__}: {str(error).splitlines()[0]})"
    assert_plain_with_one_warning(case(torch.float32, 16), reason)
    assert len(calls) == 1
    other = case(torch.float32, 24)  # another kernel: it gets its chance
    attend(_filled(other), other.request)
    assert len(calls) == 2


def test_a_full_device_is_no_reason_for_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    _pretend_kernel(monkeypatch, full)
    example = case(torch.float32, 16)
    with pytest.raises(torch.OutOfMemoryError):
        attend(_filled(example), example.request)
    assert plan.fallback.failures == {}


def test_a_forward_chooses_once_for_layers_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.fallback, "on_cpu", False)
    chosen: list[object] = []
    choose = plan.choose
    monkeypatch.setattr(plan, "choose", lambda store, request: chosen.append(store) or choose(store, request))
    forward, alike, other = plan.AttentionPlan(), case(torch.float32, 16), case(torch.float32, 24)
    for example in (alike, alike, other, alike, other):
        store = _filled(example)
        assert torch.equal(
            forward.attend(store, example.request), choose(store, example.request)(store, example.request)
        )
    assert len(chosen) == 2
    wide = case(torch.float64, 16)
    forward.attend(_filled(wide), wide.request)  # a path for float32 must not see it
    assert len(chosen) == 3


def test_a_plan_is_kept_until_the_kernels_are_switched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.fallback, "on_cpu", False)
    kept, example = plan.AttentionPlan(), case(torch.float32, 16)
    store = _filled(example)
    kept.attend(store, example.request)
    paths = dict(kept.paths)
    kept.renew()
    kept.attend(store, example.request)
    assert kept.paths == paths
    monkeypatch.setenv(SWITCH, "0")
    kept.renew()
    assert kept.paths == {}
    kept.attend(store, example.request)
    monkeypatch.setattr(plan.fallback, "on_cpu", True)
    kept.renew()
    assert kept.paths == {}


def test_gradients_choose_their_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that served a step without them meets one with them, and the other way round."""
    monkeypatch.setattr(plan.fallback, "on_cpu", False)
    kept, example = plan.AttentionPlan(), case(torch.float32, 16)
    store = _filled(example)
    queries = example.request.queries.requires_grad_()
    with torch.no_grad():
        assert not kept.attend(store, example.request).requires_grad
    kept.attend(store, example.request).sum().backward()
    assert queries.grad is not None
    assert len(kept.paths) == 2


def test_many_shapes_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "choose", lambda *_: lambda _, request: request.queries)
    kept, store = plan.AttentionPlan(), _filled(case(torch.float32, 16))
    for count in range(1, 500):
        queries = torch.zeros(1, 2, count, 16)
        assert kept.attend(store, AttentionRequest(queries, AttentionSettings(1.0))) is queries
    assert len(kept.paths) <= 64


def _foreign(store: RaggedStore) -> LayerStore:
    """A kind of store that attention knows nothing of but the interface."""

    def forwarded(name: str) -> object:
        if isinstance(vars(RaggedStore).get(name), property):
            return property(lambda _: getattr(store, name))
        return lambda _, *args: getattr(store, name)(*args)

    return type("Foreign", (LayerStore,), {name: forwarded(name) for name in LayerStore.__abstractmethods__})()


@pytest.mark.parametrize("num_queries", [1, 3])
def test_a_store_of_any_kind_is_attended_to_by_what_it_lets_be_read(num_queries: int) -> None:
    example = case(torch.float64, 16, num_queries=num_queries)
    store = _filled(example)
    assert plan.choose(_foreign(store), example.request) is attend_read
    expected = attend(example.fill(MaskedStore()), example.request)
    assert torch.equal(attend(_foreign(store), example.request), expected)
