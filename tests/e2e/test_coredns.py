"""Both ways to join the resolver with a cluster's CoreDNS, with a real CoreDNS and a real API server behind it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import dns.exception
import pytest

from e2e.apiserver.binaries import coredns
from e2e.apiserver.cluster import Cluster
from e2e.apiserver.proxy import Pipe
from e2e.apiserver.resolver_pod import POD_PORT, ResolverPod
from e2e.lab.netns import call_in_netns
from sixgate.render.dns64 import forward_to
from tests.e2e.conftest import StartOperator
from tests.e2e.test_dns64 import UPSTREAM, UPSTREAM_PORT, dns64, files, make_service, name

__all__ = ["name"]  # a fixture

KUBERNETES = "kubernetes.default.svc.cluster.local"
KUBERNETES_IP = "10.96.0.1"
V4ONLY, SYNTHESISED = "v4only.example", ["2001:db8:64::cb00:7114"]
# What kubeadm installs.
USUAL = """\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
"""


def _listener() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


class CoreDns:
    """A pod's namespace in which CoreDNS sees the cluster through a socket to its API server."""

    def __init__(self, pod: ResolverPod, cluster: Cluster, pipe: Pipe) -> None:
        self.pod = pod
        self._kubeconfig = pod.directory / "kubeconfig"
        admin = cluster.server.admin()
        self._kubeconfig.write_text(admin.path.read_text().replace(admin.server, pipe.url))

    def start(self, corefile: str) -> None:
        """Runs `corefile`, to which only the credentials are added that a pod would have, and waits for an answer."""
        here, count = re.subn(r"(?m)^(\s*kubernetes [^{]*\{)$", rf"\1\n kubeconfig {self._kubeconfig}", corefile)
        assert count == 1
        path = self.pod.directory / "Corefile"
        path.write_text(here)
        self.pod.spawn("coredns", str(coredns()), "-conf", str(path))
        self.pod.wait("CoreDNS", lambda: self.ask(KUBERNETES, "A") == [KUBERNETES_IP])

    def ask(self, name: str, rtype: str) -> list[str]:
        try:
            return self.pod.ask(name, rtype, "127.0.0.1", timeout_s=15)
        except (OSError, dns.exception.DNSException):
            return []


@pytest.fixture
def core(cluster: Cluster) -> Iterator[CoreDns]:
    with ResolverPod((f"{UPSTREAM}/32",)) as pod:
        listener = call_in_netns(pod.name, _listener)
        with Pipe(cluster.server.port, listener) as pipe:
            pod.upstream(UPSTREAM, UPSTREAM_PORT, v4only__example="203.0.113.20")
            yield CoreDns(pod, cluster, pipe)


@pytest.mark.parametrize("how", ["the snippet", "the command"])
def test_the_resolver_behind_coredns(
    cluster: Cluster, operator: StartOperator, core: CoreDns, name: str, how: str
) -> None:
    cluster.node("n1", {"gateway": "yes"})
    address = make_service(cluster, name)
    cluster.apply(dns64(name))
    operator()
    key = f"{name}.Corefile"
    cluster.wait("the address of the Service in the snippet", lambda: address in files(cluster).get(key, ""))
    core.pod.run("ip", "route", "add", "10.96.0.0/16", "dev", "lo", "src", "127.0.0.1")
    core.pod.cluster_ip(address)
    core.pod.mount(files(cluster))
    core.pod.resolver(name)
    core.pod.wait("the resolver", lambda: core.pod.ready() == "ok")
    core.start(files(cluster)[key] if how == "the snippet" else forward_to(USUAL, (address,)))
    core.pod.wait("a name of the internet", lambda: core.ask(V4ONLY, "AAAA") == SYNTHESISED)
    assert core.ask(V4ONLY, "A") == ["203.0.113.20"]
    assert core.ask(KUBERNETES, "AAAA") == []
    assert core.ask("ipv4only.arpa", "AAAA") == ["2001:db8:64::c000:aa", "2001:db8:64::c000:ab"]


def test_the_resolver_in_front_of_coredns(cluster: Cluster, operator: StartOperator, core: CoreDns, name: str) -> None:
    cluster.node("n1", {"gateway": "yes"})
    cluster.apply(dns64(name, upstreams=[{"address": "127.0.0.1", "port": 53}]))
    operator()
    cluster.wait("its files", lambda: f"{name}.unbound.conf" in files(cluster))
    core.start(forward_to(USUAL, (f"{UPSTREAM}:{UPSTREAM_PORT}",)))
    core.pod.mount(files(cluster))
    core.pod.resolver(name)
    core.pod.wait("the resolver", lambda: core.pod.ready() == "ok")

    def asked(question: str, rtype: str) -> list[str]:
        return core.pod.ask(question, rtype, "::1", POD_PORT)

    assert asked(KUBERNETES, "A") == [KUBERNETES_IP]
    assert asked(KUBERNETES, "AAAA") == []
    assert asked(V4ONLY, "AAAA") == SYNTHESISED
    assert core.ask(V4ONLY, "AAAA") == []
