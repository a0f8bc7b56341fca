"""The chart's values: one model from which values.yaml, its schema and the README's table are written (gen_chart.py).

Names are those that users of Cilium and MetalLB know. Every key is documented and typed; an unknown key is refused.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Values(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=None)


class Image(Values):
    repository: str = Field(
        default="sixgate.io/sixgate", min_length=1, description="Image of operator, agent and jobs."
    )
    tag: str = Field(default="", description="Tag; empty for the chart's appVersion.")
    digest: str = Field(
        default="", pattern="^(sha256:[0-9a-f]{64})?$", description="Digest, which counts before the tag."
    )
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When it is pulled."
    )


class Crds(Values):
    install: bool = Field(default=True, description="Install and upgrade the CRDs with the chart.")
    keep: bool = Field(default=True, description="Keep them, and with them every object, at uninstall.")


class BigTcp(Values):
    maxSize: int = Field(
        default=196608, ge=65536, le=524280, description="Largest super-packet of a family that is enabled, bytes."
    )
    nodeSelector: dict[str, Any] = Field(
        default={"matchLabels": {"kubernetes.io/os": "linux"}},
        description="Nodes of the default policy, as in BIGTCPPolicy.",
    )
    devices: dict[str, Any] = Field(default={}, description="Devices of the default policy, as in BIGTCPPolicy.")
    forwarding: Literal["Auto", "Redirect", "Kernel"] = Field(
        default="Auto", description="How nodes pass larger packets on, as in BIGTCPPolicy."
    )
    pods: Literal["Off", "HostSide", "Live"] = Field(
        default="HostSide",
        description="What the default policy does to pods. Any policy with Live needs agent.enterPodNamespaces.",
    )


class Nat46Gateway(Values):
    enabled: bool = Field(default=False, description="Make a NAT46Gateway with the chart.")
    name: str = Field(default="default", min_length=1, description="Its name.")
    spec: dict[str, Any] = Field(default={}, description="Its spec, as in docs/reference/nat46gateway.md.")


class Dns64(Values):
    enabled: bool = Field(default=False, description="Run resolvers in the cluster for gateways with spec.dns64.")
    gateways: list[str] = Field(default=["default"], description="Names of these NAT46Gateways.")
    replicas: int = Field(default=2, ge=1, description="Resolvers of each.")


class Budget(Values):
    enabled: bool = Field(default=True, description="Keep one operator while nodes are drained; needs two replicas.")


class Operator(Values):
    replicas: int = Field(
        default=2, ge=1, le=5, description="Replicas; one leads, the others take over within seconds."
    )
    writeRate: int = Field(default=200, ge=1, description="Writes per second to the API server, in the long run.")
    healthPort: int = Field(default=8081, ge=1024, le=65535, description="Port of /healthz and /readyz.")
    resources: dict[str, Any] = Field(
        default={"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}, description="Resources."
    )
    priorityClassName: str = Field(default="system-cluster-critical", description="Priority class.")
    nodeSelector: dict[str, str] = Field(default={"kubernetes.io/os": "linux"}, description="Nodes it may run on.")
    tolerations: list[dict[str, Any]] = Field(default=[], description="Taints it tolerates.")
    affinity: dict[str, Any] = Field(
        default={}, description="Affinity; left out, replicas rather run on different nodes."
    )
    podAnnotations: dict[str, str] = Field(default={}, description="Annotations of its pods.")
    podLabels: dict[str, str] = Field(default={}, description="Labels of its pods.")
    extraArgs: list[str] = Field(default=[], description="Further arguments of `sixgate operator`.")
    podDisruptionBudget: Budget = Field(default=Budget(), description="Disruption budget.")


class Agent(Values):
    healthPort: int = Field(
        default=9964, ge=1024, le=65535, description="Port of /healthz and /readyz on the node's loopback."
    )
    maxUnavailable: int | str = Field(
        default=1, description="Nodes whose agent is replaced at a time; packets do not notice."
    )
    resources: dict[str, Any] = Field(
        default={"requests": {"cpu": "50m", "memory": "96Mi"}},
        description="Resources. No limit of memory: the kernel counts the maps of the data plane as the agent's.",
    )
    priorityClassName: str = Field(default="system-node-critical", description="Priority class.")
    nodeSelector: dict[str, str] = Field(default={"kubernetes.io/os": "linux"}, description="Nodes it runs on.")
    tolerations: list[dict[str, Any]] = Field(default=[{"operator": "Exists"}], description="Taints it tolerates: all.")
    podAnnotations: dict[str, str] = Field(default={}, description="Annotations of its pods.")
    podLabels: dict[str, str] = Field(default={}, description="Labels of its pods.")
    extraArgs: list[str] = Field(default=[], description="Further arguments of `sixgate agent`.")
    enterPodNamespaces: bool = Field(
        default=False,
        description="Add CAP_SYS_ADMIN, for policies with pods: Live, which change the pods' ends of their devices.",
    )
    announce: bool = Field(
        default=False,
        description="Add CAP_NET_RAW, for objects whose addresses the node announces (gratuitous ARP, ND).",
    )
    stateDir: str = Field(
        default="/var/lib/sixgate", pattern="^/.+", description="Directory on the node that outlives the pod."
    )


class ServiceMonitor(Values):
    enabled: bool = Field(default=False, description="Make ServiceMonitor and PodMonitor of the Prometheus operator.")
    interval: str = Field(default="30s", pattern="^[0-9]+(ms|s|m)$", description="How often metrics are asked for.")
    labels: dict[str, str] = Field(default={}, description="Labels by which a Prometheus finds them.")


class Rules(Values):
    enabled: bool = Field(default=False, description="Make a PrometheusRule with the alerts of files/alerts.yaml.")
    labels: dict[str, str] = Field(default={}, description="Labels by which a Prometheus finds it.")


class Dashboards(Values):
    enabled: bool = Field(default=False, description="Make a ConfigMap with the dashboards of files/dashboards.")
    labels: dict[str, str] = Field(
        default={"grafana_dashboard": "1"}, description="Labels by which the sidecar of Grafana finds it."
    )


class Prometheus(Values):
    enabled: bool = Field(default=True, description="Serve /metrics on operator and agents.")
    operatorPort: int = Field(default=9966, ge=1024, le=65535, description="Port of the operator's metrics.")
    agentPort: int = Field(
        default=9965, ge=1024, le=65535, description="Port of the agents' metrics, on the node's addresses."
    )
    serviceMonitor: ServiceMonitor = Field(default=ServiceMonitor(), description="For the Prometheus operator.")
    rules: Rules = Field(default=Rules(), description="Alerts, for the Prometheus operator.")
    dashboards: Dashboards = Field(default=Dashboards(), description="Dashboards, for Grafana.")


class Uninstall(Values):
    keepDataPlane: bool = Field(
        default=False,
        description="At uninstall, leave programs, maps, addresses and routes on the nodes, and traffic flowing.",
    )
    timeoutSeconds: int = Field(default=120, ge=10, description="How long the job before an uninstall may take.")


class Test(Values):
    targets: list[str] = Field(
        default=[], description="HOST:PORT that `helm test` must reach over TCP, besides what it finds itself."
    )


class ChartValues(Values):
    """Keys in the order of values.yaml."""

    image: Image = Field(default=Image(), description="The image.")
    imagePullSecrets: list[dict[str, str]] = Field(default=[], description="Secrets for a private registry.")
    enableIPv6BIGTCP: bool = Field(
        default=False, description="BIG TCP for IPv6 on all nodes, by a BIGTCPPolicy of the chart."
    )
    enableIPv4BIGTCP: bool = Field(
        default=False, description="BIG TCP for IPv4 on all nodes, by a BIGTCPPolicy of the chart."
    )
    bigTCP: BigTcp = Field(default=BigTcp(), description="What that policy says.")
    nat46Gateway: Nat46Gateway = Field(default=Nat46Gateway(), description="A gateway that comes with the chart.")
    dns64: Dns64 = Field(default=Dns64(), description="DNS64 in the cluster.")
    operator: Operator = Field(default=Operator(), description="The operator.")
    agent: Agent = Field(default=Agent(), description="The agent on every node.")
    crds: Crds = Field(default=Crds(), description="Custom resource definitions.")
    prometheus: Prometheus = Field(default=Prometheus(), description="Metrics.")
    uninstall: Uninstall = Field(default=Uninstall(), description="What `helm uninstall` does to the nodes.")
    test: Test = Field(default=Test(), description="What `helm test` does.")
    commonLabels: dict[str, str] = Field(default={}, description="Labels of everything that the chart makes.")
    logLevel: Literal["info", "debug"] = Field(default="info", description="How much operator and agents log.")
    global_: dict[str, Any] = Field(default={}, alias="global", description="Values of a parent chart; not used.")
