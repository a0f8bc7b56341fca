"""`kubectl sixgate trace`: why would this packet go there, node by node?"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sixgate.cli import common
from sixgate.cli.cluster.commands import ContextOption, KubeconfigOption, NamespaceOption
from sixgate.cli.cluster.walk import Addresses, Packet, walk
from sixgate.cli.trace import FromOption, LengthOption, OutputOption, ProtoOption, ToOption
from sixgate.errors import SixgateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sixgate.cli.cluster.walk import Document

AGENTS = {"labelSelector": "app.kubernetes.io/name=sixgate,app.kubernetes.io/component=agent"}
EXEC_S = 30


def trace(  # noqa: PLR0917 - options, which are given by name
    source: FromOption,
    target: ToOption,
    proto: ProtoOption = "tcp",
    node: Annotated[str, typer.Option("--node", help="Node that it comes to first; by default the sender's own.")] = "",
    device: Annotated[str, typer.Option("--device", help="Device that it arrives at on the first node.")] = "",
    length: LengthOption = 0,
    output: OutputOption = "text",
    namespace: NamespaceOption = "sixgate-system",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
) -> None:
    """Tell what the nodes would do with a packet, from the first one to where it leaves the cluster, arrives or is
    dropped.

    Each node on the way is asked by `kubectl exec` into its agent, which needs the right to create pods/exec there.
    Nothing is sent and nothing is counted. Ends with 1 where the packet is dropped.
    """
    import asyncio  # noqa: PLC0415

    from sixgate.node.packets import parse_end  # noqa: PLC0415

    sender = parse_end(source)
    addresses, agents = asyncio.run(_places(kubeconfig, context, namespace))
    first = node or addresses.node_of(str(sender.address))
    if not first:
        raise SixgateError(f"{sender.address} should be of a node or a pod of the cluster, and is of none; say --node.")

    def ask(name: str, words: Sequence[str]) -> Document:
        if name not in agents:
            raise SixgateError(f"{name} should have an agent in namespace {namespace}; there is none that runs.")
        return _exec(kubeconfig, context, namespace, agents[name], words)

    rest = ("--length", str(length)) if length else ()
    way = walk(ask, first, Packet(source, target, proto, device, rest), addresses)
    if output == "text":
        typer.echo("\n".join(way.sentences()))
    else:
        common.document(way.document(), output)
    common.end(common.FAILED if way.dropped else common.OK)


async def _places(kubeconfig: Path | None, context: str, namespace: str) -> tuple[Addresses, dict[str, str]]:
    """Where each address is, and the agent's pod of each node."""
    import asyncio  # noqa: PLC0415

    from sixgate.cli.cluster.fetch import connect, items  # noqa: PLC0415

    async with await connect(kubeconfig, context) as client:
        nodes, pods, agents = await asyncio.gather(
            items(client, "/api/v1/nodes"),
            items(client, "/api/v1/pods"),
            items(client, f"/api/v1/namespaces/{namespace}/pods", AGENTS),
        )
    running = [pod for pod in pods if _phase(pod) == "Running" and not pod["spec"].get("hostNetwork")]
    return (
        Addresses(
            {
                entry["address"]: raw["metadata"]["name"]
                for raw in nodes
                for entry in raw["status"].get("addresses", ())
                if entry["type"] in {"InternalIP", "ExternalIP"}
            },
            {entry["ip"]: pod["spec"]["nodeName"] for pod in running for entry in pod["status"].get("podIPs", ())},
        ),
        {pod["spec"]["nodeName"]: pod["metadata"]["name"] for pod in agents if _phase(pod) == "Running"},
    )


def _phase(pod: dict[str, Any]) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def _exec(kubeconfig: Path | None, context: str, namespace: str, pod: str, words: Sequence[str]) -> Document:
    """By kubectl, which knows every way to log in that the plugin's user has."""
    options = [*(["--kubeconfig", str(kubeconfig)] if kubeconfig else []), *(["--context", context] if context else [])]
    command = ["kubectl", *options, "--namespace", namespace, "exec", pod, "--container", "agent", "--"]
    try:
        ended = subprocess.run(
            [*command, "sixgate", "trace", *words, "-o", "json"],
            capture_output=True,
            text=True,
            timeout=EXEC_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise SixgateError("kubectl should be in PATH to ask the nodes' agents, and is not.") from error
    except subprocess.TimeoutExpired as error:
        raise SixgateError(f"The agent {pod} should answer in {EXEC_S} s, and has not.") from error
    try:
        found: Document = json.loads(ended.stdout)
    except ValueError as error:
        said = ended.stderr.strip() or ended.stdout.strip() or f"exit code {ended.returncode}"
        raise SixgateError(f"The agent {pod} should answer with a trace; it says: {said}") from error
    return found
