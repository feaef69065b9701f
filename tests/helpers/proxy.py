"""A TCP proxy on the loopback that can be told to misbehave."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import Literal

Mode = Literal["pass", "refuse", "hang", "slow", "drop"]

POLL_S = 0.02
SLOW_S = 0.5
# Closing with this option sends a reset instead of a farewell.
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes bytes between clients and one server.

    `refuse` resets connections and accepts none; `hang` holds everything back and delivers it later; `slow` delays each
    piece; `drop` passes requests on and throws the replies away with the connection.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._mode: Mode = "pass"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._closed = False

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.become("refuse")

    def become(self, mode: Mode) -> None:
        """Behaves in another way from now on."""
        before, self._mode = self._mode, mode
        if mode == "refuse":
            # A thread in accept() keeps a closed socket listening; shutdown wakes it.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._reset_all()
        elif before == "refuse":
            self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port))
        except OSError:
            client.close()
            return
        for end in (client, server):
            # Pieces would otherwise wait for the acknowledgement of the one before: 40 ms that are not the network's.
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open |= {client, server}
        for source, target, is_reply in ((client, server, False), (server, client, True)):
            threading.Thread(target=self._pump, args=(source, target, is_reply), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_reply: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self._mode == "hang" and not self._closed:
                    time.sleep(POLL_S)
                if self._mode == "slow":
                    time.sleep(SLOW_S)
                if self._mode == "drop" and is_reply:
                    break
                target.sendall(data)
        self._end(source, target)

    def _end(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._open -= set(sockets)
        for each in sockets:
            # shutdown, because the other pump may sit in recv() on it, which close() does not wake.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _reset_all(self) -> None:
        with self._lock:
            sockets, self._open = self._open, set()
        for each in sockets:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                each.shutdown(socket.SHUT_RDWR)
            each.close()
