"""The endpoint that Prometheus scrapes.

Of the process itself prometheus_client tells. Families of sixgate are written here as text: a node with thousands of
virtual addresses and backends has tens of thousands of samples, which prometheus_client takes five times as long for.
"""

from __future__ import annotations

import logging
import socket
import threading
from operator import add
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, ThreadingWSGIServer

from sixgate import __version__
from sixgate.errors import SixgateError
from sixgate.metrics import Columns, Family, Timing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

    from sixgate.metrics import Metric, Source

log = logging.getLogger(__name__)
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class _Part:
    """Asks `source` at every scrape. One that fails costs its own metrics, not those of others, and is counted."""

    def __init__(self, source: Source, name: str) -> None:
        self._source, self.name, self.failures, self._said = source, name, 0, ""

    def families(self) -> list[Metric]:
        try:
            return list(self._source())
        except (SixgateError, OSError) as error:
            self.failures += 1
            if str(error) != self._said:
                self._said = str(error)
                log.warning("The metrics of %s could not be read: %s", self.name, error)
            return []


class Exposition:
    """All `sources` by the name of the part they tell of, with the version and the process itself."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)
        self._kept: dict[str, tuple[object, list[str]]] = {}  # of Columns: keys, and the beginnings of their lines
        self._parts = tuple(_Part(source, name) for name, source in sources.items())

    def families(self) -> Iterator[Metric]:
        """What a scrape of now has to tell, but for the process."""
        yield Family("gauge", "sixgate_build_info", "Version of this process.", ("version",), (((__version__,), 1),))
        for part in self._parts:
            yield from part.families()
        failed = tuple(((part.name,), float(part.failures)) for part in self._parts)
        yield Family(
            "counter", "sixgate_scrape_errors", "Scrapes that could not read a part of the metrics.", ("part",), failed
        )

    def text(self) -> bytes:
        """In the text format, version 0.0.4."""
        lines: list[str] = []
        kept: dict[str, tuple[object, list[str]]] = {}
        for family in self.families():
            if isinstance(family, Columns):
                lines += _head(_name(family), family.text, family.kind)
                beginnings = kept[family.name] = self._beginnings(family)
                lines += map(add, beginnings[1], map(repr, map(float, family.values)))
            else:
                lines += _lines(family)
        self._kept = kept
        return generate_latest(self._process) + "\n".join(lines).encode() + b"\n"

    def _beginnings(self, family: Columns) -> tuple[object, list[str]]:
        known = self._kept.get(family.name)
        if known is not None and known[0] is family.keys:
            return known
        return family.keys, list(_rows(_name(family), family.labels, family.keys))

    def wsgi(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """One scrape."""
        if environ["PATH_INFO"] not in {"/", "/metrics"}:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"Metrics are at /metrics.\n"]
        start_response("200 OK", [("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)])
        return [self.text()]


def _name(item: Family | Columns) -> str:
    return f"{item.name}_total" if item.kind == "counter" else item.name


def _rows(name: str, labels: tuple[str, ...], keys: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Lines of samples up to their values."""
    form = name + "{" + ",".join(f'{label}="%s"' for label in labels) + "} "
    for values in keys:
        row = form % values
        if "\\" in row or "\n" in row or row.count('"') != 2 * len(labels):
            row = form % tuple(value.translate(_ESCAPES) for value in values)
        yield row


def _lines(item: Family | Timing) -> Iterator[str]:
    if isinstance(item, Timing):
        yield from _head(item.name, item.text, "histogram")
        buckets = item.buckets()
        for bound, count in buckets:
            yield f'{item.name}_bucket{{le="{bound}"}} {count!r}'
        yield f"{item.name}_count {buckets[-1][1]!r}"
        yield f"{item.name}_sum {item.sum_s!r}"
        return
    name = _name(item)
    yield from _head(name, item.text, item.kind)
    if not item.labels:
        for _, value in item.samples:
            yield f"{name} {float(value)!r}"
        return
    rows = _rows(name, item.labels, (labels for labels, _ in item.samples))
    for row, (_, value) in zip(rows, item.samples, strict=True):
        yield row + repr(float(value))


def _head(name: str, text: str, kind: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are no news."""


class _Server6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class MetricsServer:
    """Serves /metrics on one address from a thread until closed. Port 0 takes a free one; `port` says which."""

    def __init__(self, host: str, port: int, served: Exposition) -> None:
        """SixgateError where the address cannot be taken."""
        kind = _Server6 if ":" in host else ThreadingWSGIServer
        try:
            self._server = make_server(host, port, served.wsgi, kind, handler_class=_Silent)
        except OSError as error:
            raise SixgateError(f"Metrics should be served at {host} port {port}, which failed: {error}.") from error
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
