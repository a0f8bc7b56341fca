"""Requests to one API server with raw JSON in and out.

Credentials, certificates and token rotation are those of the official client; its models are not used: parsing them
costs more than everything else that sixgate does with an object.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from sixgate.errors import SixgateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

Json = dict[str, Any]
MAX_LINE_BYTES = 8 << 20  # etcd refuses objects above 1.5 MiB; an apiserver may be told to allow more


class ApiError(SixgateError):
    """The API server refused a request; `status` is the HTTP status, 0 where there was no answer at all."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later without anybody changing anything."""
        return self.status in {0, 401, 408, 409, 425, 429} or self.status >= 500


class KubeClient:
    """One session to one API server. Every request has a timeout; `ApiError` is the only error it raises."""

    def __init__(self, configuration: Configuration, *, connections: int = 64, agent: str = "sixgate") -> None:
        self.configuration = configuration
        self._host: str = configuration.host.rstrip("/")
        self._agent = agent
        connector = aiohttp.TCPConnector(limit=connections, ssl=RESTClientObject(configuration).ssl_context)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=True)

    @classmethod
    async def connect(
        cls, kubeconfig: Path | None = None, *, agent: str = "sixgate", context: str | None = None
    ) -> KubeClient:
        """From a kubeconfig file, or, without one, as the pod's service account. Opens no connection yet."""
        configuration = Configuration()
        try:
            if kubeconfig is None:
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                await load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=str(kubeconfig),
                    context=context,
                    client_configuration=configuration,
                    persist_config=False,
                )
        except (ConfigException, OSError) as error:
            where = "the pod's service account" if kubeconfig is None else str(kubeconfig)
            raise ApiError(f"Credentials must be readable from {where}: {error}") from error
        return cls(configuration, agent=agent)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._session.close()

    async def bearer(self) -> str:
        """The value of the Authorization header, or an empty string where a client certificate says who we are."""
        settings: Mapping[str, Any] = await self.configuration.auth_settings()
        return str(settings["BearerToken"]["value"]) if "BearerToken" in settings else ""

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout_s: float = 10.0,
    ) -> Json:
        """One request; the parsed answer. Raises ApiError for everything but 2xx."""
        headers = await self._headers(accept)
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = json.dumps(body, separators=(",", ":")).encode()
        try:
            async with self._session.request(
                method, self._host + path, params=params, data=data, headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, 5.0)),
            ) as response:  # fmt: skip
                raw = await response.read()
                if response.status >= 300:
                    raise _refusal(method, path, response.status, raw)
                answer: Json = json.loads(raw)
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError, json.JSONDecodeError) as error:
            raise ApiError(
                f"{method} {path} must be answered, and it was not: {error or type(error).__name__}"
            ) from error

    async def read(self, path: str, *, params: Mapping[str, str] | None = None, timeout_s: float = 30.0) -> str:
        """What is not JSON: the log of a pod. Raises ApiError for everything but 2xx."""
        headers = await self._headers("*/*")
        try:
            async with self._session.get(
                self._host + path, params=params, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout_s)
            ) as response:
                raw = await response.read()
                if response.status >= 300:
                    raise _refusal("GET", path, response.status, raw)
                return raw.decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(f"GET {path} must be answered, and it was not: {error or type(error).__name__}") from error

    async def apply(
        self, path: str, body: Json, *, manager: str, subresource: str = "", timeout_s: float = 10.0
    ) -> Json:
        """Server-side apply of `body` at `path` with our fields forced; returns the object as stored."""
        return await self.request(
            "PATCH",
            path + (f"/{subresource}" if subresource else ""),
            params={"fieldManager": manager, "force": "true"},
            body=body,
            content_type="application/apply-patch+yaml",
            timeout_s=timeout_s,
        )

    async def watch(
        self, path: str, params: Mapping[str, str], *, inactivity_s: float, connect_s: float = 5.0
    ) -> AsyncIterator[Json]:
        """Events of one watch request, bookmarks among them; ends when the server ends it.

        Raises ApiError when the connection breaks, the server refuses, or nothing at all came for `inactivity_s`.
        """
        headers = await self._headers("application/json")
        query = {**params, "watch": "true", "allowWatchBookmarks": "true"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=inactivity_s)
        try:
            async with self._session.get(
                self._host + path, params=query, headers=headers, timeout=timeout, read_bufsize=1 << 20
            ) as response:
                if response.status >= 300:
                    raise _refusal("WATCH", path, response.status, await response.read())
                async for line in _lines(response.content):
                    yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, json.JSONDecodeError) as error:
            raise ApiError(f"WATCH {path} must go on, and it broke: {error or type(error).__name__}") from error

    async def _headers(self, accept: str) -> dict[str, str]:
        headers = {"Accept": accept, "User-Agent": self._agent}
        token = await self.bearer()
        if token:
            headers["Authorization"] = token
        return headers


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of a stream; aiohttp's own iterator fails above its buffer limit, objects may be larger."""
    parts: list[bytes] = []
    held = 0
    async for chunk in content.iter_any():
        *complete, rest = chunk.split(b"\n")
        for line in complete:
            whole = b"".join((*parts, line))
            parts, held = [], 0
            if whole:
                yield whole
        parts.append(rest)
        held += len(rest)
        if held > MAX_LINE_BYTES:
            raise aiohttp.ClientPayloadError(f"an event of more than {MAX_LINE_BYTES} bytes")


def _refusal(method: str, path: str, status: int, raw: bytes) -> ApiError:
    try:
        document = json.loads(raw)
        message, reason = str(document.get("message", "")), str(document.get("reason", ""))
    except (json.JSONDecodeError, AttributeError):
        message, reason = raw[:200].decode(errors="replace"), ""
    return ApiError(f"{method} {path} was refused with {status}: {message}", status, reason)


def object_path(plural: str, name: str = "", *, group: str = "sixgate.io/v1alpha1", namespace: str = "") -> str:
    """The URL path of a collection or of one object; the core group is spelled `v1`."""
    root = "/api/v1" if group == "v1" else f"/apis/{group}"
    middle = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{root}{middle}/{plural}" + (f"/{quote(name, safe='')}" if name else "")
