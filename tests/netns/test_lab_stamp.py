"""The stamped packets tell lost, duplicated, reordered, untranslated and damaged ones apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.lab import stamp, topology
from e2e.lab.run import LabRun

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS = (topology.CLIENT6, topology.SERVER4)
COUNT = 2000


@pytest.fixture(scope="module")
def path() -> Iterator[tuple[LabRun, str]]:
    """A lab with plain IPv6 from client6 to server4, and the server's IPv6 address."""
    with LabRun() as lab:
        topology.build(lab, HOSTS)
        address = topology.add_plain_ipv6(lab, topology.SERVER4)
        lab.run("client6", ["ping", "-c1", "-W5", address])
        yield lab, address


def observe(path: tuple[LabRun, str], *, expect: int, sends: tuple[int, ...], family: int = 6) -> stamp.Tally:
    """The tally of a receiver that expects `expect` packets while bursts of `sends` packets pass, paced."""
    lab, address = path
    with stamp.Receiver(lab, "server4", family, expect, idle_ms=300) as receiver:
        for count in sends:
            stamp.send(lab, "client6", topology.CLIENT6.address, address, count=count, rate=20000)
        return receiver.result()


def test_every_packet_is_counted_once(path: tuple[LabRun, str]) -> None:
    tally = observe(path, expect=COUNT, sends=(COUNT,))
    assert tally == stamp.Tally(COUNT, 0, 0, 0, 0, 0, 0)


def test_what_does_not_come_is_lost(path: tuple[LabRun, str]) -> None:
    tally = observe(path, expect=COUNT, sends=(COUNT - 7,))
    assert (tally.received, tally.lost) == (COUNT - 7, 7)


def test_what_comes_twice_is_duplicated_and_out_of_order(path: tuple[LabRun, str]) -> None:
    tally = observe(path, expect=COUNT, sends=(10, COUNT))
    assert (tally.lost, tally.duplicated, tally.reordered) == (0, 10, 10)


def test_the_other_family_is_untranslated(path: tuple[LabRun, str]) -> None:
    tally = observe(path, expect=COUNT, sends=(COUNT,), family=4)
    assert (tally.received, tally.untranslated, tally.lost) == (0, COUNT, COUNT)
