"""Named cases, one or more per clause of the RFCs, each a packet and what must become of it; `CASES` holds them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.rfc.cases import addresses, header46, header64, icmp_errors, icmp_tables, transport

if TYPE_CHECKING:
    from tests.rfc.cases.base import Case

CASES: tuple[Case, ...] = (
    *addresses.cases(),
    *header46.cases(),
    *header64.cases(),
    *icmp_tables.cases(),
    *icmp_errors.cases(),
    *transport.cases(),
)
