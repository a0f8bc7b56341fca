"""Health endpoints in a thread of their own, so that they answer even when the event loop does not.

`GET /healthz` gives 200, or 503 with the sentences of what is wrong: a reason to start the process anew. It must not
depend on the API server: what stands still while the server is away is no such reason. `GET /readyz` gives 503 also
while something is not done yet, or not as it should be: a reason to wait with the next node of an upgrade.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Pulse:
    """When each part of the process last showed life; parts say themselves how long their silence may be."""

    clock: Callable[[], float] = time.monotonic
    _beats: dict[str, tuple[float, float]] = field(default_factory=dict, init=False)
    _awaited: dict[str, str] = field(default_factory=dict, init=False)

    def beat(self, part: str, silence_s: float) -> None:
        """`part` lives; it is late when it has not said so again for `silence_s`."""
        self._beats[part] = (self.clock(), silence_s)

    def drop(self, part: str) -> None:
        self._beats.pop(part, None)

    def expect(self, part: str, sentence: str) -> None:
        """The process is not ready before `part` has `come`; the sentence says so."""
        self._awaited[part] = sentence

    def come(self, part: str) -> None:
        self._awaited.pop(part, None)

    def unready(self) -> tuple[str, ...]:
        """Sentences of what has not come yet."""
        return tuple(self._awaited.values())

    def late(self) -> tuple[str, ...]:
        """One sentence for each part that is late."""
        now = self.clock()
        return tuple(
            f"{part} must show life every {silence:.0f} s, and it was silent for {now - at:.0f} s."
            for part, (at, silence) in sorted(self._beats.items())
            if now - at > silence
        )

    async def keep(self, part: str = "the event loop", every_s: float = 1.0, silence_s: float = 30.0) -> None:
        """Beats for the event loop it runs in, until cancelled."""
        while True:
            self.beat(part, silence_s)
            await asyncio.sleep(every_s)


class HealthServer:
    """Serves `late`, and `unready` where given, on one address until closed. Port 0 takes a free one: `port`."""

    def __init__(
        self,
        host: str,
        port: int,
        late: Callable[[], tuple[str, ...]],
        unready: Callable[[], tuple[str, ...]] | None = None,
    ) -> None:
        pages = {"/healthz": late} | ({"/readyz": unready} if unready is not None else {})

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = pages.get(self.path)
                wrong = page() if page is not None else (f"There is only {' and '.join(pages)} here.",)
                status = 404 if page is None else 503 if wrong else 200
                body = ("\n".join(wrong) or "ok").encode() + b"\n"
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """A probe every few seconds is not worth a line."""

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host or not host else socket.AF_INET

            def server_bind(self) -> None:
                if self.address_family == socket.AF_INET6:
                    self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                super().server_bind()

        self._server = Server((host, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
