"""A node that announces one virtual address: python announcing.py NODE ADDRESS ANNOUNCER..."""

from __future__ import annotations

import asyncio
import sys

from sixgate.api.nodeconfig_lb import Balancer
from sixgate.node.lb.announcer import Announcer


async def main(node: str, address: str, announcers: list[str]) -> None:
    vip = {"address": address, "announcers": announcers}
    item = Balancer.model_validate({"name": "web", "vips": [vip], "tableSize": 251, "seed": 1})
    announcer = Announcer(node, lambda: None)
    announcer.follow((item,))
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
