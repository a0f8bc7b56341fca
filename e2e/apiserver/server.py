"""Starts and stops one etcd and one kube-apiserver: own directory, own ports on 127.0.0.1, own certificates, RBAC on.

    with ApiServer.start() as server:
        server.kubectl("get", "namespaces")
        kubeconfig = server.service_account("sixgate-system", "sixgate-operator")

Only the two processes that were started here are ever ended, and they end with the process that started them. A `Place`
puts them into a network namespace and makes them the control plane of nodes (e2e/cluster).
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from e2e.apiserver.binaries import Binaries, locate
from e2e.apiserver.pki import Pki
from e2e.lab.netns import call_in_netns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of 127.0.0.1 that nobody has, each another one. The kernel gives away none of these by itself (below
    ip_local_port_range): a server that is killed finds its port free when it is started again."""
    found: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(range(20000, 30000), 1000):
            probe = held.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return tuple(found)
    raise RuntimeError("A thousand ports between 20000 and 30000 should not all be taken, and they are.")


def _die_with_parent() -> None:
    """Runs in the child: a test runner that is killed must not leave an etcd behind."""
    os.setsid()
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """Credentials of one user of one server, also written as a kubeconfig file."""

    path: Path
    server: str
    ca: Path
    token: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs: `netns` is a name under /run/netns, empty for this process's own; `address` is what clients
    connect to, `flags` are the API server's for that place, `environment` is added to the processes'."""

    netns: str = ""
    address: str = "127.0.0.1"
    alternative_names: str = "IP:127.0.0.1,IP:10.96.0.1,DNS:localhost"
    flags: tuple[str, ...] = (
        "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--service-cluster-ip-range=10.96.0.0/16",
        "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none",
    )  # fmt: skip
    environment: tuple[tuple[str, str], ...] = ()
    ports: tuple[int, int, int] | None = None  # of API server, etcd and etcd's peers; None for free ones

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` there."""
        return ["nsenter", f"--net=/run/netns/{self.netns}", "--", *argv] if self.netns else list(argv)


LOOPBACK = Place()


class _Connection(http.client.HTTPSConnection):
    """Its socket is made inside a network namespace and stays there."""

    def __init__(self, netns: str, host: str, port: int, context: ssl.SSLContext, timeout: float | None) -> None:
        super().__init__(host, port, context=context, timeout=timeout)
        self._netns = netns
        self._tls = context

    def connect(self) -> None:
        if not self._netns:
            super().connect()
            return
        plain = call_in_netns(self._netns, lambda: socket.create_connection((self.host, self.port), self.timeout))
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


@dataclass(slots=True)
class ApiServer:
    binaries: Binaries
    directory: Path
    pki: Pki
    port: int
    etcd_port: int
    peer_port: int
    place: Place = LOOPBACK
    extra: tuple[str, ...] = ()
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    connections: threading.local = field(default_factory=threading.local)

    @classmethod
    def start(
        cls,
        *,
        binaries: Binaries | None = None,
        extra: Sequence[str] = (),
        place: Place = LOOPBACK,
        directory: Path | None = None,
    ) -> ApiServer:
        """A server that answers /readyz; raises RuntimeError with the end of its log where it does not."""
        programs = binaries or locate()
        directory = directory or Path(tempfile.mkdtemp(prefix="sixgate-apiserver-"))
        pki = Pki.make(directory / "pki", place.alternative_names)
        ports = place.ports or free_ports(3)
        server = cls(programs, directory, pki, ports[0], ports[1], ports[2], place, tuple(extra))
        server.pki.issue("admin", "/O=system:masters/CN=admin")
        try:
            server.start_etcd()
            server.start_apiserver()
        except BaseException:
            server.stop()
            raise
        return server

    def __enter__(self) -> ApiServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        host = f"[{self.place.address}]" if ":" in self.place.address else self.place.address
        return f"https://{host}:{self.port}"

    def start_etcd(self) -> None:
        peer = f"http://127.0.0.1:{self.peer_port}"
        client = f"http://127.0.0.1:{self.etcd_port}"
        self._spawn("etcd", [str(self.binaries.etcd), "--data-dir", str(self.directory / "etcd"), "--unsafe-no-fsync",
                    "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
                    "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
                    "--quota-backend-bytes", str(4 << 30)])  # fmt: skip

    def start_apiserver(self) -> None:
        """Start it, or start it again after `kill_apiserver`, on the same port with the same data."""
        self.spawn_apiserver()
        self.wait_ready()

    def spawn_apiserver(self) -> None:
        """The same without waiting. It ends with the thread that calls this: call it from the main thread."""
        crt, key = self.pki.pair("apiserver")
        self._spawn("kube-apiserver", [
            str(self.binaries.kube_apiserver), "--etcd-servers", f"http://127.0.0.1:{self.etcd_port}",
            "--secure-port", str(self.port),
            "--tls-cert-file", str(crt), "--tls-private-key-file", str(key), "--client-ca-file", str(self.pki.ca),
            "--service-account-key-file", str(self.pki.sa_key),
            "--service-account-signing-key-file", str(self.pki.sa_key),
            "--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
            "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
            *self.place.flags, *self.extra])  # fmt: skip

    def wait_ready(self, timeout_s: float = 180.0) -> None:
        """Until /readyz answers 200; RuntimeError with the end of the log where it does not."""
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            process = self.processes["kube-apiserver"]
            if process.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "kube-apiserver.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"kube-apiserver must become ready in {timeout_s:.0f} s, and it did not:\n{log}")
            time.sleep(0.05)

    def kill_apiserver(self) -> None:
        """kill -9, as a crash would; etcd and its data stay."""
        self._end("kube-apiserver")

    def stop(self) -> None:
        for name in [n for n in self.processes if n not in {"kube-apiserver", "etcd"}]:
            self._end(name)
        for name in ("kube-apiserver", "etcd"):  # the API server first: it waits long for an etcd that is gone
            self._end(name)
        shutil.rmtree(self.directory, ignore_errors=True)

    def ready(self) -> bool:
        """Whether /readyz answers 200."""
        try:
            return self.request("GET", "/readyz", raw=True)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def request(self, method: str, path: str, body: Any = None, *, raw: bool = False, user: Kubeconfig | None = None,
                content_type: str = "application/json") -> tuple[int, Any]:  # fmt: skip
        """One request as admin, or as `user`: (status, parsed JSON or text)."""
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        if user is not None and user.token:
            headers["Authorization"] = f"Bearer {user.token}"
        data = None if body is None else json.dumps(body)
        connection = self._connection(as_admin="Authorization" not in headers)
        try:
            try:
                connection.request(method, path, data, headers)
                response = connection.getresponse()
            except (http.client.HTTPException, ConnectionError, ssl.SSLError):
                connection.close()  # kept alive across a restart of the server; a new one is opened by request()
                connection.request(method, path, data, headers)
                response = connection.getresponse()
            answer = response.read()
        except BaseException:
            connection.close()
            raise
        return response.status, answer.decode() if raw else json.loads(answer)

    @contextmanager
    def watch(self, path: str) -> Iterator[Iterator[Any]]:
        """Events of one collection as admin, what there is first. Ends when the `with` block does.

        From resourceVersion 0: without one, the server waits for its cache to have caught up with etcd, which an etcd
        before 3.4.25 does not tell it.
        """
        context = ssl.create_default_context(cafile=str(self.pki.ca))
        context.load_cert_chain(*(str(p) for p in self.pki.pair("admin")))
        connection = _Connection(self.place.netns, self.place.address, self.port, context, None)
        connection.request("GET", path + "?watch=true&resourceVersion=0", headers={"Accept": "application/json"})
        response = connection.getresponse()
        raw = connection.sock
        try:
            yield (json.loads(line) for line in iter(response.readline, b""))
        finally:
            with suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)  # wakes a reader in another thread
            connection.close()

    def _connection(self, *, as_admin: bool) -> http.client.HTTPSConnection:
        """A kept connection per thread: opening one costs more than most requests."""
        kept: dict[bool, http.client.HTTPSConnection] = self.connections.__dict__.setdefault("kept", {})
        if as_admin not in kept:
            context = ssl.create_default_context(cafile=str(self.pki.ca))
            if as_admin:
                context.load_cert_chain(*(str(p) for p in self.pki.pair("admin")))
            kept[as_admin] = _Connection(self.place.netns, self.place.address, self.port, context, 30)
        return kept[as_admin]

    def admin(self) -> Kubeconfig:
        crt, key = self.pki.pair("admin")
        user = {"client-certificate": str(crt), "client-key": str(key)}
        return self._write("admin", Kubeconfig(self.directory / "admin.kubeconfig", self.url, self.pki.ca), user)

    def user(self, name: str, subject: str, extension: str = "extendedKeyUsage=clientAuth") -> Kubeconfig:
        """A user with a certificate of its own: `/O=system:nodes/CN=system:node:n1`."""
        crt, key = self.pki.issue(name, subject, extension)
        path = self.directory / f"{name}.kubeconfig"
        credentials = {"client-certificate": str(crt), "client-key": str(key)}
        return self._write(name, Kubeconfig(path, self.url, self.pki.ca), credentials)

    def service_account(self, namespace: str, name: str, *, bound: dict[str, str] | None = None,
                        label: str = "", server: str = "") -> Kubeconfig:  # fmt: skip
        """A kubeconfig with a token of TokenRequest; `bound` is a boundObjectRef, `server` a proxy to go through."""
        spec: dict[str, Any] = {"audiences": [], "expirationSeconds": 7200}
        if bound:
            spec["boundObjectRef"] = bound
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        status, answer = self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", body)
        if status != 201:
            raise RuntimeError(f"A token of {namespace}/{name} must be issued, and the server said {status}: {answer}")
        token: str = answer["status"]["token"]
        path = self.directory / f"{name}{label}.kubeconfig"
        return self._write(name, Kubeconfig(path, server or self.url, self.pki.ca, token), {"token": token})

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """kubectl as admin."""
        command = self.place.command([str(self.binaries.kubectl), *args])
        done = subprocess.run(command, input=stdin, env=self.environment(), capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(args)} must succeed, and it said: {done.stderr.strip()}")
        return done

    def environment(self) -> dict[str, str]:
        """What kubectl and helm need to work as admin."""
        path = self.directory / "admin.kubeconfig"
        if not path.exists():
            self.admin()
        return {
            **os.environ, "KUBECONFIG": str(path), "HOME": str(self.directory), **dict(self.place.environment)
        }  # fmt: skip

    def _write(self, user: str, config: Kubeconfig, credentials: dict[str, str]) -> Kubeconfig:
        cluster = {"server": config.server, "certificate-authority": str(config.ca)}
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "e2e",
            "clusters": [{"name": "e2e", "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user}}],
        }  # fmt: skip
        config.path.write_text(yaml.safe_dump(document))
        config.path.chmod(0o600)
        return config

    def run_beside(self, name: str, command: Sequence[str]) -> None:
        """Starts another program of the control plane; it ends with the server."""
        self._spawn(name, list(command))

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.place.command(command),
                env={**os.environ, **dict(self.place.environment)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it only calls setsid and prctl
            )

    def _end(self, name: str) -> None:
        process = self.processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()
