"""Things between a client and an API server: a proxy that sees every call, and a pipe that can swallow everything.

Both run in a thread with an event loop of their own and listen on a free port of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from e2e.apiserver.server import ApiServer


WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
UNKEPT = frozenset({"content-length", "transfer-encoding"})


class _InThread:
    """An event loop in a thread; `_open` is run in it and says the port, `_shut` before it ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    async def _open(self) -> int:
        raise NotImplementedError

    async def _shut(self) -> None:
        raise NotImplementedError

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = self._run(self._open())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._run(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it was answered by the real server."""

    method: str
    path: str
    status: int

    @property
    def writes(self) -> bool:
        return self.method in WRITES


class CallProxy(_InThread):
    """Terminates TLS with the server's own certificate and passes requests on.

    `answered` is called in the proxy's thread when the server has done a call and before the client hears of it; once
    it returns False, nothing goes either way any more. Writes go through one at a time, so that "the third" means one.
    """

    def __init__(self, server: ApiServer, answered: Callable[[Call], bool]) -> None:
        super().__init__()
        self._server = server
        self._answered = answered
        self._one_write = asyncio.Lock()
        self._cut = False
        self.calls: list[Call] = []

    async def _open(self) -> int:
        inside = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        inside.load_cert_chain(*(str(path) for path in self._server.pki.pair("apiserver")))
        outside = ssl.create_default_context(cafile=str(self._server.pki.ca))
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=outside), auto_decompress=False)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=inside)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _shut(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        if request.method not in WRITES:
            return await self._forward(request)
        async with self._one_write:
            return await self._forward(request)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if self._cut:
            return self._abort(request, response)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in {"host", "content-length"}}
        async with self._session.request(
            request.method, self._server.url + request.raw_path, data=await request.read(), headers=headers
        ) as answer:
            call = Call(request.method, request.path, answer.status)
            self.calls.append(call)
            if not self._answered(call):
                self._cut = True
                return self._abort(request, response)
            response.set_status(answer.status)
            response.headers.update({k: v for k, v in answer.headers.items() if k.lower() not in UNKEPT})
            with contextlib.suppress(ConnectionResetError, aiohttp.ClientError):  # the client may be gone
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response

    @staticmethod
    def _abort(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return response


class Pipe(_InThread):
    """Passes bytes until `swallow`; then takes everything and passes nothing on, on connections old and new, as a
    broken firewall does. `heal` ends that for new connections only: the old ones stay dead without a word."""

    def __init__(self, port: int, listener: socket.socket | None = None) -> None:
        """`listener` may be a bound socket of another network namespace."""
        super().__init__()
        self._target = port
        self._socket = listener
        self._swallowing = False
        self._generation = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def swallow(self) -> None:
        self._swallowing = True
        self._generation += 1

    def heal(self) -> None:
        self._swallowing = False

    async def _open(self) -> int:
        if self._socket is not None:
            self._listener = await asyncio.start_server(self._accept, sock=self._socket)
        else:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def _shut(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        born = self._generation
        try:
            if self._swallowing:
                while await reader.read(65536):
                    pass
                return
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                await asyncio.gather(
                    self._copy(reader, up_writer, born), self._copy(up_reader, writer, born), return_exceptions=True
                )
            finally:
                up_writer.close()
        except OSError:
            pass
        except asyncio.CancelledError:
            return  # asyncio's server logs a handler that ends as cancelled
        finally:
            writer.close()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, born: int) -> None:
        while data := await source.read(65536):
            if self._generation == born:
                sink.write(data)
                await sink.drain()
        if self._generation == born:
            sink.close()
        else:
            await asyncio.Event().wait()  # the end of the other side is swallowed as well
