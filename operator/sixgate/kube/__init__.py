"""The Kubernetes API as the operator and the agent use it: requests of raw JSON, one list-and-watch loop."""

from sixgate.kube.client import ApiError, KubeClient
from sixgate.kube.reflector import Backoff, Change, Listed, Reflector

__all__ = ["ApiError", "Backoff", "Change", "KubeClient", "Listed", "Reflector"]
