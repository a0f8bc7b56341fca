"""Port blocks that clients were given beyond their own, as lines of a log (RFC 7422). Pure.

A client's own block can be computed from its address, so nothing has to be kept of it; only the others are logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sixgate.errors import BpfError
from sixgate.node.bpf.codec import decode
from sixgate.node.bpf.layouts import SG_ST_BLOCK_EVENT

if TYPE_CHECKING:
    from collections.abc import Callable

_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP"}


@dataclass(frozen=True, slots=True)
class BlockEvent:
    """`first` to `last` of `address` belong to `client` from now on, or, where `given` is False, no more."""

    gateway: str
    client: str
    address: str
    first: int
    last: int
    protocol: str
    given: bool

    def __str__(self) -> str:
        what = "given to" if self.given else "given back by"
        return (
            f"Port block of {self.gateway} {what} {self.client}: {self.protocol} ports {self.first} to {self.last} of "
            f"{self.address}."
        )

    def fields(self) -> dict[str, str | int]:
        return {
            "gateway": self.gateway,
            "client": self.client,
            "address": self.address,
            "first": self.first,
            "last": self.last,
            "protocol": self.protocol,
            "given": self.given,
        }


def read_block(record: bytes, object_name: Callable[[int], str]) -> BlockEvent:
    """One struct sg_st_block_event. BpfError where it has another size than this version's."""
    if len(record) != SG_ST_BLOCK_EVENT.size:
        raise BpfError(
            f"The data plane tells of a port block in {len(record)} bytes, where this version reads "
            f"{SG_ST_BLOCK_EVENT.size}."
        )
    values = decode(SG_ST_BLOCK_EVENT, record)
    assert isinstance(values, dict)  # of a Record
    number = {name: value for name, value in values.items() if isinstance(value, int)}
    return BlockEvent(
        gateway=object_name(number["obj"]),
        client=str(values["client"]),
        address=str(values["out"]),
        first=number["first"],
        last=number["last"],
        protocol=_PROTOCOLS.get(number["proto"], f"protocol {number['proto']}"),
        given=bool(number["given"]),
    )
