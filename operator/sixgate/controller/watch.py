"""kopf, reduced to what it is good at here: lists and watches whose events feed the store.

Only `on.event` handlers: no annotation, no finalizer, no index, no peering, no posting. Settings follow what was
measured: retries end at 2 s instead of 21 s, a request may not hang for five minutes, a watch without a bookmark for
70 s is made anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import kopf

from sixgate.api.base import API_VERSION
from sixgate.api.parse import KINDS
from sixgate.controller.audit import Collection
from sixgate.controller.store import NODE, NODE_CONFIG, Store
from sixgate.kube.client import object_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Collection as Tasks

    from sixgate.kube import KubeClient

log = logging.getLogger(__name__)

LOGIN_LASTS = timedelta(minutes=30)  # a projected token is renewed by the kubelet well before it ends
INACTIVITY_S = 70.0


def collections() -> tuple[Collection, ...]:
    """Everything that is watched whole."""
    plurals = {kind: model.info.plural for kind, model in KINDS.items()} | {NODE_CONFIG: "nodeconfigs"}
    ours = tuple(Collection(kind, API_VERSION, object_path(plural)) for kind, plural in plurals.items())
    return (*ours, Collection(NODE, "v1", object_path("nodes", group="v1")))


class EndlessBackoff:
    """kopf gives up a request when its list of pauses ends; this one ends in 2 s for ever."""

    def __iter__(self) -> Iterator[float]:
        pause = 0.1
        while True:
            yield pause * (0.5 + 0.5 * random.random())
            pause = min(2.0, pause * 2)


def settings() -> kopf.OperatorSettings:
    wanted = kopf.OperatorSettings()
    wanted.posting.enabled = False
    wanted.peering.standalone = True
    wanted.scanning.disabled = True  # our CRDs are there before we start; no right to watch all CRDs is needed
    wanted.networking.error_backoffs = EndlessBackoff()
    wanted.networking.request_timeout = 30.0
    wanted.networking.connect_timeout = 5.0
    wanted.watching.connect_timeout = 5.0
    wanted.watching.inactivity_timeout = INACTIVITY_S
    wanted.watching.chunk_size = 1000
    wanted.persistence.finalizer = "sixgate.io/unused"  # never set: no handler asks for one
    wanted.process.ultimate_exiting_timeout = 20.0
    return wanted


def registry(store: Store, client: KubeClient, changed: Callable[[], None]) -> kopf.OperatorRegistry:
    """Handlers that tell `store` what they hear and call `changed` when it was news."""
    handlers = kopf.OperatorRegistry()

    async def hear(event: kopf.RawEvent, **_: Any) -> None:
        raw = event["object"]
        if event["type"] == "DELETED":
            meta = raw["metadata"]
            news = store.drop(str(raw["kind"]), str(meta["name"]), int(meta["resourceVersion"]))
        else:
            news = store.put(raw)
        if news:
            changed()

    for collection in collections():
        group, _, version = collection.api_version.rpartition("/")
        plural = collection.path.rsplit("/", 1)[1]
        kopf.on.event(group, version, plural, id=f"hear-{plural}", registry=handlers)(hear)
    kopf.on.login(id="login", registry=handlers)(Login(client).__call__)
    return handlers


class Login:
    """Gives kopf the credentials of our own client, always as new ones.

    kopf remembers credentials that were once refused and stops without a word when it has no others; an API server
    that comes back may refuse a good token for a moment. A new expiration makes them new; a pause keeps it from
    spinning where they really are refused.
    """

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._last = 0.0

    async def __call__(self, **_: Any) -> kopf.ConnectionInfo:
        while True:
            await asyncio.sleep(max(0.0, self._last + 1.0 - time.monotonic()))
            self._last = time.monotonic()
            try:
                return await self._info()
            except (OSError, ValueError) as error:
                log.error("Credentials must be readable, and they are not: %s", error)

    async def _info(self) -> kopf.ConnectionInfo:
        configuration = self._client.configuration
        scheme, _, token = (await self._client.bearer()).rpartition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            scheme=scheme.capitalize() or None,
            token=token or None,
            trust_env=True,
            expiration=datetime.now(UTC) + LOGIN_LASTS,
        )


class OncePerOutage(logging.Filter):
    """kopf says every failed attempt of every watch; once a minute is enough."""

    def __init__(self, every_s: float = 60.0) -> None:
        super().__init__()
        self._every_s = every_s
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "Request attempt" not in text:
            return True
        key, now = text.rpartition(";")[2], time.monotonic()
        if now - self._said.get(key, float("-inf")) < self._every_s:
            return False
        self._said = {k: at for k, at in self._said.items() if now - at < self._every_s} | {key: now}
        return True


async def spawn(
    store: Store, client: KubeClient, changed: Callable[[], None], stop: asyncio.Event
) -> Tasks[asyncio.Task[Any]]:
    """kopf's root tasks, running; to be given to `kopf.run_tasks`."""
    quiet = OncePerOutage()
    for name in ("kopf._cogs.clients.api", "kopf._cogs.clients.watching", "kopf._core.reactor.observation"):
        logging.getLogger(name).addFilter(quiet)
    return await kopf.spawn_tasks(
        registry=registry(store, client, changed), settings=settings(), clusterwide=True, stop_flag=stop
    )
