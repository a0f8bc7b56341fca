"""Leader election by one Lease of coordination.k8s.io/v1.

The official client's elector decides by the wall clock of this machine and never releases; this one times what it saw
by its own monotonic clock, gives the lease back when told to stop, and can be asked at any moment whether it still
holds it. A leader that cannot renew stops being one before anybody else may begin.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sixgate.kube import ApiError, KubeClient
from sixgate.kube.client import object_path

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds. Takeover after a crash takes at most `duration` + `poll` + one request; `deadline` < `duration`."""

    duration: int = 4
    deadline: float = 3.0
    renew: float = 1.0
    poll: float = 0.5
    request: float = 1.5


@dataclass(slots=True)
class Leader:
    """One candidate. `changed` is called from the event loop whenever `held` turns."""

    client: KubeClient
    namespace: str
    name: str
    identity: str
    changed: Callable[[bool], None] = lambda held: None
    times: LeaseTimes = field(default_factory=LeaseTimes)
    clock: Callable[[], float] = time.monotonic
    _renewed: float = field(default=float("-inf"), init=False)
    _seen: tuple[str, float] = field(default=("", float("-inf")), init=False)
    _announced: bool = field(default=False, init=False)

    def held(self) -> bool:
        """Whether a write may be sent now: nobody else can hold the lease before the deadline has passed."""
        return self.clock() - self._renewed < self.times.deadline

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            started = self.clock()
            try:
                if await self._try():
                    self._renewed = started  # from before the request: the lease may have been stored at once
            except ApiError as error:
                log.debug("Lease %s: %s", self.name, error)
            self._announce()
            await asyncio.sleep(self._pause())

    async def release(self) -> None:
        """Give the lease back, so that another replica need not wait for its end. Never raises."""
        if not self.held():
            return
        try:
            lease = await self._get()
            if lease is not None and lease["spec"].get("holderIdentity") == self.identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                await self._put(lease)
                log.info("Released lease %s/%s.", self.namespace, self.name)
        except ApiError as error:
            log.warning("The lease %s/%s will run out by itself: %s", self.namespace, self.name, error)
        finally:
            self._renewed = float("-inf")
            self._announce()

    def _announce(self) -> None:
        held = self.held()
        if held != self._announced:
            self._announced = held
            log.info("%s %s the lease %s/%s.", self.identity, "holds" if held else "lost", self.namespace, self.name)
            self.changed(held)

    def _pause(self) -> float:
        """As a leader until the next renewal, else until the next look, or the end of the other's lease if sooner."""
        if self.held():
            return self.times.renew
        _, since = self._seen
        left = since + self.times.duration - self.clock()
        return min(self.times.poll, left + 0.01) if left > 0 else self.times.poll

    async def _try(self) -> bool:
        lease = await self._get()
        if lease is None:
            await self._create()
            return True
        spec = lease["spec"]
        holder = str(spec.get("holderIdentity") or "")
        record = f"{holder} {spec.get('renewTime')} {spec.get('leaseTransitions')}"
        if record != self._seen[0]:
            self._seen = (record, self.clock())
        lasts = float(spec.get("leaseDurationSeconds") or self.times.duration)
        if holder and holder != self.identity and self.clock() - self._seen[1] < lasts:
            return False
        if holder != self.identity:
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
            spec["acquireTime"] = _now()
        spec |= {"holderIdentity": self.identity, "leaseDurationSeconds": self.times.duration, "renewTime": _now()}
        await self._put(lease)
        return True

    async def _get(self) -> dict[str, Any] | None:
        try:
            return await self.client.request("GET", self._path(self.name), timeout_s=self.times.request)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _put(self, lease: dict[str, Any]) -> None:
        """With the resourceVersion that was read: of two candidates one gets 409."""
        await self.client.request("PUT", self._path(self.name), body=lease, timeout_s=self.times.request)

    async def _create(self) -> None:
        now = _now()
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": self.times.duration,
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }
        await self.client.request("POST", self._path(), body=body, timeout_s=self.times.request)

    def _path(self, name: str = "") -> str:
        return object_path("leases", name, group="coordination.k8s.io/v1", namespace=self.namespace)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
