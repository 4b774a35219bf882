"""What is counted, and how `/metrics` shows it. No request text, no key, no unbounded label.

prometheus_client decides at import whether several processes share its values, and BentoML
sets that up late: it is imported when the app starts up, not with this module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..frames import Delta, End, Frame
from .visit import Visit

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

_FIRST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
_GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)
_WHOLE_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_PREFIX = "open_llm_"


class Meter:
    """Times one request's frames as they arrive, and keeps its counts."""

    def __init__(self, metrics: Metrics, visit: Visit, model: str) -> None:
        self._metrics = metrics
        self._visit = visit
        self._model = model
        self._gaps: Any = None
        self._last_at: float | None = None
        self._loop = asyncio.get_running_loop()

    def frame(self, frame: Frame) -> None:
        if isinstance(frame, Delta):
            self._delta(frame)
        elif isinstance(frame, End):
            self._end(frame)

    def _delta(self, delta: Delta) -> None:
        now = self._loop.time()
        if self._last_at is None:
            waited_s = now - self._visit.began_at
            self._metrics.first.labels(self._model).observe(waited_s)
            self._gaps = self._metrics.gap.labels(self._model)
        elif delta.tokens:
            # A delta may stand for several tokens: each of them took its share of the time.
            self._gaps.observe((now - self._last_at) / delta.tokens)
        self._last_at = now
        self._visit.completion_tokens += delta.tokens
        if delta.reason is not None:
            self._visit.reason = delta.reason

    def _end(self, end: End) -> None:
        usage, tokens = end.usage, self._metrics.tokens
        self._visit.prompt_tokens = usage.prompt_tokens
        self._visit.completion_tokens = usage.completion_tokens
        tokens.labels(self._model, "prompt").inc(usage.prompt_tokens)
        tokens.labels(self._model, "cached").inc(usage.cached_tokens)
        tokens.labels(self._model, "completion").inc(usage.completion_tokens)
        if "queued_s" in end.timings:
            self._metrics.queued.labels(self._model).observe(end.timings["queued_s"])


class Metrics:
    """The server's own figures, in a registry of their own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._registry = registry = CollectorRegistry()
        self.first = Histogram(
            f"{_PREFIX}time_to_first_token_seconds",
            "From the request's arrival to the first piece of its answer.",
            ["model"],
            buckets=_FIRST_S,
            registry=registry,
        )
        self.gap = Histogram(
            f"{_PREFIX}inter_token_seconds",
            "Time between the tokens of one answer.",
            ["model"],
            buckets=_GAP_S,
            registry=registry,
        )
        self.queued = Histogram(
            f"{_PREFIX}queue_wait_seconds",
            "Time that requests waited for a slot of their model.",
            ["model"],
            buckets=_FIRST_S,
            registry=registry,
        )
        self.whole = Histogram(
            f"{_PREFIX}request_seconds",
            "From a request's arrival to the end of its answer.",
            ["route", "model"],
            buckets=_WHOLE_S,
            registry=registry,
        )
        self.requests = Counter(
            f"{_PREFIX}requests",
            "Answered requests, by status (of HTTP or gRPC) and by finish reason or error code.",
            ["route", "model", "code", "reason"],
            registry=registry,
        )
        self.tokens = Counter(
            f"{_PREFIX}tokens",
            "Tokens of complete answers: prompt (cached ones included), cached, completion.",
            ["model", "kind"],
            registry=registry,
        )

    def finish(self, visit: Visit) -> float:
        """Counts a request that is over. Returns how many seconds it took."""
        took_s = asyncio.get_running_loop().time() - visit.began_at
        if visit.model:
            self.whole.labels(visit.route, visit.model).observe(took_s)
        self.requests.labels(visit.route, visit.model, visit.outcome, visit.reason).inc()
        return took_s

    def render(self, models: Iterable[tuple[str, Sequence[dict[str, Any]]]]) -> tuple[bytes, str]:
        """The exposition text and its content type. `models`: each name with what its copies
        said of themselves."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_LATEST
        from prometheus_client.values import MutexValue, ValueClass

        own: Any = self._registry
        if ValueClass is not MutexValue:
            own = _shared()
        registry = CollectorRegistry()
        registry.register(_Own(own))
        registry.register(_Gauges(list(models)))
        return generate_latest(registry), CONTENT_TYPE_LATEST


def _shared() -> CollectorRegistry:
    """The values of all processes that share PROMETHEUS_MULTIPROC_DIR."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # no types there
    return registry


class _Own:
    """Our metrics only: others may write into the same folder, with labels of any number."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            # When each series began doubles the text, and nothing here reads it.
            kept = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            if metric.name.startswith(_PREFIX):
                metric.samples = kept
                yield metric


class _Gauges:
    """What the models say of themselves right now."""

    def __init__(self, models: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        running = GaugeMetricFamily(
            f"{_PREFIX}requests_running", "Sequences being generated.", labels=["model"]
        )
        waiting = GaugeMetricFamily(
            f"{_PREFIX}requests_waiting", "Sequences waiting for a slot.", labels=["model"]
        )
        ready = GaugeMetricFamily(
            f"{_PREFIX}model_ready", "Copies of the model that can answer.", labels=["model"]
        )
        for name, copies in self._models:
            queues = [copy.get("queue", {}) for copy in copies]
            running.add_metric([name], sum(queue.get("running", 0) for queue in queues))
            waiting.add_metric([name], sum(queue.get("waiting", 0) for queue in queues))
            ready.add_metric([name], sum(bool(copy.get("ready")) for copy in copies))
        return running, waiting, ready
