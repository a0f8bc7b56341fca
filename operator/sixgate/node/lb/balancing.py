"""What balancing does beside the reconciler, in the agent's event loop: health checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.lb.checker import Checker

if TYPE_CHECKING:
    from sixgate.api.nodeconfig import NodeConfigSpec
    from sixgate.node.lb.engine import Engine


@dataclass(slots=True)
class Balancing:
    """Tells the engine what it finds, and `wake` that there is something to do."""

    engine: Engine
    wake: Callable[[], None]
    clock: Callable[[], float]
    _checker: Checker = field(init=False)

    def __post_init__(self) -> None:
        self._checker = Checker(self._checked, self.clock)

    def follow(self, spec: NodeConfigSpec) -> None:
        """Look after the balancers of a NodeConfig that was applied."""
        self._checker.follow(spec.balancers, self.engine.health)

    async def stop(self) -> None:
        await self._checker.stop()

    def _checked(self) -> None:
        self.engine.health = self._checker.health()
        self.wake()
