"""Things that go wrong, or are done on purpose, while packets flow."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from e2e.cluster import node, plan, proofs, world
from e2e.cluster.cluster import ClusterError
from e2e.cluster.release import NAMESPACE, PYTHON

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.cluster.proofs import Scene

CONNECTIONS, PACKETS = 1000, 10_000
BEFORE_S, AFTER_S = 4, 4
ATTACK = """
import json, ssl, sys, urllib.request, urllib.error
base = "/var/run/secrets/kubernetes.io/serviceaccount/"
def write(name, part):
    body = {"status": {"ready": True, "message": "written by another"}} if part else {"spec": {"tables": []}}
    import os
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    url = f"https://[{host}]:443/apis/sixgate.io/v1alpha1/nodeconfigs/{name}{part}"
    request = urllib.request.Request(url, json.dumps(body).encode(), method="PATCH", headers={
        "Authorization": "Bearer " + open(base + "token").read(), "Content-Type": "application/merge-patch+json"})
    try:
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=base + "ca.crt")) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["message"]
print(json.dumps([write(name, part) for name, part in json.loads(sys.argv[1])]))
"""


def under_load(scene: Scene, seconds: float, act: Callable[[], Any]) -> dict[str, Any]:
    """`act`, for so many seconds at most, while 1,000 connections and 10,000 packets per second go through the gateway,
    and some seconds before and after; what became of them."""
    running = scene.pods["v6"].start_load(
        plan.translated(plan.OUT4, scene.prefix), CONNECTIONS, PACKETS, seconds + AFTER_S
    )
    began = time.monotonic()
    try:
        time.sleep(BEFORE_S)
        act()
        spent = time.monotonic() - began
        if spent > seconds:
            raise ClusterError(f"What is done under load must fit into {seconds:.0f} s, and it took {spent:.0f} s.")
        time.sleep(AFTER_S)
        return running.result(60)
    finally:
        running.process.kill()


def upgrade(scene: Scene, tag: str, values: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
    """Every agent and operator replaced by a rebuilt image."""
    before = {pod["metadata"]["uid"] for pod in (*scene.release.agents().values(), *scene.release.operators())}

    def act() -> None:
        scene.release.tag = tag
        scene.release.upgrade(values)
        after = {pod["metadata"]["uid"] for pod in (*scene.release.agents().values(), *scene.release.operators())}
        if before & after:
            raise ClusterError("Every agent and operator must have been replaced by the upgrade, and some were not.")

    return under_load(scene, seconds, act)


def kill_processes(scene: Scene, word: str, nodes: list[str]) -> int:
    """kill -9 every `sixgate WORD` on some nodes; how many there were."""
    killed = 0
    for name in nodes:
        running = scene.cluster.nodes[name]
        for pid in running.run("pgrep", "-f", f"bin/sixgate {word}", check=False).stdout.split():
            running.run("kill", "-KILL", pid, check=False)
            killed += 1
    if not killed:
        raise ClusterError(f"`sixgate {word}` must run on {', '.join(nodes)}, and it does not.")
    return killed


def change_and_wait(scene: Scene, size: int, nodes: int = 3) -> float:
    """A change of an object, until every node has it; seconds."""
    began = time.monotonic()
    scene.cluster.apply({
        "apiVersion": "sixgate.io/v1alpha1", "kind": "BIGTCPPolicy", "metadata": {"name": "probe"},
        "spec": {"nodeSelector": {"matchLabels": {"kubernetes.io/os": "linux"}}, "priority": 500,
                 "ipv6": {"maxSize": size}},
    })  # fmt: skip
    scene.release.wait_object("bigtcppolicy", "probe", nodes, 60)
    return time.monotonic() - began


def operators_killed(scene: Scene) -> float:
    """Seconds from the death of all operators until a change made then has reached every node."""
    kill_processes(scene, "operator", list(scene.cluster.nodes))
    return change_and_wait(scene, 100_000)


def agents_killed(scene: Scene) -> None:
    """The containers start anew, and the data plane does not notice."""
    kill_processes(scene, "agent", list(scene.cluster.nodes))
    scene.release.wait_ready(60)


def apiserver_restarted(scene: Scene) -> float:
    """Seconds from its return until a change has reached every node; no agent may have been restarted."""
    restarts = {name: _restarts(pod) for name, pod in scene.release.agents().items()}
    scene.cluster.server.kill_apiserver()
    time.sleep(5)
    scene.cluster.server.start_apiserver()
    spent = change_and_wait(scene, 120_000)
    now = {name: _restarts(pod) for name, pod in scene.release.agents().items()}
    if now != restarts:
        raise ClusterError(f"No agent may restart because the API server did, and {now} were {restarts}.")
    return spent


def _restarts(pod: dict[str, Any]) -> int:
    return sum(int(item["restartCount"]) for item in pod["status"].get("containerStatuses", ()))


def node_killed(scene: Scene) -> str:
    """The gateway node in use loses its power; the router turns to the other, and later the node comes back."""
    cluster, pod = scene.cluster, scene.pods["v6"]
    victim, other = cluster.nodes["n1"], cluster.nodes["n2"]
    victim.kill()
    world.route_gateway(cluster.lab, other.node)
    seen = pod.ask(plan.translated(plan.OUT4))
    if not seen.startswith("198.51.100."):
        raise ClusterError(f"The other gateway must translate at once, and the server saw {seen or 'nobody'}.")
    cluster.wait("node n1 to be NotReady", lambda: not cluster.node_ready("n1"), 60)
    node.restart(cluster.lab, victim)
    cluster.wait("node n1 to be Ready again", lambda: cluster.node_ready("n1"), 90)
    scene.release.wait_ready(90)
    scene.release.wait_object("nat46gateway", proofs.GATEWAY, 2, 60)
    world.route_gateway(cluster.lab, victim.node)
    if not pod.ask(plan.translated(plan.OUT4)).startswith("198.51.100."):
        raise ClusterError("The node that came back must translate again, and it does not.")
    return "the other gateway took over at the next packet; the node came back by itself"


def attack(scene: Scene) -> int:
    """Writes that the agent of n1 was able to do and should not; its own status it can write, or nothing is shown."""
    pod = scene.release.agents()["n1"]["metadata"]["name"]
    tries = [["n1", "/status"], ["n2", "/status"], ["n1", ""], ["n2", ""]]
    told = scene.cluster.kubectl("-n", NAMESPACE, "exec", pod, "--", PYTHON, "-c", ATTACK, json.dumps(tries))
    answers: list[tuple[int, str]] = json.loads(told)
    if answers[0][0] != 200:
        raise ClusterError(f"An agent must be able to write its own status, and the server said {answers[0]}.")
    if "the NodeConfig of node n2" not in answers[1][1]:
        raise ClusterError(f"The refusal must name both nodes, and it says {answers[1][1]!r}.")
    return sum(status < 300 for status, _ in answers[1:])


def bpffs_missing(scene: Scene) -> str:
    """A node without BPF file system: its agent is not Ready, and says what is wrong and what to do."""
    running, cluster = scene.cluster.nodes["n3"], scene.cluster
    name = scene.release.agents()["n3"]["metadata"]["name"]
    running.run("umount", "-l", "/sys/fs/bpf")
    try:
        cluster.kubectl("-n", NAMESPACE, "delete", "pod", name)
        cluster.wait("the sentence in the NodeConfig", lambda: "BPF file system" in _message(scene, "n3"), 60)
        told = cluster.kubectl("describe", "nodeconfig", "n3")
        agent = cluster.wait("another agent on n3", lambda: scene.release.agents().get("n3", {}), 30)
        if cluster.condition(agent, "Ready").get("status") == "True":
            raise ClusterError("An agent without BPF file system must not be Ready, and it is.")
        said = _message(scene, "n3")
        if "mount -t bpf" not in said or said[:40] not in " ".join(told.split()):
            raise ClusterError(f"`kubectl describe` must say what to mount, and the message is {said!r}.")
    finally:
        running.run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
        cluster.kubectl("-n", NAMESPACE, "delete", "pod", scene.release.agents()["n3"]["metadata"]["name"])
    scene.release.wait_ready(90)
    return said


def _message(scene: Scene, node_name: str) -> str:
    return str(scene.cluster.find("nodeconfig", node_name).get("status", {}).get("message", ""))
