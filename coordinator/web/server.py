"""The server of the app."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from fastapi import FastAPI

    from coordinator.web.feed import Feed

#: Where it listens by default.
HOST, PORT = "127.0.0.1", 8770

#: Connections at once; seconds that requests have to end when the server is told to.
CONNECTIONS, STOP_SECONDS = 500, 5


class Server(uvicorn.Server):
    """Ends streams before it waits for the end of its connections: they would never end by themselves.

    Args:
        config: the server's.
        feed: where the streams come from.
    """

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._feed.close()
        await super().shutdown(sockets)


def serve(app: FastAPI, host: str = HOST, port: int = PORT, proxy: str | None = None) -> None:
    """Serve an app until SIGTERM or Ctrl-C.

    Args:
        app: made by ``application.create``.
        host, port: where it listens.
        proxy: address of a proxy whose word is taken for who calls; None believes nobody.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
        proxy_headers=proxy is not None,
        forwarded_allow_ips=proxy,
    )
    Server(config, app.state.service.feed).run()
