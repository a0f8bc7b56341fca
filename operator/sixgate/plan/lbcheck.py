"""Health checks of a LoadBalancer: from what was declared to what a node does."""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import TYPE_CHECKING

from sixgate.errors import Problem
from sixgate.plan.lbplan import CheckPlan, PortPlan, TlsPlan

if TYPE_CHECKING:
    from sixgate.api.healthcheck import HealthCheckSpec, TlsCheckSpec
    from sixgate.api.loadbalancer import LoadBalancer

CHECK_PORT = "CheckPortMissing"
CA_BUNDLE = "CaBundleInvalid"


def check_plan(item: LoadBalancer, ports: tuple[PortPlan, ...], problems: list[Problem]) -> CheckPlan | None:
    """How backends of `item` are checked; None where they are not, or cannot be, which `problems` gets to know."""
    check = item.spec.health_check
    if check is None:
        return None
    port = check.port or next((port.target for port in ports if port.protocol == "TCP"), None)
    if port is None:
        text = f"{item.ref} has health checks without a port, and no TCP port of its own that could be asked"
        problems.append(Problem(item.ref, CHECK_PORT, f"{text}; nothing is checked", "spec.healthCheck.port"))
        return None
    wrong = _wrong_bundle(check.tls.ca_bundle) if check.tls is not None and check.tls.ca_bundle else ""
    if wrong:
        text = f"{item.ref} should have certificates of authorities (PEM) in spec.healthCheck.tls.caBundle, but {wrong}"
        problems.append(Problem(item.ref, CA_BUNDLE, f"{text}; nothing is checked", "spec.healthCheck.tls.caBundle"))
        return None
    return CheckPlan(
        type=check.type,
        port=port,
        path=check.path or "/",
        host=check.host or "",
        grpc_service=check.grpc_service or "",
        tls=_tls(check, check.tls),
        status_codes=tuple(sorted(check.status_codes)),
        interval_ms=check.interval_milliseconds,
        timeout_ms=check.timeout_milliseconds,
        jitter_percent=check.jitter_percent,
        rise=check.rise,
        fall=check.fall,
        when_all_fail=check.when_all_fail,
    )


def _tls(check: HealthCheckSpec, tls: TlsCheckSpec | None) -> TlsPlan | None:
    if tls is None:
        return None
    name = tls.server_name or check.host or ""
    return TlsPlan(tls.verify, tls.ca_bundle or "", tls.ca_file or "", name.rstrip("."))


@lru_cache(maxsize=256)
def _wrong_bundle(text: str) -> str:
    """What is wrong with a bundle, empty where it can be read."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        said = (error.reason or "").lower().replace("_", " ") if isinstance(error, ssl.SSLError) else str(error)
        return f"they cannot be read ({said})"
    return ""
