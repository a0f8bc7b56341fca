"""What balancing does beside the reconciler, in the agent's event loop: health checks and announcements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.lb.announcer import Announcer
from sixgate.node.lb.checker import Checker

if TYPE_CHECKING:
    from sixgate.api.nodeconfig import NodeConfigSpec
    from sixgate.node.lb.engine import Engine


@dataclass(slots=True)
class Balancing:
    """Tells the engine what it finds, and `wake` that there is something to do."""

    engine: Engine
    node: str
    wake: Callable[[], None]
    clock: Callable[[], float]
    _checker: Checker = field(init=False)
    _announcer: Announcer = field(init=False)

    def __post_init__(self) -> None:
        self._checker = Checker(self._checked, self.clock)
        self._announcer = Announcer(self.node, self._announced)

    def follow(self, spec: NodeConfigSpec) -> None:
        """Look after the balancers of a NodeConfig that was applied."""
        self._checker.follow(spec.balancers, self.engine.health)
        self._announcer.follow(spec.balancers)

    async def stop(self) -> None:
        await self._checker.stop()
        await self._announcer.stop()

    def _checked(self) -> None:
        self.engine.health = self._checker.health()
        self.wake()

    def _announced(self) -> None:
        self.engine.announced, self.engine.trouble = self._announcer.held, self._announcer.trouble
        self.wake()
