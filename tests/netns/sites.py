"""Certificates, and a server that shows them: what health checks through TLS are tried with."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Authority:
    """One that signs certificates."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, name: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(_signed(key, name, None, (), -1, 10, is_authority=True), key)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


def made_by(
    authority: Authority | None,
    directory: Path,
    name: str,
    *,
    names: tuple[str, ...] = (),
    since_days: int = -100,
    days: int = 10,
) -> tuple[Path, Path]:
    """Paths of a certificate, valid from and until so many days from now, and its key; self-signed without an
    authority. `names` are what it is for: names or addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = _signed(key, name, authority, names, since_days, days, is_authority=False)
    paths = directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    clear = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, clear)
    paths[1].write_bytes(pem)
    return paths


def _signed(  # noqa: PLR0917 - what a certificate says
    key: ec.EllipticCurvePrivateKey,
    name: str,
    authority: Authority | None,
    names: tuple[str, ...],
    since_days: int,
    days: int,
    *,
    is_authority: bool,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=since_days))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
    if is_authority:
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(list(map(_general, names))), critical=False)
    return made.sign(authority.key if authority else key, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A probe that hangs up is no news."""


class Site:
    """An HTTPS server at ::1 that says what it was asked."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.names: list[str | None] = []
        self.heads: list[tuple[str, str]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.heads.append((self.path, self.headers["Host"]))
                self.send_response(204 if self.path == "/quiet" else 200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        def named(_: ssl.SSLObject | ssl.SSLSocket, name: str | None, __: ssl.SSLContext) -> None:
            self.names.append(name)

        context.sni_callback = named  # type: ignore[assignment]
        self.server = Server6(("::1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
