"""Every requirement on stateful NAT64 and on services, and which tests show it: rows of docs/compliance.md.

The tests are in tests/bpf (single packets through the shipped program, time set by hand), tests/netns (real sockets and
programs around a gateway) and tests/unit.
"""

from __future__ import annotations

from tests.rfc.requirements import Requirement, Section

R = Requirement
STATEFUL = Section(
    "Stateful NAT64 (RFC 6146, 4787, 5382, 5508, 6888, 7857)",
    (
        R(
            "6146-5.2-EIM / 4787-1 / 5382-1",
            "MUST",
            "One address and port of a client has one address and port outside, whoever it talks to",
            ("test_6146_5_2_eim", "test_4787_1", "test_one_mapping_for_all_destinations"),
        ),
        R(
            "6146-3.5.1-FILT",
            "MUST",
            "Anybody may answer through a mapping; as an option, only addresses that were sent to",
            (
                "test_6146_3_5_1_filt",
                "test_anybody_may_answer_a_mapping",
                "test_only_those_who_were_sent_to_may_answer",
            ),
        ),
        R(
            "6146-3.5.1-POOLPAIR / 6888-2",
            "MUST",
            "A client keeps one address of the pool",
            ("test_6146_3_5_1_poolpair", "test_one_mapping_for_all_destinations"),
        ),
        R(
            "6146-RANGE",
            "SHOULD",
            "Ports below 1024 stay below, others above, where one is free",
            ("test_6146_range_and_parity", "test_range_and_parity_of_ports_are_kept"),
        ),
        R(
            "6146-PARITY",
            "SHOULD",
            "An even UDP port stays even, an odd one odd",
            ("test_6146_range_and_parity", "test_range_and_parity_of_ports_are_kept"),
        ),
        R("6056-RANDOM / 7857-9", "SHOULD", "Ports are chosen unpredictably", ("test_6056_random",)),
        R(
            "6146-OVERLOAD / 4787-3",
            "MUST NOT",
            "No address and port outside belongs to two mappings",
            ("test_6146_overload", "test_every_port_of_an_address_is_given_out_once", "test_no_port_is_free_any_more"),
        ),
        R(
            "6146-4-UDP",
            "MUST",
            "UDP sessions live at least 120 s, 300 s by default, and only packets from inside keep them alive",
            ("test_6146_4_udp", "test_lifetimes_are_those_of_the_object"),
        ),
        R(
            "6146-4-TCP",
            "MUST",
            "TCP sessions live 7440 s established, 240 s in transition, and never less than the RFC's minimum",
            ("test_6146_4_tcp", "test_6146_tcpsm", "test_lifetimes_are_those_of_the_object"),
            note="At the end of its time an established session goes to TRANS for 240 s more; no probe is sent.",
        ),
        R("6146-4-ICMP / 5508-2", "MUST", "ICMP queries live at least 60 s", ("test_6146_4_icmp",)),
        R("6146-TCPSM", "MUST", "The state table of RFC 6146 3.5.2.2, row by row", ("test_6146_tcpsm",)),
        R(
            "6146-SO / 5382-4",
            "MUST",
            "An unexpected SYN from IPv4 is not answered for 6 s; the client's own SYN meanwhile gets that port",
            ("test_6146_so", "test_5382_4"),
            note="The SYN is remembered, not stored: after 6 s no ICMP error follows, which RFC 5382 leaves open.",
        ),
        R(
            "6146-3.5.1-NOBIB",
            "MUST",
            "What has no mapping is dropped",
            ("test_6146_3_5_1_nobib", "test_what_has_no_mapping_is_dropped"),
        ),
        R(
            "6146-3.8-HAIR / 4787-9 / 5382-8 / 5508-7",
            "MUST",
            "Clients reach each other by their addresses outside, which they also see of each other",
            ("test_6146_3_8_hairpin", "test_two_clients_reach_each_other", "test_a_static_binding_is_reached"),
        ),
        R(
            "6146-3.4-FRAG",
            "MUST",
            "Fragments are translated, in bounded memory and with a timer of their own",
            ("test_6146_3_4_frag", "test_big_packets_are_fragmented_both_ways", "test_fragments_that_come"),
        ),
        R(
            "6146-3.6-ICMPERR / 4787-12 / 5508-6",
            "MUST",
            "ICMP errors go to the session of the packet inside, and neither refresh nor end it",
            ("test_6146_3_6_icmperr", "test_an_error_comes_back_to_its_session"),
        ),
        R(
            "6146-3.5-PREF-SRC stateful",
            "MUST",
            "A source inside the prefix is dropped",
            ("test_6146_3_5_pref_src",),
        ),
        R("6146-3.5-DST stateful", "MUST", "Only the prefix and the pool are touched", ("test_6146_3_5_dst",)),
        R(
            "6146-3.4-OTHER",
            "SHOULD",
            "Protocols other than TCP, UDP and ICMP are dropped and answered",
            ("test_6146_3_4_other", "test_an_unknown_protocol_is_answered"),
        ),
        R(
            "6146-FULL / 6888-11",
            "MUST",
            "Without a port or room new flows are dropped, answered, counted and told; no mapping is evicted",
            ("test_6146_full", "test_sessions_of_a_full_table", "test_no_port_is_free", "test_the_table_is_full"),
        ),
        R(
            "6888-4/5",
            "MUST",
            "Limits per client of ports, sessions and new sessions per second, by prefix length",
            ("test_6888_4", "test_a_client_has_no_more"),
        ),
        R(
            "6888-8",
            "SHOULD NOT",
            "A released port is not given out again for 120 s",
            ("test_6888_8", "test_a_released_port_rests"),
        ),
        R(
            "6888-6",
            "MUST",
            "Translation can be turned off per destination",
            ("test_6146_3_5_dst",),
            note="Only the prefix is translated; a more specific prefix of another gateway takes a part of it.",
        ),
        R(
            "6888-12..15",
            "SHOULD",
            "What is logged has no destinations and little volume: port blocks beyond a client's own",
            ("test_ports_of_a_client_come_from_blocks",),
        ),
        R(
            "7422",
            "info",
            "A client's ports come from a block that follows from its address; others are logged",
            ("test_7422", "test_ports_of_a_client_come_from_blocks"),
        ),
        R(
            "6146-STATIC",
            "-",
            "Static bindings, from both sides",
            ("test_6146_static", "test_a_static_binding_is_reached"),
        ),
        R(
            "6146-DOS",
            "MUST",
            "Half-open sessions, remembered SYNs and fragments are bounded, and floods push out only their own",
            ("test_6146_dos", "test_a_flood_of_spoofed_syns"),
        ),
        R(
            "MACHINE",
            "-",
            "Random steps against a model: no half pair, no port twice",
            ("test_random_life_of_a_gateway",),
        ),
        R(
            "SERVICE",
            "-",
            "VIPs of one family in front of backends of the other",
            ("test_service_", "test_a_vip_leads"),
        ),
        R(
            "DRAIN",
            "-",
            "A backend of weight 0 keeps its sessions and gets no new ones",
            ("test_a_backend_drains", "test_a_drained_backend", "test_service_chooses_anew"),
        ),
        R("HOST-PORTS", "-", "Ports of the host itself are kept apart", ("test_ports_of_the_",)),
        R("SURVIVAL", "-", "No session is lost by kill -9 or by an upgrade", ("test_no_session_is_lost",)),
        R(
            "HA",
            "-",
            "Sessions are replicated to a standby",
            out_of_scope="Designed in docs/design/stateful.md; mappings with port blocks are deterministic.",
        ),
    ),
)
