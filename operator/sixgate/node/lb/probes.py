"""One question to one backend: TCP, HTTP(S) or gRPC health. None is good; a sentence says what is wrong.

HTTP needs the status line and nothing more. gRPC needs HTTP/2, whose framing and header compression are h2's: the one
library for it that does no I/O of its own. Certificates are verified where the object declares `tls`: without it a
backend is known by its address, as probes of kubelets do it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from typing import TYPE_CHECKING

from sixgate.node.lb import tls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from h2.connection import H2Connection

    from sixgate.api.nodeconfig_lb import BalancerCheck

MAX_HEAD_BYTES = 16384
SERVING = 1
_METHOD = "/grpc.health.v1.Health/Check"
_STATUS_NAMES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


async def ask(check: BalancerCheck, address: str) -> str | None:
    """What is wrong with the backend at `address`, None where it is fit. Never raises for what a backend does."""
    kinds: dict[str, Callable[[BalancerCheck, str], Awaitable[str | None]]] = {
        "TCP": _tcp,
        "HTTP": _http,
        "HTTPS": _http,
        "GRPC": _grpc,
    }
    try:
        async with asyncio.timeout(check.timeout_ms / 1000):
            return await kinds[check.type](check, address)
    except TimeoutError:
        return f"port {check.port} did not answer within {check.timeout_ms} ms"
    except ssl.SSLCertVerificationError as error:
        try:
            async with asyncio.timeout(check.timeout_ms / 1000):
                return await tls.complaint(check, address, error)
        except (TimeoutError, tls.AuthoritiesError):
            return f"port {check.port} shows a certificate that is not believed: {error.verify_message}"
    except tls.AuthoritiesError as error:
        return str(error)
    except OSError as error:
        if isinstance(error, ssl.SSLError):  # its errno is no number of the system's
            return f"port {check.port} refused TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
        return f"port {check.port}: {os.strerror(error.errno).lower() if error.errno else str(error)}"
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        return f"port {check.port} gave an answer that is not {check.type}"


async def _tcp(check: BalancerCheck, address: str) -> str | None:
    _, writer = await asyncio.open_connection(address, check.port)
    await _drop(writer)
    return None


async def _http(check: BalancerCheck, address: str) -> str | None:
    host = check.host or (f"[{address}]" if ":" in address else address)
    if check.type == "HTTPS":
        reader, writer = await tls.connect(check, address, MAX_HEAD_BYTES)
    else:
        reader, writer = await asyncio.open_connection(address, check.port, limit=MAX_HEAD_BYTES)
    try:
        head = f"GET {check.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sixgate\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        status = 100
        while status < 200:  # informational answers come before the one that counts
            line = (await reader.readuntil(b"\n")).decode("latin-1")
            version, number, *_ = (*line.split(None, 2), "")
            if not version.startswith("HTTP/1.") or not number.isdigit():
                return f"port {check.port} gave an answer that is not HTTP"
            status = int(number)
            while status < 200 and (await reader.readuntil(b"\n")).strip():
                pass
    finally:
        await _drop(writer)
    if status in check.status_codes:
        return None
    return f"{check.path} gave status {status}, expected {' or '.join(map(str, check.status_codes))}"


async def _grpc(check: BalancerCheck, address: str) -> str | None:
    from h2.errors import ErrorCodes  # noqa: PLC0415 - only who uses it pays for it
    from h2.exceptions import ProtocolError  # noqa: PLC0415

    if check.tls is not None:
        reader, writer = await tls.connect(check, address, MAX_HEAD_BYTES, "h2")
    else:
        reader, writer = await asyncio.open_connection(address, check.port)
    try:
        connection = _begin(check, address, writer)
        received = b""
        status: str | None = None
        while True:
            data = await reader.read(65536)
            if not data:
                return f"port {check.port} closed the connection before it answered"
            try:
                events = connection.receive_data(data)
            except ProtocolError:
                return f"port {check.port} gave an answer that is not gRPC"
            for event in events:
                name = type(event).__name__
                if name == "DataReceived":
                    received += event.data  # type: ignore[attr-defined]
                elif name in {"ResponseReceived", "TrailersReceived"}:
                    status = _header(event.headers, b"grpc-status") or status  # type: ignore[attr-defined]
                elif name == "StreamReset":
                    return f"the health service ended the call with {ErrorCodes(event.error_code).name}"  # type: ignore[attr-defined]
                elif name == "StreamEnded":
                    return _verdict(check, received, status)
            writer.write(connection.data_to_send())
    finally:
        await _drop(writer)


def _begin(check: BalancerCheck, address: str, writer: asyncio.StreamWriter) -> H2Connection:
    """Sends grpc.health.v1.HealthCheckRequest: field 1 is the service's name."""
    from h2.config import H2Configuration  # noqa: PLC0415
    from h2.connection import H2Connection  # noqa: PLC0415

    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    host = tls.name_of(check, address) if check.tls is not None else address
    authority = f"[{host}]:{check.port}" if ":" in host else f"{host}:{check.port}"
    connection.send_headers(
        1,
        [
            (":method", "POST"),
            (":scheme", "https" if check.tls is not None else "http"),
            (":path", _METHOD),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "sixgate"),
        ],
    )
    service = check.grpc_service.encode()
    message = b"\x0a" + _varint(len(service)) + service if service else b""
    connection.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    writer.write(connection.data_to_send())
    return connection


def _verdict(check: BalancerCheck, received: bytes, status: str | None) -> str | None:
    """HealthCheckResponse: field 1 is the status, which is left out where it is 0."""
    name = check.grpc_service or "the server"
    if status not in {None, "0"}:
        return f"the health service answered for {name} with gRPC status {status}"
    message = received[5 : 5 + int.from_bytes(received[1:5], "big")]
    found = message[1] if len(message) >= 2 and message[0] == 0x08 else 0
    return None if received and found == SERVING else f"{name} is {_STATUS_NAMES.get(found, found)}, expected SERVING"


def _varint(number: int) -> bytes:
    made = b""
    while number > 0x7F:
        made += bytes(((number & 0x7F) | 0x80,))
        number >>= 7
    return made + bytes((number,))


def _header(headers: list[tuple[bytes | str, bytes | str]], wanted: bytes) -> str | None:
    for name, value in headers:
        if (name.encode() if isinstance(name, str) else name) == wanted:
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


async def _drop(writer: asyncio.StreamWriter) -> None:
    """Ends a connection at once: thousands of checks must not leave thousands of sockets behind."""
    transport = writer.transport
    transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
