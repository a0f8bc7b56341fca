"""The agent's watch file against a real API server, as the service account, with a token bound to its node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from e2e.apiserver.cluster import Refused
from sixgate.api.nodeconfig import FORMAT_VERSION, NodeConfigSpec, NodeConfigStatus
from sixgate.kube import KubeClient
from sixgate.node.watch import EMPTY, LAST_GOOD, Follower, LastGood, run_agent

if TYPE_CHECKING:
    from pathlib import Path

    from e2e.apiserver import Kubeconfig
    from e2e.apiserver.cluster import Cluster

Body = Callable[["Node"], Awaitable[None]]


class PaperNode:
    """Behaves as NodeAgent does where the watch file meets it, and has no kernel. Digests in `unknown` are refused."""

    def __init__(self, unknown: frozenset[str] = frozenset()) -> None:
        self.applied: list[NodeConfigSpec] = []
        self.unknown = unknown
        self.status = NodeConfigStatus()

    def apply_document(self, document: dict[str, Any]) -> NodeConfigStatus:
        if document.get("formatVersion") != FORMAT_VERSION:
            message = f"format version {document.get('formatVersion')!r}, this node reads {FORMAT_VERSION}"
        else:
            message = "cannot be read"
        return self.status.model_copy(update={"ready": False, "message": message})

    async def run(
        self,
        source: AsyncIterator[NodeConfigSpec],
        on_status: Callable[[NodeConfigStatus], Awaitable[None]] | None = None,
    ) -> None:
        async for spec in source:
            if any(item.digest in self.unknown for item in spec.objects):
                self.status = self.status.model_copy(update={"ready": False, "message": "digest is not known here"})
            else:
                self.applied.append(spec)
                self.status = NodeConfigStatus(applied_revision=spec.revision, ready=True)
            assert on_status is not None
            await on_status(self.status)


class Node:
    """One agent under test: start and stop it, look at what it applied and at what the API server has of it."""

    def __init__(self, cluster: Cluster, account: Kubeconfig, directory: Path, name: str = "n1") -> None:
        self.cluster, self.account, self.name = cluster, account, name
        self.last_good = LastGood(directory / LAST_GOOD)
        self.paper = PaperNode()
        self._task: asyncio.Task[None] | None = None

    async def start(self, paper: PaperNode | None = None) -> PaperNode:
        self.paper = paper or PaperNode()

        async def connect() -> KubeClient:
            return await KubeClient.connect(self.account.path, agent="test")

        follower = Follower(self.name, self.last_good, connect, self.paper.apply_document)
        self._task = asyncio.create_task(run_agent(self.paper, follower))
        return self.paper

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def until(self, what: str, check: Callable[[], Any], timeout_s: float = 120) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                while not (found := await asyncio.to_thread(check)):
                    if self._task is not None and self._task.done():
                        self._task.result()
                    await asyncio.sleep(0.02)
                return found
        except TimeoutError:
            raise AssertionError(f"{what}: not within {timeout_s} s; applied {self.paper.applied}") from None

    def reported(self) -> dict[str, Any]:
        found = self.cluster.get("NodeConfig", self.name) or {}
        status: dict[str, Any] = found.get("status", {})
        return status


def config(name: str, number: int, **spec: Any) -> dict[str, Any]:
    """A NodeConfig told from others by a sysctl that nobody sets."""
    body = {"sysctls": [{"key": "net/ipv6/conf/x/hop_limit", "value": str(number), "owners": ["NAT46Gateway/gw"]}]}
    wanted = NodeConfigSpec.model_validate({"formatVersion": 1, **body, **spec}).hashed()
    return {
        "apiVersion": "sixgate.io/v1alpha1", "kind": "NodeConfig", "metadata": {"name": name},
        "spec": wanted.model_dump(mode="json", by_alias=True, exclude_none=True),
    }  # fmt: skip


def values(paper: PaperNode) -> list[str]:
    return [spec.sysctls[0].value if spec.sysctls else "" for spec in paper.applied]


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path) -> Node:
    for name in ("n1", "n2"):
        cluster.node(name)
        cluster.apply(config(name, 1), manager="sixgate-operator")
    return Node(cluster, cluster.agent_account("n1"), tmp_path)


def during(node: Node, body: Body) -> None:
    """Run `body` in an event loop and stop the agent afterwards."""

    async def main() -> None:
        try:
            await body(node)
        finally:
            await node.stop()

    asyncio.run(main())


def test_it_applies_its_own_nodeconfig_and_reports(node: Node) -> None:
    async def body(node: Node) -> None:
        paper = await node.start()
        status = await node.until("a report", node.reported)
        assert status["ready"]
        assert status["appliedRevision"] == paper.applied[0].revision
        assert status["observedGeneration"] == 1
        node.cluster.apply(config("n2", 7), manager="sixgate-operator")
        node.cluster.apply(config("n1", 2), manager="sixgate-operator")
        await node.until("the second", lambda: node.reported().get("observedGeneration") == 2)
        assert values(paper) == ["1", "2"]
        assert not (node.cluster.get("NodeConfig", "n2") or {}).get("status")

    during(node, body)


def test_a_restart_applies_the_same_and_writes_nothing(node: Node) -> None:
    async def body(node: Node) -> None:
        await node.start()
        await node.until("a report", node.reported)
        await node.stop()
        before = node.cluster.get("NodeConfig", "n1")
        paper = await node.start()
        node.cluster.apply(config("n2", 7), manager="sixgate-operator")
        await node.until("from disk", lambda: values(paper) == ["1"])
        await asyncio.sleep(1)
        assert values(paper) == ["1"]
        assert node.cluster.get("NodeConfig", "n1") == before

    during(node, body)


def test_without_api_server_it_starts_from_the_last_good_and_catches_up(node: Node) -> None:
    async def body(node: Node) -> None:
        await node.start()
        await node.until("saved", node.last_good.path.exists)
        await node.until("a report", node.reported)
        await node.stop()
        node.cluster.server.kill_apiserver()
        try:
            paper = await node.start()
            await node.until("from disk", lambda: values(paper) == ["1"])
        finally:
            node.cluster.server.spawn_apiserver()
            await asyncio.to_thread(node.cluster.server.wait_ready)
        node.cluster.apply(config("n1", 3), manager="sixgate-operator")
        await node.until("the change", lambda: values(paper) == ["1", "3"])
        await node.until("its report", lambda: node.reported()["appliedRevision"] == paper.applied[-1].revision)

    during(node, body)


def test_an_outage_under_way_is_survived(node: Node) -> None:
    async def body(node: Node) -> None:
        paper = await node.start()
        await node.until("a report", node.reported)
        node.cluster.server.kill_apiserver()
        await asyncio.sleep(1)
        node.cluster.server.spawn_apiserver()
        await asyncio.to_thread(node.cluster.server.wait_ready)
        node.cluster.apply(config("n1", 4), manager="sixgate-operator")
        await node.until("the change", lambda: values(paper) == ["1", "4"])

    during(node, body)


def test_an_unknown_version_is_refused_whole_and_the_status_says_so(node: Node) -> None:
    async def body(node: Node) -> None:
        paper = await node.start()
        await node.until("a report", node.reported)
        # The schema knows version 1 only, as an old agent beside a newer operator's CRD does not.
        crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/nodeconfigs.sixgate.io"
        loose = node.cluster.call("GET", crd)
        schema = loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        schema["formatVersion"] = {"type": "integer"}
        node.cluster.call("PUT", crd, loose)
        try:
            document = config("n1", 5)
            document["spec"]["formatVersion"] = 2
            await node.until("accepted by the server", lambda: _accepted(node.cluster, document))
            status = await node.until("refused", lambda: (s := node.reported()) and not s["ready"] and s)
        finally:
            node.cluster.install()
        assert "format version 2" in status["message"]
        assert status["appliedRevision"] == paper.applied[0].revision
        assert values(paper) == ["1"]
        kept = node.last_good.load()
        assert kept is not None
        assert kept.revision == paper.applied[0].revision

    during(node, body)


def _accepted(cluster: Cluster, document: dict[str, Any]) -> bool:
    try:
        cluster.apply(document, manager="sixgate-operator")
    except Refused:
        return False
    return True


def test_an_unknown_digest_is_refused_and_is_not_the_last_good(node: Node) -> None:
    async def body(node: Node) -> None:
        digest = "sha256:" + "f" * 64
        paper = await node.start(PaperNode(frozenset({digest})))
        await node.until("a report", node.reported)
        objects = [{"name": "sg_tc", "digest": digest, "constants": {}, "attachments": []}]
        node.cluster.apply(config("n1", 6, objects=objects), manager="sixgate-operator")
        status = await node.until("refused", lambda: (s := node.reported()) and not s["ready"] and s)
        assert status["message"] == "digest is not known here"
        kept = node.last_good.load()
        assert kept is not None
        assert kept.revision == paper.applied[0].revision

    during(node, body)


def test_a_deleted_nodeconfig_means_that_nothing_is_wanted(node: Node) -> None:
    async def body(node: Node) -> None:
        paper = await node.start()
        await node.until("a report", node.reported)
        node.cluster.delete("NodeConfig", "n1")
        await node.until("nothing", lambda: paper.applied[-1] == EMPTY)
        node.cluster.apply(config("n1", 8), manager="sixgate-operator")
        await node.until("again", lambda: values(paper) == ["1", "", "8"])
        await node.until("a report", node.reported)

    during(node, body)


def test_a_damaged_last_good_is_said_and_passed_over(node: Node) -> None:
    node.last_good.path.write_text("{half")

    async def body(node: Node) -> None:
        paper = await node.start()
        await node.until("from the API server", lambda: values(paper) == ["1"])

    during(node, body)
