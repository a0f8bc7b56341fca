"""Health probes against servers of other hands: Python's TLS and HTTP, gRPC's own, and servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from sixgate.api.nodeconfig_lb import BalancerCheck
from sixgate.node.lb import probes
from tests.netns.sites import Site, made_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENT = {"intervalMs": 60_000, "timeoutMs": 30_000}
HASTY = {"intervalMs": 1_000, "timeoutMs": 300}


def ask(kind: str, port: int, address: str = "::1", **more: Any) -> str | None:
    check = BalancerCheck.model_validate({"type": kind, "port": port, **PATIENT, **more})
    return asyncio.run(probes.ask(check, address))


# TLS and HTTP


@contextlib.contextmanager
def https(directory: Path, days: int = 10, **settings: Any) -> Iterator[Site]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*made_by(None, directory, "somebody.else", names=("192.0.2.99",), days=days))
    for name, value in settings.items():
        setattr(context, name, value)
    site = Site(context)
    try:
        yield site
    finally:
        site.close()


@pytest.mark.parametrize("days", [10, -10], ids=["in-date", "out-of-date"])
def test_https_asks_by_name_and_believes_any_certificate(tmp_path: Path, days: int) -> None:
    """A backend is known by its address; the name chooses a site of the server, in TLS and in HTTP."""
    with https(tmp_path, days) as site:
        assert ask("HTTPS", site.port, host="shop.example", path="/health?full") is None
        assert ask("HTTPS", site.port) is None
        assert site.names == ["shop.example", None]
        assert site.heads == [("/health?full", "shop.example"), ("/", "[::1]")]
        assert ask("HTTPS", site.port, path="/quiet", statusCodes=(204,)) is None
        assert ask("HTTPS", site.port, path="/quiet") == "/quiet gave status 204, expected 200"


def test_https_of_an_old_server(tmp_path: Path) -> None:
    with https(tmp_path, maximum_version=ssl.TLSVersion.TLSv1_2) as site:
        assert ask("HTTPS", site.port) is None


def test_https_that_wants_a_certificate_of_the_client(tmp_path: Path) -> None:
    with https(tmp_path, verify_mode=ssl.CERT_REQUIRED) as site:
        said = ask("HTTPS", site.port)
        assert said is not None
        assert said.startswith(f"port {site.port}")


# gRPC


@contextlib.contextmanager
def health_service(
    check: Callable[[bytes, grpc.ServicerContext], bytes], service: str = "grpc.health.v1.Health"
) -> Iterator[int]:
    """gRPC's own server with one method, which gets and gives messages as bytes; its port."""
    handler = grpc.unary_unary_rpc_method_handler(check)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Check": handler}),))
    port = server.add_insecure_port("[::1]:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def test_grpc_is_asked_for_the_service_by_name() -> None:
    states = {b"": b"\x08\x01", b"\x0a\x04shop": b"\x08\x01", b"\x0a\x03old": b"\x08\x02", b"\x0a\x03new": b""}
    asked = []

    def check(request: bytes, context: grpc.ServicerContext) -> bytes:
        asked.append(request)
        if request not in states:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return states[request]

    with health_service(check) as port:
        assert ask("GRPC", port) is None
        assert ask("GRPC", port, grpcService="shop") is None
        assert ask("GRPC", port, grpcService="old") == "old is NOT_SERVING, expected SERVING"
        assert ask("GRPC", port, grpcService="new") == "new is UNKNOWN, expected SERVING"
        long = "s" * 200
        assert ask("GRPC", port, grpcService=long) == f"the health service answered for {long} with gRPC status 5"
    assert asked == [*states, b"\x0a\xc8\x01" + long.encode()]


def test_grpc_without_a_health_service() -> None:
    with health_service(lambda *_: b"\x08\x01", "shop.Shop") as port:
        assert ask("GRPC", port) == "the health service answered for the server with gRPC status 12"


def test_grpc_that_never_answers() -> None:
    told = threading.Event()

    def check(*_: Any) -> bytes:
        told.wait(30)
        return b"\x08\x01"

    with health_service(check) as port:
        assert ask("GRPC", port, **HASTY) == f"port {port} did not answer within 300 ms"
        told.set()


# Servers that misbehave, asked in every way


@contextlib.contextmanager
def server(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accepts at ::1 and does `handle` with each connection; its port."""
    listener = socket.create_server(("::1", 0), family=socket.AF_INET6)

    def serve() -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            with stream, contextlib.suppress(OSError):
                handle(stream)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


GARBAGE = {
    "text": b"SSH-2.0-OpenSSH_9.2\r\n" * 4,
    "zeros": bytes(4096),
    "every-byte": bytes(range(256)) * 16,
    "tls-alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "huge-frame": b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(4096),
    "a-ping-that-is-short": b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\x00\x00\x01\x06\x00\x00\x00\x00\x00\x00",
}


@pytest.mark.parametrize("kind", ["HTTP", "HTTPS", "GRPC"])
@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_a_bad_answer(kind: str, said: bytes) -> None:
    def handle(stream: socket.socket) -> None:
        stream.sendall(said)
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(65536):
            pass

    with server(handle) as port:
        found = ask(kind, port)
        assert found is not None
        assert f"port {port}" in found


@pytest.mark.parametrize("kind", ["HTTP", "HTTPS", "GRPC"])
def test_a_server_that_accepts_and_says_nothing(kind: str) -> None:
    def handle(stream: socket.socket) -> None:
        while stream.recv(65536):
            pass

    with server(handle) as port:
        assert ask(kind, port, **HASTY) == f"port {port} did not answer within 300 ms"
        assert ask("TCP", port) is None, "it listens"


@pytest.mark.parametrize("kind", ["HTTP", "HTTPS", "GRPC"])
def test_a_server_that_never_ends(kind: str) -> None:
    """Bytes keep coming, and none of them is an answer."""

    def handle(stream: socket.socket) -> None:
        while True:
            stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    with server(handle) as port:
        assert ask(kind, port, **HASTY) is not None


@pytest.mark.parametrize("kind", ["HTTP", "HTTPS", "GRPC"])
def test_a_server_that_hangs_up(kind: str) -> None:
    with server(lambda _: None) as port:
        found = ask(kind, port)
        assert found is not None
        assert f"port {port}" in found
