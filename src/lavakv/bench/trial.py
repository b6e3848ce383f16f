"""The measurement of one setting: memory while caches are filled, then decode steps, then prefills, in turns."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

import torch

from lavakv.bench.backends import without_cudnn
from lavakv.bench.clock import interleaved, seconds_of
from lavakv.bench.configuration import Configuration, cut_to_budget, empty_full, empty_lavakv, read_prompt
from lavakv.bench.floor import ModelSize
from lavakv.bench.masked import mask_method_for, masked_like
from lavakv.bench.measured import Listener, Measured
from lavakv.bench.memory import with_peak
from lavakv.bench.settings import BenchSettings, Setting
from lavakv.bench.subject import Subject
from lavakv.hf.cache import LavaCache
from lavakv.hf.contract import cache_argument
from lavakv.hf.layer import LavaLayer

WARM_UP_TOKENS = 256


def num_measurements(settings: BenchSettings) -> int:
    """Number of calls of the listener's `doing` for one setting."""
    return 2 + (settings.rounds + 1) * (4 if settings.masked else 3) + 2 * settings.prefill_rounds


class Trial:
    """Measures one setting on one model."""

    def __init__(self, subject: Subject, settings: BenchSettings, setting: Setting, listener: Listener) -> None:
        self._model, self._device = subject.model, subject.device
        self._settings, self._setting, self._listener = settings, setting, listener
        self._entry_bytes = ModelSize.of(subject.model).entry_bytes
        self._ids = subject.prompt(setting.tokens, setting.batch_size)

    @torch.inference_mode()
    def run(self) -> Measured:
        """Measure everything."""
        found = Measured()
        with without_cudnn(self._device):
            self._decode(found)
            gc.collect()
            if self._settings.prefill_rounds:
                works = {name: partial(self._prefill_seconds, empty) for name, empty in self._empty().items()}
                found.prefill = interleaved(works, self._settings.prefill_rounds, self._begins("prefill"))
        return found

    def _empty(self) -> dict[str, Callable[[], Configuration]]:
        budget = self._setting.budget
        return {
            "full": lambda: empty_full(self._model),
            "lavakv": lambda: empty_lavakv(self._model, self._settings, budget),
        }

    def _filled(self, found: Measured) -> dict[str, Configuration]:
        """All configurations filled with the prompt; records peak memory, lengths and bytes."""
        configurations = {}
        for name, empty in self._empty().items():
            read_prompt(self._model, self._ids[:, :WARM_UP_TOKENS], empty())  # keeps one-time allocations out
            self._listener.doing(f"filling: {name}")
            gc.collect()
            configurations[name], found.prefill_peak[name] = with_peak(
                partial(read_prompt, self._model, self._ids, empty()), self._device
            )
        cache = configurations["lavakv"].cache
        lengths = cache.lengths().double()
        found.lengths = int(lengths.min()), float(lengths.mean()), int(lengths.max())
        configurations["cut"] = cut_to_budget(self._model, self._ids, self._setting)
        if self._settings.masked:
            found.masked_by = method = mask_method_for(self._device)
            num_new_tokens = self._settings.steps * (self._settings.rounds + 1)
            configurations["masked"] = masked_like(configurations["full"], cache, self._model, num_new_tokens, method)
        found.kv_bytes = {name: configuration.kv_bytes for name, configuration in configurations.items()}
        found.nbytes_ratios.append(nbytes_ratio(cache, self._entry_bytes))
        return configurations

    def _decode(self, found: Measured) -> None:
        configurations = self._filled(found)
        works = {name: partial(self._step_seconds, configuration) for name, configuration in configurations.items()}
        rounds = interleaved(works, self._settings.rounds + 1, self._begins("decoding"))
        found.decode = {name: seconds[1:] for name, seconds in rounds.items()}  # the first round warms up
        found.nbytes_ratios.append(nbytes_ratio(configurations["lavakv"].cache, self._entry_bytes))

    def _begins(self, what: str) -> Callable[[str], None]:
        return lambda name: self._listener.doing(f"{what}: {name}")

    def _prefill_seconds(self, empty: Callable[[], Configuration]) -> float:
        configuration = empty()
        gc.collect()
        with configuration.around():
            cache = cache_argument(self._model, configuration.cache)
            return seconds_of(lambda: self._model(self._ids, **cache, logits_to_keep=1), self._device)

    def _step_seconds(self, configuration: Configuration) -> float:
        cache = cache_argument(self._model, configuration.cache)

        def steps() -> None:
            for _ in range(self._settings.steps):
                self._model(self._ids[:, :1], **cache)

        with configuration.around():
            return seconds_of(steps, self._device) / self._settings.steps


def nbytes_ratio(cache: LavaCache, entry_bytes: int) -> float:
    """Bytes allocated by the compressed layers over those of the entries they hold."""
    held = sum(layer.store.nbytes for layer in cache.layers if isinstance(layer, LavaLayer))
    return held / (int(cache.lengths().sum()) * entry_bytes)
