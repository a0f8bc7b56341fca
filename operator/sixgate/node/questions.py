"""What a process that keeps a node can be asked: `trace`, with what it has in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sixgate.node import packets
from sixgate.node.packets import ProtocolName
from sixgate.node.trace import trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from sixgate.api.nodeconfig import NodeConfigSpec
    from sixgate.node.options import NodeOptions


class TraceQuestion(BaseModel):
    """One packet, as the options of `sixgate trace` describe it, and the node that is meant by its bpffs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bpffs: str
    objects: str = ""  # empty: those of the process
    source: str
    target: str
    proto: ProtocolName
    device: str = ""
    length: int = Field(default=0, ge=0, le=65000)
    flags: str = "syn"
    ttl: int = Field(default=64, ge=0, le=255)

    def frame(self) -> bytes:
        """SixgateError where there is no such packet."""
        ends = packets.parse_end(self.source), packets.parse_end(self.target)
        return packets.build(*ends, self.proto, length=self.length, flags=self.flags, ttl=self.ttl)


def tracer(
    options: NodeOptions, spec: Callable[[], NodeConfigSpec | None]
) -> Callable[[dict[str, Any]], dict[str, object] | None]:
    """Answers with the document of a trace, by what `spec` says that the node was told last."""

    def answer(question: dict[str, Any]) -> dict[str, object] | None:
        try:
            asked = TraceQuestion.model_validate(question)
        except ValidationError:
            return None
        told = spec()
        elsewhere = asked.bpffs != str(options.bpffs) or asked.objects not in {"", str(options.objects)}
        if told is None or elsewhere:
            return None
        return trace(asked.frame(), told, options, asked.device).document()

    return answer
