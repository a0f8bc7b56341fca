"""Models of every kind: the only place where a field is described."""

from sixgate.api.base import API_VERSION, GROUP, VERSION, LabelSelector, UserObject
from sixgate.api.bigtcppolicy import BIGTCPPolicy
from sixgate.api.egressgateway import EgressGateway
from sixgate.api.loadbalancer import LoadBalancer
from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.api.nodeconfig import NodeConfig, NodeConfigSpec, NodeConfigStatus
from sixgate.api.parse import KINDS, parse_object, ref_of

__all__ = [
    "API_VERSION",
    "GROUP",
    "KINDS",
    "VERSION",
    "BIGTCPPolicy",
    "EgressGateway",
    "LabelSelector",
    "LoadBalancer",
    "NAT46Gateway",
    "NodeConfig",
    "NodeConfigSpec",
    "NodeConfigStatus",
    "UserObject",
    "parse_object",
    "ref_of",
]
