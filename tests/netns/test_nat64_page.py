"""docs/nat64-stateful.md as a newcomer takes it: its object, a connection, and its commands, as they stand."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import pytest
import yaml

from e2e.lab.natlab import CLIENT6, GATEWAY, SERVER4
from tests.docs.blocks import ROOT
from tests.netns.nat import PORT, Stage, staged

PAGE = (ROOT / "docs" / "nat64-stateful.md").read_text()
OBJECT = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0])
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^    (sixgate .*)$", PAGE, re.M)]
CLIENT, PUBLIC = "2001:db8:1::10", "9.9.9.9"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """The lab with a client of the page's network, and a server with an address of the public internet."""
    with staged(OBJECT, more=("--label", "sixgate.io/nat64=true")) as made:
        lab = made.lab
        lab.ip(CLIENT6.role, f"addr add {CLIENT}/128 dev {lab.device('up')} nodad")
        lab.ip(GATEWAY, f"route add {CLIENT}/128 via {CLIENT6.ip} dev {lab.device(CLIENT6.role)}")
        lab.ip(SERVER4.role, f"addr add {PUBLIC}/32 dev {lab.device('up')}")
        lab.ip(GATEWAY, f"route add {PUBLIC}/32 via {SERVER4.ip} dev {lab.device(SERVER4.role)}")
        yield made
        made.close_sockets()


def ran(stage: Stage, *words: str) -> str:
    """What the page's command that begins so says."""
    (command,) = [each for each in COMMANDS if tuple(each[: len(words)]) == words]
    return stage.sixgate.command(command).stdout


def test_the_page_from_top_to_bottom(stage: Stage) -> None:
    listener = stage.tcp(SERVER4, PORT, PUBLIC)
    listener.listen(64)
    made = [stage.tcp(CLIENT6, 0, CLIENT) for _ in range(20)]
    for client in made:
        client.connect((f"64:ff9b::{PUBLIC}", PORT))
    listed = ran(stage, "nat", "list", "--client")
    assert listed.count(CLIENT) == 20, listed
    assert f"{PUBLIC}:{PORT}" in listed
    assert CLIENT in ran(stage, "nat", "list", "--by")
    (row,) = json.loads(ran(stage, "nat", "stats"))["objects"]
    assert (row["object"], row["use"]["sessions"]) == ("internet", 20)
    ran(stage, "nat", "flush")


def test_a_private_address_is_refused_under_the_well_known_prefix(stage: Stage) -> None:
    """As the page says (RFC 6052 3.1)."""
    done = stage.lab.run(CLIENT6.role, ["ping", "-n", "-c1", "-W10", f"64:ff9b::{SERVER4.ip}"], check=False)
    assert "prohibited" in done.stdout, done.stdout
