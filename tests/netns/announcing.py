"""A node that announces one address: python announcing.py NODE ADDRESS DEVICES ANNOUNCER...

DEVICES is a pattern where the address is asked for first, and `-` where it is not. What is wrong goes to stdout.
"""

from __future__ import annotations

import asyncio
import sys

from sixgate.node.announcer import Announced, Announcer


async def main(node: str, address: str, devices: str, announcers: list[str]) -> None:
    def changed() -> None:
        print(*announcer.troubles.values(), sep="\n", flush=True)

    announcer = Announcer(node, changed)
    asked = devices != "-"
    announcer.follow((Announced(address, tuple(announcers), asked_first=asked, devices=(devices,) if asked else ()),))
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
