"""Leader, trigger, events, liveness and the list-and-watch loop, with clocks and servers made of paper."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args
from urllib.error import HTTPError

import pytest

from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.controller import writer, writes
from sixgate.controller.events import Bucket, notices
from sixgate.controller.leader import Leader, LeaseTimes
from sixgate.controller.trigger import Trigger
from sixgate.health import HealthServer, Pulse
from sixgate.kube import ApiError, Backoff, Change, Listed, Reflector
from sixgate.node.watch import LastGood


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class PaperLeases:
    """The API server as far as one Lease needs it, with its optimistic locking."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.away = False

    async def request(self, method: str, path: str, *, body: Any = None, **_: Any) -> dict[str, Any]:
        if self.away:
            raise ApiError("away")
        if method == "GET":
            if self.lease is None:
                raise ApiError("none", 404)
            return json.loads(json.dumps(self.lease))  # type: ignore[no-any-return]
        if method == "PUT" and body["metadata"].get("resourceVersion") != str(self.version):
            raise ApiError("conflict", 409)
        if method == "POST" and self.lease is not None:
            raise ApiError("exists", 409)
        self.version += 1
        self.lease = json.loads(json.dumps(body))
        self.lease["metadata"]["resourceVersion"] = str(self.version)  # type: ignore[index]
        return self.lease  # type: ignore[return-value]


def candidate(server: PaperLeases, clock: Clock, name: str, turns: list[bool] | None = None) -> Leader:
    changed = (turns if turns is not None else []).append
    return Leader(server, "ns", "lease", name, changed, LeaseTimes(), clock)  # type: ignore[arg-type]


async def step(leader: Leader) -> float:
    """One round of `run`; returns the pause that it would make."""
    started = leader.clock()
    try:
        if await leader._try():
            leader._renewed = started
    except ApiError:
        pass
    leader._announce()
    return leader._pause()


def test_takeover_after_a_crash_takes_less_than_five_seconds_at_any_phase() -> None:
    async def body() -> None:
        for phase in range(20):
            clock, server = Clock(), PaperLeases()
            first, second = candidate(server, clock, "first"), candidate(server, clock, "second")
            await step(first)
            pause = await step(second)
            clock.now += phase * 0.05
            await step(first)  # its last renewal, then it is killed
            died, waited = clock.now, phase * 0.05
            while not second.held():
                clock.now += max(0.0, pause - waited)
                waited = 0.0
                pause = await step(second)
            assert 4.0 <= clock.now - died <= 5.0

    asyncio.run(body())


def test_a_leader_that_cannot_renew_has_stopped_before_another_may_begin() -> None:
    async def body() -> None:
        clock, server, turns = Clock(), PaperLeases(), []
        first, second = candidate(server, clock, "first", turns), candidate(server, clock, "second")
        await step(first)
        await step(second)
        assert first.held()
        server.away = True
        clock.now += first.times.deadline
        assert not first.held()
        await step(first)
        assert turns == [True, False]
        server.away = False
        await step(second)
        assert not second.held(), "the lease has not run out yet"
        clock.now += first.times.duration
        await step(second)
        assert second.held()

    asyncio.run(body())


def test_a_released_lease_is_taken_at_once_and_of_two_takers_one_wins() -> None:
    async def body() -> None:
        clock, server = Clock(), PaperLeases()
        first = candidate(server, clock, "first")
        others = [candidate(server, clock, name) for name in ("second", "third")]
        await step(first)
        for other in others:
            await step(other)
        await first.release()
        for other in others:
            await step(other)
        assert [other.held() for other in others] == [True, False]
        assert server.lease is not None
        assert server.lease["spec"]["leaseTransitions"] == 1

    asyncio.run(body())


def test_a_trigger_answers_many_fires_once_and_can_be_cancelled_while_firing() -> None:
    async def body() -> None:
        trigger = Trigger(settle_s=0)
        for _ in range(3):
            trigger.fire()
        assert await trigger.wait(1)
        assert not await trigger.wait(0.01)
        waiter = asyncio.create_task(trigger.wait(10))
        await asyncio.sleep(0)
        trigger.fire()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(body())


def condition(kind: str, status: str, reason: str = "R", message: str = "m") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([], [condition("Ready", "Unknown", "Pending"), condition("Conflicted", "False")], []),
        ([condition("Ready", "Unknown")], [condition("Ready", "True", "Programmed")], [(False, "Programmed")]),
        ([condition("Ready", "True")], [condition("Ready", "False", "Degraded")], [(True, "Degraded")]),
        ([condition("Ready", "True", "A")], [condition("Ready", "True", "A", "other words")], []),
        ([], [condition("Conflicted", "True", "Conflicted")], [(True, "Conflicted")]),
        ([condition("Conflicted", "True")], [condition("Conflicted", "False")], [(False, "NoConflicted")]),
        ([condition("Ready", "False", "A")], [condition("Ready", "False", "B")], [(True, "B")]),
        ([], [condition("Copied", "Unknown", "NoOwner")], []),
        ([condition("Copied", "True")], [condition("Copied", "Unknown", "Copying")], []),
        ([condition("Copied", "True")], [condition("Copied", "False", "NoStandby")], [(True, "NoStandby")]),
        ([condition("Copied", "False")], [condition("Copied", "True", "Copied")], [(False, "Copied")]),
        ([condition("Copied", "Unknown")], [condition("Copied", "False", "OneGateway")], []),
    ],
)
def test_events_are_about_what_turned(before: Any, after: Any, told: Any) -> None:
    found = notices({"conditions": before}, {"conditions": after})
    assert [(notice.warning, notice.reason) for notice in found] == told


def test_a_bucket_gives_a_burst_and_then_its_rate() -> None:
    clock = Clock()
    bucket = Bucket(burst=3, per_s=2, clock=clock)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock.now += 0.5
    assert bucket.take()
    assert bucket.wait_s() == pytest.approx(0.5)


def test_backoff_doubles_to_two_seconds_and_starts_again() -> None:
    backoff = Backoff(random=lambda: 1.0)
    assert [backoff.pause_s() for _ in range(7)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    backoff.reset()
    assert backoff.pause_s() == pytest.approx(0.1)


def test_liveness_says_which_part_is_silent() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    pulse.beat("the audit", 10)
    pulse.beat("the loop", 100)
    server = HealthServer("127.0.0.1", 0, pulse.late)
    try:
        url = f"http://127.0.0.1:{server.port}/healthz"
        assert urllib.request.urlopen(url, timeout=60).status == 200
        clock.now += 11
        with pytest.raises(HTTPError) as error:
            urllib.request.urlopen(url, timeout=60)
        assert error.value.code == 503
        assert b"the audit must show life every 10 s" in error.value.read()
    finally:
        server.close()


class PaperWatch:
    """Answers lists and watches from a script: a list of items, or an ApiError, per request."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.asked: list[str] = []

    async def request(self, method: str, path: str, **_: Any) -> dict[str, Any]:
        self.asked.append("list")
        answer = self.script.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return {"metadata": {"resourceVersion": "10"}, "items": answer}

    async def watch(self, path: str, params: dict[str, str], **_: Any) -> AsyncIterator[dict[str, Any]]:
        self.asked.append(f"watch from {params['resourceVersion']}")
        for event in self.script.pop(0):
            if isinstance(event, ApiError):
                raise event
            yield event


def event(kind: str, version: int) -> dict[str, Any]:
    return {"type": kind, "object": {"metadata": {"name": "n", "resourceVersion": str(version)}}}


def test_a_broken_watch_is_resumed_and_only_a_lost_history_is_listed_again() -> None:
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
    server = PaperWatch(
        ApiError("away"),
        [],
        [event("ADDED", 11), event("BOOKMARK", 15), ApiError("reset")],
        [event("MODIFIED", 16), gone],
        [{"metadata": {"name": "n"}}],
        [event("DELETED", 12)],
    )

    async def body() -> list[Any]:
        reflector = Reflector(server, "/x", backoff=Backoff(random=lambda: 0.0, first_s=0.0, last_s=0.0))  # type: ignore[arg-type]
        seen: list[Any] = []
        async for item in reflector.events():
            seen.append(item)
            if len(seen) == 5:
                break
        return seen

    seen = asyncio.run(body())
    assert [type(item) for item in seen] == [Listed, Change, Change, Listed, Change]
    assert server.asked == ["list", "list", "watch from 10", "watch from 15", "list", "watch from 10"]


def test_the_last_good_file_is_whole_or_the_old_one(tmp_path: Path) -> None:
    kept = LastGood(tmp_path / "state" / "nodeconfig.json")
    assert kept.load() is None
    spec = NodeConfigSpec.model_validate({"formatVersion": 1}).hashed()
    kept.save(spec)
    kept.path.with_suffix(".tmp").write_text("{half a fi")  # what a crash in the middle of a save leaves
    assert kept.load() == spec
    assert kept.path.stat().st_mode & 0o777 == 0o600
    kept.path.write_text("{half a fi")
    assert kept.load() is None


def test_every_write_is_counted() -> None:
    assert set(writer._KINDS) == set(get_args(writes.Write))
