"""Health checks with a clock of the test's own: rise, fall, jitter, bounds; and servers that misbehave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from sixgate.api.nodeconfig_lb import Balancer, BalancerCheck
from sixgate.node.lb import checks, probes
from sixgate.node.lb.checker import AT_ONCE, Checker
from sixgate.node.lb.want import Health

CHECK = {"type": "TCP", "port": 80, "intervalMs": 100, "timeoutMs": 50, "rise": 2, "fall": 3}


def check(**more: Any) -> BalancerCheck:
    return BalancerCheck.model_validate({**CHECK, **more})


def balancer(count: int = 1, **more: Any) -> Balancer:
    document = {
        "name": "web",
        "vips": [{"address": "192.0.2.80"}],
        "backends": [{"address": f"203.0.113.{number}"} for number in range(1, count + 1)],
        "tableSize": 251,
        "seed": 7,
        "check": {**CHECK, **more},
    }
    return Balancer.model_validate(document)


def test_rise_and_fall() -> None:
    backend, asked = checks.Backend(), check()
    heard = [backend.heard(asked, "refused") for _ in range(3)]
    assert (heard, backend.down, backend.why) == ([False, False, True], True, "refused")
    assert backend.heard(asked, None) is False
    assert backend.heard(asked, "timeout") is True  # the reason is another one
    assert [backend.heard(asked, None) for _ in range(2)] == [False, True]
    assert not backend.down


def test_a_good_answer_begins_the_count_anew() -> None:
    backend, asked = checks.Backend(), check()
    for answer in ("x", "x", None, "x", "x", None):
        assert backend.heard(asked, answer) is False
    assert not backend.down


def test_jitter_stays_within_its_share() -> None:
    dice, asked = random.Random(1), check(intervalMs=1000, jitterPercent=40)
    pauses = [checks.next_pause_s(asked, dice) for _ in range(1000)]
    assert 0.8 <= min(pauses) < 0.85
    assert 1.15 < max(pauses) <= 1.2
    assert {checks.next_pause_s(check(jitterPercent=0), dice) for _ in range(9)} == {0.1}
    assert max(checks.first_pause_s(check(intervalMs=600000), dice) for _ in range(1000)) <= 1.0


def test_the_rate_is_bounded() -> None:
    allowance = checks.Allowance(per_second=10, burst=5)
    waits = [allowance.wait_s(100.0) for _ in range(7)]
    assert waits[:5] == [0.0] * 5
    assert waits[5:] == pytest.approx([0.1, 0.2])
    assert allowance.wait_s(101.0) == 0.0


class OwnTime(asyncio.SelectorEventLoop):
    """A loop whose time passes when all wait, at once, and at no other moment. Nothing in it may wait for the world."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._selector.select = self._pass  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now_s

    def _pass(self, timeout: float | None) -> list[Any]:
        assert timeout is not None, "everybody waits, and nobody for a time"
        self.now_s += max(0.0, timeout)
        return []


def in_own_time(body: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=OwnTime) as runner:
        runner.run(body)


def run(story: Callable[[Checker, list[str]], Awaitable[None]], answers: Callable[[str], str | None]) -> list[str]:
    """A checker whose backends answer as `answers` says; what was asked, in order."""
    asked: list[str] = []

    async def ask(_: BalancerCheck, address: str) -> str | None:
        asked.append(address)
        return answers(address)

    async def body() -> None:
        checker = Checker(lambda: None, asyncio.get_running_loop().time, ask, random.Random(1), per_second=10000)
        try:
            async with asyncio.timeout(10):
                await story(checker, asked)
        finally:
            await checker.stop()

    in_own_time(body())
    return asked


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_a_backend_is_quarantined_and_released() -> None:
    bad: dict[str, str] = {"203.0.113.2": "refused"}

    async def story(checker: Checker, _: list[str]) -> None:
        checker.follow((balancer(3, intervalMs=10, timeoutMs=10),), Health())
        await until(lambda: checker.health() == Health({("web", "203.0.113.2"): "refused"}))
        bad.clear()
        await until(lambda: checker.health() == Health())

    run(story, bad.get)


def test_a_checker_that_was_woken_just_now_stops() -> None:
    async def story(checker: Checker, _: list[str]) -> None:
        checker.follow((balancer(1, intervalMs=600000),), Health())
        await asyncio.sleep(0.001)  # it waits for the first time to come
        checker.follow((), Health())

    assert run(story, lambda _: None) == []


def test_what_is_known_is_where_a_new_agent_begins() -> None:
    known = Health({("web", "203.0.113.1"): "did not answer before"})

    async def story(checker: Checker, asked: list[str]) -> None:
        checker.follow((balancer(2, intervalMs=600000, timeoutMs=10),), known)
        assert checker.health() == known
        await until(lambda: len(asked) == 2)
        assert checker.health() == known

    run(story, lambda _: None)


def test_backends_that_are_gone_or_not_active_are_not_asked() -> None:
    async def story(checker: Checker, asked: list[str]) -> None:
        checker.follow((balancer(2, intervalMs=10, timeoutMs=10),), Health())
        await until(lambda: len(set(asked)) == 2)
        checker.follow((balancer(1, intervalMs=10, timeoutMs=10),), Health())
        asked.clear()
        await until(lambda: len(asked) > 5)
        assert set(asked) == {"203.0.113.1"}

    run(story, lambda _: None)


def test_silent_backends_delay_nobody_and_few_are_asked_at_once() -> None:
    under_way: list[int] = [0, 0]

    async def hang(_: BalancerCheck, address: str) -> str | None:
        if address == "203.0.113.1":
            done.append(address)
            return None
        under_way[0] += 1
        under_way[1] = max(under_way)
        await asyncio.sleep(0.05)
        under_way[0] -= 1
        return "silent"

    done: list[str] = []

    async def body() -> None:
        checker = Checker(lambda: None, asyncio.get_running_loop().time, hang, random.Random(1), per_second=1e6)
        many = [balancer(200, intervalMs=10, timeoutMs=10).model_copy(update={"name": f"b{n}"}) for n in range(5)]
        checker.follow(tuple(many), Health())
        async with asyncio.timeout(10):
            await until(lambda: len(done) > 20)
        await checker.stop()

    in_own_time(body())
    assert 100 < under_way[1] <= AT_ONCE


# Probes


async def serve(answer: bytes | None, story: Callable[[int], Awaitable[str | None]]) -> str | None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        if answer is not None:
            writer.write(answer)
            writer.close()
        else:
            await asyncio.sleep(5)

    async with await asyncio.start_server(handle, "::1", 0) as server:
        return await story(server.sockets[0].getsockname()[1])


def http(answer: bytes | None, **more: Any) -> str | None:
    async def story(port: int) -> str | None:
        return await probes.ask(
            check(type="HTTP", port=port, timeoutMs=30000 if answer is not None else 500, **more), "::1"
        )

    return asyncio.run(serve(answer, story))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", None),
        (b"HTTP/1.0 200\r\n", None),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n", None),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "/ gave status 503, expected 200"),
        (b"SSH-2.0-OpenSSH\r\n", "gave an answer that is not HTTP"),
        (b"HTTP/1.1 abc\r\n", "gave an answer that is not HTTP"),
        (b"\r\n", "gave an answer that is not HTTP"),
        (b"", "gave an answer that is not HTTP"),
        (b"x" * 100000, "gave an answer that is not HTTP"),
        (bytes(range(256)) * 4, "gave an answer that is not HTTP"),
        (None, "did not answer within 500 ms"),
    ],
)
def test_http(answer: bytes | None, says: str | None) -> None:
    found = http(answer)
    assert found is None if says is None else says in str(found)


def test_other_codes_may_mean_healthy() -> None:
    assert http(b"HTTP/1.1 404 Not Found\r\n\r\n", statusCodes=[301, 404]) is None
    assert "expected 301 or 404" in str(http(b"HTTP/1.1 200 OK\r\n\r\n", statusCodes=[301, 404]))


def test_nobody_listens() -> None:
    async def story(port: int) -> str | None:
        return str(port)

    port = int(asyncio.run(serve(b"", story)) or 0)
    for kind in ("TCP", "HTTP", "HTTPS"):
        assert (
            asyncio.run(probes.ask(check(type=kind, port=port, intervalMs=9000, timeoutMs=9000), "::1"))
            == f"port {port}: connection refused"
        )


def test_https_that_is_none() -> None:
    async def story(port: int) -> str | None:
        return await probes.ask(check(type="HTTPS", port=port, timeoutMs=500), "::1")

    assert asyncio.run(serve(b"HTTP/1.1 200 OK\r\n\r\n", story)) is not None
