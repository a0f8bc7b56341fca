"""`sixgate sysdump` of a gateway that runs: what a bug report needs is in it, and no token."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

from tests.netns.standalone import Gateway, ready

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"


def test_one_file_with_everything_but_secrets(gateway: Gateway, tmp_path: Path) -> None:
    gateway.write()
    gateway.start()
    gateway.wait(ready)
    (gateway.state / "noted.json").write_text(json.dumps({"token": TOKEN, "log": f"GET / with {TOKEN}"}))
    (gateway.state / "kubeconfig").write_text(TOKEN)
    target = tmp_path / "report.tar.gz"
    done = gateway.call(*gateway.words("sysdump", "-o", str(target)))
    assert done.returncode == 0, done.stderr
    assert "bytes of this node" in done.stdout
    with tarfile.open(target) as found:
        assert all(member.name.startswith("report/") and member.mode == 0o600 for member in found)
        members = [(member.name.removeprefix("report/"), found.extractfile(member)) for member in found]
        files = {name: file.read().decode() for name, file in members if file is not None}
    assert json.loads(files["status.json"])["objects"][0]["owner"] == "NAT46Gateway/lab"
    assert json.loads(files["state/applied.json"])["formatVersion"] == 1
    assert json.loads(files["about.json"])["uname"]
    assert "sixgate_packets_total{" in files["metrics.txt"]
    assert "maps/sg_metrics" in files["bpf/pins.txt"]
    assert "e0" in files["net/links.txt"]
    assert "2001:db8::1/64" in files["net/addresses.txt"]
    assert files["state/noted.json"].count("[redacted]") == 2
    assert not any(TOKEN in text for text in files.values())
    assert "state/kubeconfig" not in files


def test_where_it_cannot_be_written(gateway: Gateway, tmp_path: Path) -> None:
    done = gateway.call(*gateway.words("sysdump", "-o", str(tmp_path / "missing" / "report.tar.gz")))
    assert done.returncode == 1
    assert "The archive should be written to" in done.stderr
    assert "Traceback" not in done.stderr
