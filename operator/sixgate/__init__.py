"""sixgate: the gateway for IPv6-first Kubernetes."""

__version__ = "0.1.0"
