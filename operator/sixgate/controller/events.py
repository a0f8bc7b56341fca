"""Events on users' objects when a condition turns or an egress address moves, few enough never to be a load.

Posted after the status they tell of, at most once: an operator that dies between the two leaves no event, and the
condition says the same. Each object may have a few, all together a few per second; what is left out is counted.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sixgate.api.base import API_VERSION
from sixgate.kube import ApiError, KubeClient
from sixgate.kube.client import object_path
from sixgate.plan.egress_status import ONE_GATEWAY, moves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sixgate.controller.writes import ApplyStatus

log = logging.getLogger(__name__)

NAMESPACE = "default"  # where Kubernetes keeps events of cluster-scoped objects
BAD_WHEN_TRUE = frozenset({"Conflicted", "Degraded"})
GOOD_WHEN_TRUE = frozenset({"Ready", "Copied"})
MAX_NOTE = 1024


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing worth telling: `warning` or not, why, and the sentence."""

    warning: bool
    reason: str
    note: str


def notices(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Notice]:
    """What changed between two statuses: conditions whose status or reason turned, addresses that went elsewhere.

    The first Unknown of a fresh object is not news, nor is a bad condition that is false from the start, nor that one
    gateway copies nothing.
    """
    old = {c["type"]: c for c in before.get("conditions") or ()}
    for condition in after.get("conditions") or ():
        kind, status, reason = condition["type"], condition["status"], condition["reason"]
        was = old.get(kind, {"status": "False" if kind in BAD_WHEN_TRUE else "Unknown", "reason": reason})
        if kind not in BAD_WHEN_TRUE | GOOD_WHEN_TRUE or (was["status"], was["reason"]) == (status, reason):
            continue
        if status == "Unknown" or (kind in BAD_WHEN_TRUE and was["status"] == status == "False"):
            continue
        if reason == ONE_GATEWAY:
            continue
        warning = status == "True" if kind in BAD_WHEN_TRUE else status == "False"
        if not warning and kind in BAD_WHEN_TRUE:
            reason = f"No{kind}"
        yield Notice(warning, reason, condition["message"][:MAX_NOTE])
    for failed, reason, note in moves(before.get("addresses") or (), after.get("addresses") or ()):
        yield Notice(failed, reason, note[:MAX_NOTE])


@dataclass(slots=True)
class Bucket:
    """Tokens: `burst` at once, `per_s` in the long run."""

    burst: float
    per_s: float
    clock: Callable[[], float] = time.monotonic
    _tokens: float = field(default=-1.0, init=False)
    _at: float = field(default=0.0, init=False)

    def take(self) -> bool:
        return self.wait_s() <= 0

    def wait_s(self) -> float:
        """Takes a token and returns 0, or returns after how long one will be there and takes none."""
        now = self.clock()
        if self._tokens < 0:
            self._tokens, self._at = self.burst, now
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_s)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.per_s


@dataclass(slots=True)
class EventPoster:
    client: KubeClient
    instance: str
    bucket: Bucket = field(default_factory=lambda: Bucket(burst=50, per_s=5))
    dropped: int = field(default=0, init=False)

    async def post(self, written: ApplyStatus) -> None:
        """Never raises: an event that cannot be posted is not worth a retry."""
        for notice in notices(written.before, written.status):
            if not self.bucket.take():
                self.dropped += 1
                log.debug("Event left out, %d so far: %s %s", self.dropped, written.ref, notice.note)
                continue
            try:
                path = object_path("events", group="events.k8s.io/v1", namespace=NAMESPACE)
                await self.client.request("POST", path, body=self._body(written, notice))
            except ApiError as error:
                log.debug("An event on %s was not posted: %s", written.ref, error)

    def _body(self, written: ApplyStatus, notice: Notice) -> dict[str, Any]:
        now = datetime.now(UTC)
        stamp = hashlib.sha256(f"{written.uid} {notice} {now.timestamp()}".encode()).hexdigest()[:16]
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{written.ref.name[:200]}.{stamp}", "namespace": NAMESPACE},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": "Warning" if notice.warning else "Normal",
            "reason": notice.reason,
            "action": "Reconcile",
            "note": notice.note,
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": written.ref.kind,
                "name": written.ref.name,
                "uid": written.uid,
            },
            "reportingController": "sixgate.io/operator",
            "reportingInstance": self.instance[:128],
        }
