"""Every requirement on stateless translation, and which tests show it: the rows of docs/compliance.md.

`id` is what cases carry as their clause. A row without cases names test functions in `tests`; a row out of scope
says why.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Requirement:
    id: str
    level: str
    text: str
    tests: tuple[str, ...] = ()  # parts of test ids, where no case has the clause
    out_of_scope: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    rows: tuple[Requirement, ...]


R = Requirement
SECTIONS: tuple[Section, ...] = (
    Section(
        "Addresses",
        (
            R(
                "6052-2.2-LEN",
                "MUST",
                "Prefix lengths 32, 40, 48, 56, 64 and 96 are taken, others refused",
                ("test_only_the_six_lengths",),
            ),
            R(
                "6052-2.2-U",
                "MUST",
                "Bits 64 to 71 are 0 in every address made; a prefix that sets them is refused",
                ("test_a_prefix_with_a_u_octet",),
            ),
            R(
                "6052-2.4-VEC",
                "MUST",
                "The address vectors of RFC 6052 2.4, as source and destination, both directions",
            ),
            R("6052-2.2-SUFFIX", "SHOULD", "Non-zero suffix bits of an IPv6 address are ignored"),
            R("6052-3.1-WKP", "MUST NOT", "Non-global IPv4 addresses under 64:ff9b::/96 are not translated"),
            R("8215-LOCAL", "rule", "Prefixes inside 64:ff9b:1::/48 are taken and not subject to RFC 6052 3.1"),
            R("6146-3.5-DST", "MUST", "Only destinations of the prefix, the ranges and the mappings are touched"),
            R("7915-6-EAM", "SHOULD", "Explicit mappings (RFC 7757): unequal suffixes, longest match, hairpinning"),
            R(
                "6146-3.5-PREF-SRC",
                "MUST",
                "A source inside the prefix is dropped",
                out_of_scope="Of the stateful translator. Without state it is IPv4-translatable (RFC 6052 1.3).",
            ),
            R(
                "7225/8781/7050",
                "-",
                "The prefix can be learnt by hosts",
                out_of_scope="DNS64 and router advertisements are not the translator's.",
            ),
        ),
    ),
    Section(
        "IPv4 to IPv6 headers",
        (
            R("7915-4.1-TC", "MUST, SHOULD", "TOS is copied to traffic class; an option sets 0"),
            R("7915-4.1-FLOW", "MUST", "Flow label 0"),
            R("7915-4.1-LEN", "MUST", "Payload length without IPv4 header and options"),
            R(
                "7915-4.1-HL",
                "MUST",
                "Hop limit is TTL less one; TTL 1 is answered with 11/0 from the gateway's own address",
            ),
            R("7915-4.1-DF0-NOFH", "MUST NOT", "No Fragment Header for a packet that fits (RFC 8021)"),
            R(
                "7915-4.1-LOWMTU",
                "SHOULD",
                "Without DF, fragments of at most the lowest IPv6 MTU, which is configurable",
            ),
            R("7915-4.1-DF1-BIG", "MUST", "With DF, 3/4 with the MTU of the IPv6 next hop less 20"),
            R("7915-4.1-FRAG", "MUST", "A fragment becomes a fragment with the same offset, M flag and identification"),
            R("7915-4.1-OPT", "MUST", "Options are ignored"),
            R("7915-4.1-SRR", "MUST, SHOULD", "An unexpired source route is dropped and answered with 3/5"),
            R("7915-4.1-SRC", "SHOULD", "Illegal sources are dropped silently, but translated in ICMP errors"),
            R("7915-4.1-PROTO", "MUST", "Every transport protocol is forwarded, both directions"),
        ),
    ),
    Section(
        "IPv6 to IPv4 headers",
        (
            R("7915-5.1-TOS", "MUST, SHOULD", "Traffic class is copied to TOS; an option sets a value"),
            R("7915-5.1-DF", "MUST", "DF is 0 up to 1260 bytes and in fragments, 1 above"),
            R(
                "7915-5.1-ID",
                "MUST",
                "Packets without DF have an identification from a generator",
                ("test_identifications_differ",),
            ),
            R("7915-5.1-TTL", "MUST", "TTL is hop limit less one; hop limit 1 is answered with 3/0"),
            R("7915-5.1-EXT", "MUST", "Hop-by-hop, destination options and finished routing headers are skipped"),
            R(
                "7915-5.1-RH",
                "MUST NOT, SHOULD",
                "Segments left: dropped and answered with 4/0, pointer to Segments Left",
            ),
            R("7915-5.1.1-FRAG", "MUST", "A fragment becomes a fragment with the low 16 bits of the identification"),
            R(
                "7915-5.1.1-EXTFRAG",
                "SHOULD",
                "An extension header behind the Fragment Header is dropped, answered with 1/1",
            ),
            R(
                "7915-5.1.1-SMALL",
                "MUST",
                "A packet of at most 1280 bytes is fragmented in IPv4 where the link is narrower",
            ),
            R("7915-5.1-SRC", "SHOULD", "Illegal sources are dropped silently"),
            R(
                "7915-1.4-PTB",
                "MUST",
                "Too big for the IPv4 next hop: 2/0 with its MTU plus 20, at least 1280; fragments too",
            ),
        ),
    ),
    Section(
        "ICMP",
        (
            R("7915-4.2-TAB", "MUST", "Every type and code of ICMPv4, those to be dropped included"),
            R("7915-5.2-TAB", "MUST", "Every type and code of ICMPv6, those to be dropped included"),
            R("7915-PTR", "MUST", "Parameter problem pointers of figures 3 and 6; unlisted ones dropped"),
            R("7915-4.2-CODE", "MUST", "The code of time exceeded is unchanged"),
            R(
                "7915-4.3-INNER",
                "MUST",
                "The packet in error is translated like any other, but for TTL, however it is cut",
            ),
            R("7915-4.3-NEST", "MUST", "An ICMP error inside an ICMP error is dropped"),
            R("7915-ICMP-CSUM", "MUST", "The ICMPv6 pseudo-header enters and leaves the checksum"),
            R("7915-4.2-MTU46", "MUST", "3/4: max(1280, min(m + 20, MTU6, MTU4 + 20))"),
            R(
                "7915-5.2-MTU64",
                "MUST",
                "2/0: min(m - 20, MTU4, MTU6 - 20), 8 less where the packet in error has a Fragment Header",
            ),
            R("7915-4.2-PLAT", "MUST", "3/4 with MTU 0: the largest plateau of RFC 1191 below the packet's length"),
            R("7915-4884", "MUST", "RFC 4884: length attribute in the other unit, extension kept"),
            R("ICMP-SIZE", "RFC 4443, 1812", "ICMPv6 errors end at 1280 bytes, ICMPv4 errors at 576"),
            R(
                "6791-SRC",
                "SHOULD",
                "An ICMPv6 error of a router without IPv4 address gets one of a pool or the gateway's own",
                note="The extension of RFC 5837 that would name the router is not added.",
            ),
            R(
                "5508-3-CSUM",
                "SHOULD",
                "An ICMP error with a wrong checksum, or a wrong embedded header checksum, is dropped",
            ),
            R(
                "7915-4.4/5.4",
                "SHOULD",
                "Discarded packets are answered with 3/13, 1/1 or 1/5; no error about an error; can be silenced",
            ),
            R(
                "1812-LIMIT",
                "SHOULD",
                "Errors of our own are limited for each source",
                ("test_own_errors_are_limited", "test_rate_0_sends_none"),
            ),
            R(
                "5508-6/4787-12",
                "MUST NOT",
                "An ICMP error never refreshes or ends a session",
                out_of_scope="There are no sessions in stateless translation.",
            ),
        ),
    ),
    Section(
        "Transport",
        (
            R("7915-4.5-CSUM", "MUST", "TCP and UDP checksums are updated; a UDP sum of 0 is sent as 0xffff"),
            R(
                "7915-4.5-ZERO",
                "SHOULD",
                "IPv4 UDP without checksum is dropped, or gets one, as configured",
                note="The event is a line in the log of the agent, with addresses and ports, and a counter.",
            ),
            R("7915-4.5-ZEROFRAG", "SHOULD", "A first fragment without UDP checksum is dropped"),
            R("7915-5-CSUMFAIL", "evaluate", "A wrong checksum stays wrong"),
            R("7915-1.2-FRAGICMP", "will not", "Fragmented ICMP is not translated"),
            R("MSS", "-", "Optional: the MSS of SYNs is lowered to what both networks carry"),
            R(
                "6146-3.4-ZERO",
                "MUST",
                "Stateful: fragments are reassembled for a missing checksum",
                out_of_scope="A rule of the stateful translator: below.",
            ),
            R(
                "6146-3.4-OTHER",
                "SHOULD",
                "Stateful: unknown protocols are dropped",
                out_of_scope="A rule of the stateful translator; the stateless one forwards them.",
            ),
        ),
    ),
    Section(
        "All of it, at random",
        (
            R(
                "MODEL",
                "-",
                "Random packets: the gateway and an independent model of the RFCs agree byte for byte",
                ("test_gateway_agrees_with_the_model",),
            ),
            R(
                "ORACLE",
                "-",
                "Bent packets: nothing leaves with a wrong checksum or length, the kernel warns of nothing",
                ("test_nothing_leaves_damaged",),
            ),
        ),
    ),
)
