"""The endpoint that Prometheus scrapes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sixgate import __version__
from sixgate.errors import SixgateError
from sixgate.metrics import Family, Timing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sixgate.metrics import Source

log = logging.getLogger(__name__)


class _Adapter(Collector):
    """Asks `source` at every scrape. One that fails costs its own metrics, not those of others, and is counted."""

    def __init__(self, source: Source, part: str) -> None:
        self._source, self._part, self._failures, self._said = source, part, 0, ""

    def collect(self) -> Iterator[Metric]:
        try:
            metrics = [_metric(item) for item in self._source()]
        except (SixgateError, OSError) as error:
            self._failures += 1
            metrics = []
            if str(error) != self._said:
                self._said = str(error)
                log.warning("The metrics of %s could not be read: %s", self._part, error)
        yield from metrics
        name, text = "sixgate_scrape_errors", "Scrapes that could not read a part of the metrics."
        failed = CounterMetricFamily(name, text, labels=("part",))
        failed.add_metric((self._part,), self._failures)
        yield failed

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are checked by the tests, not by a scrape at start-up, when there is nothing to ask yet."""
        return ()


def _metric(item: Family | Timing) -> Metric:
    if isinstance(item, Timing):
        histogram = HistogramMetricFamily(item.name, item.text)
        histogram.add_metric((), buckets=item.buckets(), sum_value=item.sum_s)
        return histogram
    family = (CounterMetricFamily if item.kind == "counter" else GaugeMetricFamily)(
        item.name, item.text, labels=item.labels
    )
    for labels, value in item.samples:
        family.add_metric(labels, value)
    return family


def registry(sources: Mapping[str, Source]) -> CollectorRegistry:
    """A registry of `sources` by the name of the part they tell of, with the version and the process itself."""
    made = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    info = Family("gauge", "sixgate_build_info", "Version of this process.", ("version",), (((__version__,), 1),))
    made.register(_Adapter(lambda: (info,), "the build"))
    for part, source in sources.items():
        made.register(_Adapter(source, part))
    return made


class MetricsServer:
    """Serves /metrics on one address from a thread until closed. Port 0 takes a free one; `port` says which."""

    def __init__(self, host: str, port: int, served: CollectorRegistry) -> None:
        """SixgateError where the address cannot be taken."""
        try:
            self._server, self._thread = start_http_server(port, host, served)
        except OSError as error:
            raise SixgateError(f"Metrics should be served at {host} port {port}, which failed: {error}.") from error
        self.port = int(self._server.server_port)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
