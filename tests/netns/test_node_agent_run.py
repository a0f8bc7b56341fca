"""NodeAgent.run: specs come one after another, the kernel changes, failed actions come due."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from sixgate.errors import ApplyError
from sixgate.node.bpf import Link, info
from tests.netns.node_state import forwarding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sixgate.api.nodeconfig import NodeConfigSpec, NodeConfigStatus
    from sixgate.node.actions import Action
    from sixgate.node.agent import NodeAgent
    from tests.netns.conftest import Node

PATIENCE_S = 60.0


class Feed:
    """A source of specs, and the reports that came of them."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[NodeConfigSpec | None] = asyncio.Queue()
        self.reports: list[NodeConfigStatus] = []

    async def specs(self) -> AsyncIterator[NodeConfigSpec]:
        while (spec := await self.queue.get()) is not None:
            yield spec

    async def on_status(self, status: NodeConfigStatus) -> None:
        self.reports.append(status)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.02)


def run(agent: NodeAgent, story: Callable[[Feed], Awaitable[None]]) -> Feed:
    """Runs an agent beside a story, and ends its source when the story is over."""

    async def both() -> Feed:
        feed = Feed()
        work = asyncio.create_task(agent.run(feed.specs(), feed.on_status))
        try:
            await story(feed)
            await feed.queue.put(None)
            await asyncio.wait_for(work, PATIENCE_S)
        finally:
            work.cancel()
        return feed

    return asyncio.run(both())


def test_specs_are_applied_and_each_report_is_given_once(node: Node) -> None:
    first, second = node.spec(), node.spec(entries={9: 90})

    async def story(feed: Feed) -> None:
        await feed.queue.put(first)
        await until(lambda: len(feed.reports) == 1)
        await feed.queue.put(first)
        await feed.queue.put(second)
        await until(lambda: feed.reports[-1].applied_revision == second.revision)

    feed = run(node.agent(), story)
    assert [report.applied_revision for report in feed.reports] == [first.revision, second.revision]
    assert all(report.ready for report in feed.reports)
    assert len(info.query_attached(node.ns.ifindex("e0"), "tc-ingress")) == 1


def test_what_somebody_breaks_is_repaired_without_being_asked(node: Node) -> None:
    """Long before the next look without a cause."""
    node.tcx = False

    def route() -> str:
        return node.ns.run("ip", "-6", "route", "show", "fd98::/64")

    async def story(feed: Feed) -> None:
        await feed.queue.put(node.spec())
        await until(lambda: bool(feed.reports))
        node.ns.ip("-6 route del fd98::/64")
        await until(lambda: "fd98::/64" in route())
        node.ns.run("tc", "qdisc", "del", "dev", "e0", "clsact")
        await until(lambda: "t_tc" in node.ns.run("tc", "filter", "show", "dev", "e0", "ingress"))
        with open("/proc/sys/net/ipv4/conf/e0/forwarding", "w") as file:
            file.write("0")
        await until(lambda: forwarding("e0") == "1")
        node.ns.ip("addr del fd99::1/64 dev sg-a")
        await until(lambda: "fd99::1" in node.ns.run("ip", "addr", "show", "sg-a"))
        node.ns.ip("link del sg-a")
        await until(lambda: "sg-b" in node.ns.run("ip", "link") and feed.reports[-1].ready)

    run(node.agent(), story)


def test_what_no_event_tells_of_is_repaired_long_before_the_next_whole_look(node: Node) -> None:
    """A tcx link that somebody detaches, a pin that somebody removes, a bpffs over ours."""
    agent = node.agent(resync_s=3600.0)
    links = node.root / "links"

    def attached() -> int:
        return len(info.query_attached(node.ns.ifindex("e0"), "tc-ingress"))

    async def story(feed: Feed) -> None:
        await feed.queue.put(node.spec())
        await until(lambda: bool(feed.reports))
        (pin,) = links.iterdir()
        with Link.from_pin(pin) as link:
            link.detach()
        assert not attached()
        await until(lambda: attached() == 1 and pin.exists())  # attached first, pinned then
        pin.unlink()
        await until(lambda: attached() == 1 and pin.exists())
        (program,) = (path for path in (node.root / "progs").iterdir() if "t_tc" in path.name)
        program.unlink()
        await until(program.exists)
        assert attached() == 1

    run(agent, story)


def test_a_failed_action_comes_due_by_itself(node: Node) -> None:
    left = [2]

    def around(execute: Callable[[Action], None]) -> Callable[[Action], None]:
        def unlucky(action: Action) -> None:
            if "fd98::/64" in str(action) and left[0]:
                left[0] -= 1
                raise ApplyError("Not now.", errno.EBUSY)
            execute(action)

        return unlucky

    async def story(feed: Feed) -> None:
        await feed.queue.put(node.spec())
        await until(lambda: bool(feed.reports) and feed.reports[-1].ready)

    feed = run(node.agent(around=around), story)
    assert [(report.ready, report.message) for report in feed.reports] == [(False, "Not now."), (True, "")]
    assert left == [0]


def test_another_process_that_keeps_the_node_is_waited_for(node: Node) -> None:
    other = node.agent()
    other.apply(node.spec())
    options = other._options

    async def story(feed: Feed) -> None:
        await feed.queue.put(node.spec(entries={4: 40}))
        await until(lambda: bool(feed.reports))
        assert "stop it first" in feed.reports[-1].message
        other.close()
        await until(lambda: feed.reports[-1].ready)

    with type(other)(options) as waiting:
        run(waiting, story)
