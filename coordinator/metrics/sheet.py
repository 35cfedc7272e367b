"""The sheet that a scrape fills in, and its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from coordinator.metrics.definitions import COUNTER, GAUGE, HISTOGRAM, METRICS

_Labels = tuple[str, ...]


class Sheet(Collector):
    """Values of metrics, by labels; each is one of ``METRICS``."""

    def __init__(self) -> None:
        self._values: dict[str, dict[_Labels, float]] = {}
        self._buckets: dict[str, dict[_Labels, tuple[list[tuple[str, float]], float]]] = {}

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge or a counter."""
        self._values.setdefault(name, {})[_checked(name, labels)] = float(value)

    def add(self, name: str, value: float, *labels: str) -> None:
        """Add to a gauge or a counter."""
        values = self._values.setdefault(name, {})
        key = _checked(name, labels)
        values[key] = values.get(key, 0.0) + value

    def spread(
        self,
        name: str,
        bounds: Sequence[float],
        counts: Mapping[int, int],
        total: float,
        *labels: str,
    ) -> None:
        """Set a histogram.

        Args:
            name: the metric.
            bounds: upper bounds of the buckets but the last.
            counts: number of observations in each bucket by its index, not added up.
            total: sum of the observations.
            labels: as in the definition.
        """
        sofar, buckets = 0, []
        for index, bound in enumerate([*(f"{bound:g}" for bound in bounds), "+Inf"]):
            sofar += counts.get(index, 0)
            buckets.append((bound, float(sofar)))
        self._buckets.setdefault(name, {})[_checked(name, labels)] = (buckets, total)

    def collect(self) -> Iterator[Metric]:
        """Return what was filled in, as Prometheus's client wants it."""
        for metric in METRICS.values():
            labels = list(metric.labels)
            if metric.kind == HISTOGRAM:
                spreads = self._buckets.get(metric.name, {})
                family = HistogramMetricFamily(metric.name, metric.help, labels=labels)
                for key, (buckets, total) in sorted(spreads.items()):
                    family.add_metric(key, buckets, total)
                yield family
                continue
            kinds = {GAUGE: GaugeMetricFamily, COUNTER: CounterMetricFamily}
            values = kinds[metric.kind](metric.name, metric.help, labels=labels)
            for key, value in sorted(self._values.get(metric.name, {}).items()):
                values.add_metric(key, value)
            yield values

    def text(self) -> bytes:
        """Return Prometheus's text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)


def _checked(name: str, labels: _Labels) -> _Labels:
    if len(labels) != len(METRICS[name].labels):
        raise ValueError(f"{name} has the labels {METRICS[name].labels}, not {labels}")
    return labels
