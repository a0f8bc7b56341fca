"""Certificates of one test API server, made by openssl in its own directory."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def _openssl(*args: str) -> None:
    done = subprocess.run(["openssl", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {args[0]} must succeed, and it said: {done.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class Pki:
    """A CA, the server's certificate, and the key that signs service account tokens."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def sa_key(self) -> Path:
        return self.directory / "sa.key"

    def pair(self, name: str) -> tuple[Path, Path]:
        """Certificate and key called `name`."""
        return self.directory / f"{name}.crt", self.directory / f"{name}.key"

    @classmethod
    def make(cls, directory: Path, names: str = "IP:127.0.0.1,IP:10.96.0.1,DNS:localhost") -> Pki:
        """`names` are the server's, as openssl's subjectAltName takes them."""
        directory.mkdir(mode=0o700, parents=True)
        pki = cls(directory)
        crt, key = pki.pair("ca")
        pki._key(key)
        _openssl("req", "-x509", "-new", "-key", str(key), "-subj", "/CN=sixgate-e2e-ca", "-days", "30",
                 "-out", str(crt), "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
        pki._key(pki.sa_key)
        pki.issue("apiserver", "/CN=kube-apiserver", f"subjectAltName={names}")
        return pki

    def issue(self, name: str, subject: str, extension: str = "extendedKeyUsage=clientAuth") -> tuple[Path, Path]:
        """A certificate signed by the CA; returns (certificate, key)."""
        crt, key = self.pair(name)
        csr, ext = crt.with_suffix(".csr"), crt.with_suffix(".ext")
        self._key(key)
        ext.write_text(extension + "\n")
        ca_crt, ca_key = self.pair("ca")
        _openssl("req", "-new", "-key", str(key), "-subj", subject, "-out", str(csr))
        _openssl("x509", "-req", "-in", str(csr), "-CA", str(ca_crt), "-CAkey", str(ca_key), "-CAcreateserial",
                 "-days", "30", "-extfile", str(ext), "-out", str(crt))  # fmt: skip
        return crt, key

    def _key(self, path: Path) -> None:
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(path))
