"""A small signed zone, to see what is validated: names with AAAA, with A only, and with signatures that do not fit."""

from __future__ import annotations

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.node
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec

ZONE = """
$TTL 300
@ SOA ns root 1 3600 600 86400 300
@ NS ns
ns A 198.51.100.1
dual A 198.51.100.7
dual AAAA 2001:db8::7
v4only A 192.88.98.33
fakea A 192.88.98.34
fakenx A 192.88.98.35
"""
LIFETIME_S = 86400


class SignedZone:
    """Answers what is in the zone. Of `fakea` the A record is forged, of `fakenx` the proof that there is no AAAA."""

    def __init__(self, origin: str) -> None:
        self.origin = dns.name.from_text(origin)
        self.zone = dns.zone.from_text(ZONE, origin=self.origin, relativize=False)
        private = ec.generate_private_key(ec.SECP256R1())
        self.key = dns.dnssec.make_dnskey(private.public_key(), "ECDSAP256SHA256", flags=257)
        dns.dnssec.sign_zone(self.zone, keys=[(private, self.key)], lifetime=LIFETIME_S, add_dnskey=True)

    def anchor(self) -> str:
        return f"{self.origin} 300 IN DNSKEY {self.key.to_text()}\n"

    def answer(self, message: dns.message.Message) -> bool:
        """Fills in `message`; False where its question is about another zone."""
        question = message.question[0]
        if not question.name.is_subdomain(self.origin):
            return False
        node = self.zone.get_node(question.name)
        if node is None:
            message.set_rcode(dns.rcode.NXDOMAIN)
            self._add(message.authority, self.origin, "SOA")
            return True
        forged = question.name.labels[0].lower()
        if node.get_rdataset(1, question.rdtype) is not None:
            self._add(message.answer, question.name, dns.rdatatype.to_text(question.rdtype))
            if forged == b"fakea" and question.rdtype == dns.rdatatype.A:
                message.answer[0] = dns.rrset.from_text(question.name, 300, "IN", "A", "192.88.98.66")
            return True
        self._add(message.authority, self.origin, "SOA")
        if forged != b"fakenx" or question.rdtype != dns.rdatatype.AAAA:
            self._add(message.authority, question.name, "NSEC")
        return True

    def _add(self, section: list[dns.rrset.RRset], name: dns.name.Name, rtype: str) -> None:
        """The records and their signatures."""
        node = self.zone.get_node(name)
        assert node is not None
        kind = dns.rdatatype.from_text(rtype)
        for covered, rdtype in ((dns.rdatatype.NONE, kind), (kind, dns.rdatatype.RRSIG)):
            rdataset = node.get_rdataset(1, rdtype, covered)
            if rdataset is not None:
                rrset = dns.rrset.RRset(name, rdataset.rdclass, rdataset.rdtype, covered)
                rrset.update(rdataset)
                rrset.ttl = rdataset.ttl
                section.append(rrset)
