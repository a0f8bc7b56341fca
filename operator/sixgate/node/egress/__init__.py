"""Egress on one node: what only the node itself can know, and so fills by itself.

pods.py      pods and namespaces as the API server or a file has them
tables.py    from policies, pods and devices to the contents of maps; pure
ports.py     which device leads to which pod's address, as the kernel tells
owners.py    who owns a pair; pure, the clock is an argument
wire.py      the datagrams of heartbeats
probe.py     asking the segment whether an address is alive, and telling it who has it
keeper.py    all of it together, as one asyncio component of the agent
"""
