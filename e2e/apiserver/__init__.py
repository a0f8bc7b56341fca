"""A real kube-apiserver with etcd on loopback, for tests and benchmarks."""

from e2e.apiserver.binaries import Binaries, locate
from e2e.apiserver.server import ApiServer, Kubeconfig

__all__ = ["ApiServer", "Binaries", "Kubeconfig", "locate"]
