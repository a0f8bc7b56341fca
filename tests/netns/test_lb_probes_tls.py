"""Certificates of backends, verified: HTTPS and gRPC through TLS, against servers of other hands."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from sixgate.api.nodeconfig_lb import BalancerCheck
from sixgate.node.lb import probes
from tests.netns.sites import Authority, Site, made_by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME, OTHER = "shop.example", "www.example"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make("Test authority")


@contextlib.contextmanager
def https(files: tuple[Path, Path]) -> Iterator[Site]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    site = Site(context)
    try:
        yield site
    finally:
        site.close()


@contextlib.contextmanager
def grpcs(files: tuple[Path, Path]) -> Iterator[int]:
    """gRPC's own server, whose health service always serves; its port."""
    handler = grpc.unary_unary_rpc_method_handler(lambda *_: b"\x08\x01")
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
    )
    shown = grpc.ssl_server_credentials([(files[1].read_bytes(), files[0].read_bytes())])
    port = server.add_secure_port("[::1]:0", shown)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def serving(kind: str, files: tuple[Path, Path]) -> Iterator[int]:
    if kind == "GRPC":
        with grpcs(files) as port:
            yield port
    else:
        with https(files) as site:
            yield site.port


def ask(kind: str, port: int, tls: dict[str, Any] | None, **more: Any) -> str | None:
    document = {"type": kind, "port": port, "intervalMs": 60_000, "timeoutMs": 30_000, "tls": tls, **more}
    return asyncio.run(probes.ask(BalancerCheck.model_validate(document), "::1"))


KINDS = pytest.mark.parametrize("kind", ["HTTPS", "GRPC"])


@KINDS
@pytest.mark.parametrize("wanted", [NAME, "a.wild.example", ""], ids=["name", "wildcard", "address"])
def test_a_good_certificate(kind: str, wanted: str, tmp_path: Path, authority: Authority) -> None:
    files = made_by(authority, tmp_path, "x", names=(NAME, "*.wild.example", "::1"))
    with serving(kind, files) as port:
        assert ask(kind, port, {"caBundle": authority.pem, "serverName": wanted}) is None


@KINDS
def test_a_certificate_for_another_name(kind: str, tmp_path: Path, authority: Authority) -> None:
    files = made_by(authority, tmp_path, NAME, names=(OTHER, "192.0.2.99"))
    with serving(kind, files) as port:
        said = f"port {port} should show a certificate for {{}}, but the one it shows is for {OTHER}, 192.0.2.99"
        assert ask(kind, port, {"caBundle": authority.pem, "serverName": NAME}) == said.format(NAME)
        assert ask(kind, port, {"caBundle": authority.pem}) == said.format("::1")
        assert ask(kind, port, {"verify": False, "serverName": NAME}) is None


def test_many_names_and_none(tmp_path: Path, authority: Authority) -> None:
    with https(made_by(authority, tmp_path, NAME, names=tuple(f"n{n}.example" for n in range(9)))) as site:
        said = ask("HTTPS", site.port, {"caBundle": authority.pem, "serverName": NAME})
        assert said is not None
        assert said.endswith("n4.example and 4 more")
    with https(made_by(authority, tmp_path, NAME)) as site:
        said = ask("HTTPS", site.port, {"caBundle": authority.pem, "serverName": NAME})
        assert said is not None
        assert said.endswith("is for no name (subjectAltName)")


@KINDS
@pytest.mark.parametrize(("days", "said"), [((-9, -2), "expired at "), ((2, 9), "begins to be valid at ")])
def test_a_certificate_out_of_its_time(
    kind: str, days: tuple[int, int], said: str, tmp_path: Path, authority: Authority
) -> None:
    files = made_by(authority, tmp_path, NAME, names=(NAME,), since_days=days[0], days=days[1])
    with serving(kind, files) as port:
        found = ask(kind, port, {"caBundle": authority.pem, "serverName": NAME})
        assert found is not None
        begins = f"port {port} should show a certificate that is valid now, but the one it shows {said}"
        assert found.startswith(begins)
        assert found.endswith(" GMT")


@KINDS
def test_a_certificate_that_nobody_known_has_signed(kind: str, tmp_path: Path, authority: Authority) -> None:
    with serving(kind, made_by(None, tmp_path, NAME, names=(NAME,))) as port:
        said = f"port {port} should show a certificate that {{}} vouch for, but found: self-signed certificate"
        bundle = "authorities of spec.healthCheck.tls.caBundle"
        assert ask(kind, port, {"caBundle": authority.pem, "serverName": NAME}) == said.format(bundle)
        assert ask(kind, port, {"serverName": NAME}) == said.format("the node's own authorities")
        assert ask(kind, port, {"verify": False}) is None
        own = (tmp_path / "cert.pem").read_text()
        assert ask(kind, port, {"caBundle": own, "serverName": NAME}) is None, "it is named itself"


def test_authorities_in_a_file_are_read_anew(tmp_path: Path, authority: Authority) -> None:
    file = tmp_path / "authorities.pem"
    tls = {"caFile": str(file), "serverName": NAME}
    with https(made_by(authority, tmp_path, NAME, names=(NAME,))) as site:
        wants = f"{file} should have authorities (PEM), but it cannot be read"
        assert ask("HTTPS", site.port, tls) == f"{wants}: no such file or directory"
        file.write_text("no certificate")
        said = ask("HTTPS", site.port, tls)
        assert said is not None
        assert said.startswith(f"{wants} as such")
        file.unlink()
        file.write_text(Authority.make("Another").pem + "\n")
        said = ask("HTTPS", site.port, tls)
        assert said is not None
        assert f"that authorities of {file} vouch for" in said
        (tmp_path / "new").write_text(authority.pem)
        (tmp_path / "new").replace(file)
        assert ask("HTTPS", site.port, tls) is None


def test_the_name_goes_to_the_server(tmp_path: Path, authority: Authority) -> None:
    with https(made_by(authority, tmp_path, NAME, names=(NAME, OTHER))) as site:
        assert ask("HTTPS", site.port, {"caBundle": authority.pem, "serverName": OTHER}, host=NAME) is None
        assert ask("HTTPS", site.port, {"caBundle": authority.pem}, host=NAME) is None
        assert site.names == [OTHER, NAME]
        assert [host for _, host in site.heads] == [NAME, NAME]


@KINDS
def test_a_server_without_tls(kind: str) -> None:
    """What is asked does not speak TLS: the sentence does not speak of certificates."""
    handler = grpc.server(futures.ThreadPoolExecutor(1))
    port = handler.add_insecure_port("[::1]:0")
    handler.start()
    try:
        said = ask(kind, port, {})
        assert said is not None
        assert said.startswith(f"port {port}")
        assert "certificate" not in said
    finally:
        handler.stop(None).wait()
