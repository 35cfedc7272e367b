"""A small TCP proxy between a worker and Redis: slow, cut, or losing replies, as the drill says."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from typing import Self

from tests.chaos.pauses import pause


class Proxy:
    """Forwards connections to a port of this machine.

    Args:
        port: where to.

    Attributes:
        delay: seconds each piece of a reply is held back.
        losing: share of replies whose connection is closed instead: the command was carried out, and
            nobody learns it.
        down: whether new connections are refused.
        lost: replies that were lost.
    """

    def __init__(self, port: int) -> None:
        self.target = ("127.0.0.1", port)
        self.delay, self.losing, self.down, self.lost = 0.0, 0.0, False, 0
        self.choice = random.Random(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes up the thread in accept(), which close() alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> int:
        """Close all connections, in the middle of whatever is said on them; return how many."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            _close(pair)
        return len(pairs)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                near.close()
                continue
            try:
                far = socket.create_connection(self.target, timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            pair = (near, far)
            with self._lock:
                self._pairs.add(pair)
            for source, sink, is_reply in ((near, far, False), (far, near, True)):
                arguments = (pair, source, sink, is_reply)
                threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(
        self,
        pair: tuple[socket.socket, socket.socket],
        source: socket.socket,
        sink: socket.socket,
        is_reply: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_reply and self.choice.random() < self.losing:
                    self.lost += 1
                    break
                if is_reply and self.delay:
                    pause(self.delay)
                sink.sendall(data)
        with self._lock:
            self._pairs.discard(pair)
        _close(pair)


def _close(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
