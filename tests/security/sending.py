"""Requests as bytes on a socket: clients tidy paths up, and send all of a body before they look for an answer."""

from __future__ import annotations

import gzip
import json
import select
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..integration.containers import Server

MIB = 1 << 20
PATIENCE_S = 240


@dataclass(frozen=True)
class Zeros:
    """A body of zeros, announced by its length; or in chunks, which end when the server answers."""

    mib: float
    chunked: bool = False

    def __str__(self) -> str:
        return f"{self.mib} MiB" + (" in chunks" if self.chunked else "")


@dataclass(frozen=True)
class Bomb:
    """So many MiB of zeros under gzip."""

    mib: int

    def __str__(self) -> str:
        return f"{self.mib} MiB under gzip"


@dataclass(frozen=True)
class Lists:
    """JSON of nothing but empty lists, which MLflow needs 47 times the memory for."""

    bytes: int

    def __str__(self) -> str:
        return f"{self.bytes} bytes of empty lists"


Body = dict[str, Any] | bytes | Zeros | Bomb | Lists | None


def send(server: Server, method: str, path: str, user: str | None, body: Body, headers: Mapping[str, str]) -> int:
    """The status, as soon as it comes; 0 where the connection process without one."""
    length, pieces = _pieces(body)
    head = {"Host": "sketch.example", "Connection": "close", "Content-Type": "application/json"}
    head |= {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
    lines = [
        f"{method} {path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in (head | server.headers(user) | headers).items()),  # type: ignore[operator]
    ]
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        try:
            connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
            for piece in pieces:
                if select.select([connection], [], [], 0)[0]:
                    break
                connection.sendall(piece)
        except OSError:
            pass  # it has answered, and process the connection
        try:
            line = connection.makefile("rb").readline().split()
        except OSError:
            return 0
    return int(line[1]) if len(line) > 1 else 0


def send_all(times: int, server: Server, *request: object) -> set[int]:
    """The statuses of so many of them at a time."""
    with ThreadPoolExecutor(times) as pool:
        return {future.result() for future in [pool.submit(send, server, *request) for _ in range(times)]}  # type: ignore[arg-type]


def _pieces(body: Body) -> tuple[int | None, Iterator[bytes]]:
    if isinstance(body, Zeros):
        size = int(body.mib * MIB)
        block = bytes(min(MIB, size))
        if body.chunked:
            chunk = f"{len(block):x}\r\n".encode() + block + b"\r\n"
            return None, chain((chunk for _ in range(size // len(block))), [b"0\r\n\r\n"])
        sizes = [len(block)] * (size // len(block)) + [size % len(block)]
        return size, (block[:each] for each in sizes if each)
    if isinstance(body, Bomb):
        data = gzip.compress(bytes(16 * MIB)) * (body.mib // 16)
    elif isinstance(body, Lists):
        data = b'{"tags": [' + b"[]," * ((body.bytes - 20) // 3) + b"[]]}"
        data = data.ljust(body.bytes)
    elif isinstance(body, dict):
        data = json.dumps(body).encode()
    else:
        data = body or b""
    return len(data), (data[at : at + MIB] for at in range(0, len(data), MIB))
