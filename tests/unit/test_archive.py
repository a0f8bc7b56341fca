"""Archives for bug reports: no credentials, bounds, and nothing half-written."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from sixgate.cli import archive
from sixgate.cli.archive import STRUCK, Archive, redact, redact_value
from sixgate.cli.cluster.sysdump import cleaned
from sixgate.errors import SixgateError

JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"GET /api with {JWT}", JWT),
        ("Authorization: Bearer abcdefgh12345678", "abcdefgh12345678"),
        ('{"token": "s3cr3t-value"}', "s3cr3t-value"),
        ("password=hunter2hunter2 user=me", "hunter2hunter2"),
        ("--proxy http://me:geheim@proxy:3128", "geheim"),
        ("kubeadm join --token abcdef.0123456789abcdef", "abcdef.0123456789abcdef"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nAAAA\n-----END RSA PRIVATE KEY-----\nrest", "MIIE"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEcut off", "MIIEcut"),
        ("client-key-data: LS0tLS1CRUdJTiBSU0E=", "LS0tLS1CRUdJTiBSU0E"),
    ],
)
def test_a_credential_is_struck_out(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in redact(text)
    assert STRUCK in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "udp [2001:db8:64::cb00:7114]:53 → 192.0.2.1:53",
        '{"automountServiceAccountToken": false, "tokens_ns": 15}',
        "/var/run/secrets/kubernetes.io/serviceaccount/token",
        '"mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"',
        '"appliedRevision": "7853cde7b015c9f7caaef2cb1dcf906b"',
    ],
)
def test_what_is_none_stays(text: str) -> None:
    assert redact(text) == text


def read(path: Path) -> dict[str, str]:
    with tarfile.open(path) as found:
        members = [(member.name, found.extractfile(member)) for member in found]
        return {name: file.read().decode() for name, file in members if file is not None}


def test_what_is_too_long_is_cut_at_the_end_that_matters_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRY_BYTES", 10)
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 100)
    with Archive(tmp_path / "a.tar.gz", "a") as made:
        made.text("config", "0123456789abcdef")
        made.text("log", "0123456789abcdef", end=True)
        made.text("more", "x" * 30)
    files = read(tmp_path / "a.tar.gz")
    assert files["a/config"].startswith("0123456789\n[6 characters")
    assert files["a/log"].endswith("\n6789abcdef")
    assert "a/more" not in files
    assert files["a/errors.txt"].startswith("more: the archive would be larger")


def test_nothing_is_left_of_an_archive_that_failed(tmp_path: Path) -> None:
    def broken() -> None:
        with Archive(tmp_path / "a.tar.gz", "a") as made:
            made.text("one", "1")
            raise SixgateError("The node has gone.")

    with pytest.raises(SixgateError):
        broken()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SixgateError, match="should be written to"):
        Archive(tmp_path / "missing" / "a.tar.gz", "a").__enter__()


def test_an_archive_is_its_owners_alone(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.tar.gz", "a") as made:
        made.json("one.json", {"a": 1})
    assert (tmp_path / "a.tar.gz").stat().st_mode & 0o777 == 0o600


def test_objects_are_kept_without_what_clients_noted_and_without_environments() -> None:
    pod = {
        "metadata": {
            "name": "p",
            "managedFields": [{}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "yes"},
        },
        "spec": {"containers": [{"name": "c", "env": [{"name": "DSN", "value": "x"}, {"name": "N", "valueFrom": {}}]}]},
    }
    found = cleaned(pod)
    assert found["metadata"] == {"name": "p", "annotations": {"mine": "yes"}}
    assert found["spec"]["containers"][0]["env"] == [{"name": "DSN", "value": STRUCK}, {"name": "N", "valueFrom": {}}]


def test_a_document_stays_one() -> None:
    body = {
        "log": 'password="a b\nc" and more',
        "token": "abcdefgh",
        "secretName": "",
        "list": [{"apiKey": "k" * 9}, 7],
    }
    found = redact_value(body)
    assert found == {
        "log": 'password="[redacted]" and more',
        "token": STRUCK,
        "secretName": "",
        "list": [{"apiKey": STRUCK}, 7],
    }
