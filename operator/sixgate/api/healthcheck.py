"""LoadBalancer's health checks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sixgate.api.base import DomainName, Port, Rule, Spec, StrictBool, StrictInt


def _timeout_fits(check: Any) -> bool:
    return bool(check.timeout_milliseconds <= check.interval_milliseconds)


def _http_fields_fit(check: Any) -> bool:
    return check.type in {"HTTP", "HTTPS"} or (check.path is None and check.host is None)


class TlsCheckSpec(Spec):
    """TLS of a check: whose certificates are believed, for which name."""

    rules = (
        Rule(
            "!has(self.caBundle) || !has(self.caFile)",
            "at most one of caBundle and caFile may be given",
            lambda tls: tls.ca_bundle is None or tls.ca_file is None,
        ),
        Rule(
            "!has(self.verify) || self.verify || (!has(self.caBundle) && !has(self.caFile))",
            "caBundle and caFile have a meaning with verify: true only",
            lambda tls: tls.verify or (tls.ca_bundle is None and tls.ca_file is None),
        ),
    )

    verify: StrictBool = Field(
        default=True,
        description="True: the certificate must be valid now, for `serverName`, and signed by an authority of "
        "`caBundle` or `caFile`, or of the node's own store where neither is given. False: any certificate is good.",
    )
    ca_bundle: Annotated[str, Field(min_length=1, max_length=131072, pattern="-----BEGIN CERTIFICATE-----")] | None = (
        Field(default=None, description="Authorities that sign backends' certificates, PEM; public, no Secret.")
    )
    ca_file: Annotated[str, Field(min_length=2, max_length=1024, pattern=r"^/[!-~]*$")] | None = Field(
        default=None,
        description="A file with such PEM text where the agents of balancing nodes run; read anew when it changes.",
    )
    server_name: DomainName | None = Field(
        default=None,
        description="Name that is asked for (SNI) and that the certificate must have; left out, `host`, or else the "
        "backend's address.",
    )


class HealthCheckSpec(Spec):
    """How each balancing node finds out whether a backend works."""

    rules = (
        Rule(
            "(has(self.timeoutMilliseconds) ? self.timeoutMilliseconds : 1000) <= "
            "(has(self.intervalMilliseconds) ? self.intervalMilliseconds : 2000)",
            "timeoutMilliseconds must not be above intervalMilliseconds",
            _timeout_fits,
        ),
        Rule(
            "self.type in ['HTTP', 'HTTPS'] || (!has(self.path) && !has(self.host))",
            "path and host are for HTTP and HTTPS only",
            _http_fields_fit,
        ),
        Rule(
            "self.type == 'GRPC' || !has(self.grpcService)",
            "grpcService is for GRPC only",
            lambda check: check.type == "GRPC" or check.grpc_service is None,
        ),
        Rule(
            "self.type in ['HTTPS', 'GRPC'] || !has(self.tls)",
            "tls is for HTTPS and GRPC only",
            lambda check: check.type in {"HTTPS", "GRPC"} or check.tls is None,
        ),
    )

    type: Literal["TCP", "HTTP", "HTTPS", "GRPC"] = Field(description="What is asked of the backend.")
    port: Port | None = Field(default=None, description="Port that is asked; left out, the backend's own.")
    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/[!-~]*$")] | None = Field(
        default=None, description="Path of the HTTP request; left out, /."
    )
    host: DomainName | None = Field(default=None, description="Host of the HTTP request; left out, the address.")
    grpc_service: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_.]+$")] | None = Field(
        default=None, description="Service of the gRPC health protocol; left out, the whole server."
    )
    tls: TlsCheckSpec | None = Field(
        default=None,
        description="TLS of HTTPS and GRPC. Left out, GRPC is asked without TLS, and HTTPS believes any certificate, "
        "as probes of kubelets do; given, certificates are verified unless `verify: false` says otherwise.",
    )
    status_codes: tuple[Annotated[StrictInt, Field(ge=100, le=599)], ...] = Field(
        default=(200,),
        min_length=1,
        max_length=32,
        description="HTTP status codes that mean healthy.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    interval_milliseconds: Annotated[StrictInt, Field(ge=100, le=600000)] = Field(
        default=2000, description="Time between two checks of a backend, milliseconds."
    )
    timeout_milliseconds: Annotated[StrictInt, Field(ge=50, le=600000)] = Field(
        default=1000, description="Time that a backend has to answer, milliseconds."
    )
    jitter_percent: Annotated[StrictInt, Field(ge=0, le=100)] = Field(
        default=10, description="How far a check may be moved from its time, so that nodes do not ask together."
    )
    rise: Annotated[StrictInt, Field(ge=1, le=100)] = Field(
        default=2, description="Good checks in a row after which a backend is used again."
    )
    fall: Annotated[StrictInt, Field(ge=1, le=100)] = Field(
        default=3, description="Bad checks in a row after which a backend gets no new flows."
    )
    when_all_fail: Literal["Open", "Closed"] = Field(
        default="Open", description="With no healthy backend: use all of them, or refuse new flows."
    )
