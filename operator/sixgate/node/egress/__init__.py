"""Egress on one node: what only the node itself can know, and so fills by itself.

pods.py      pods and namespaces as the API server or a file has them
tables.py    from policies, pods and devices to the contents of maps; pure
ports.py     which device leads to which pod's address, as the kernel tells
people.py    the three together: pods of this node to the maps
known.py     what the node was told: pairs, and where gateways are
owners.py    who owns a pair; pure, the clock is an argument
effects.py   what the node does when a pair comes or goes
floating.py  addresses on devices
ways.py      where each pair's packets go from here
sessions.py  connections on their way to another gateway
wire.py      the datagrams of heartbeats
probe.py     asking the segment whether an address is alive, and telling it who has it
keeper.py    all of it together, as one asyncio component of the agent
"""
