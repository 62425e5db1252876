"""Whether the twin's ports are free, asked before anything is started; Docker says so when half of the twin runs."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from atelier_twin.errors import PortsTaken

PUBLISHED = {
    "tracking": ("TWIN_ADDRESS", "TRACKING_PORT"),
    "registry-api": ("TWIN_ADDRESS", "REGISTRY_API_PORT"),
    "infer": ("TWIN_ADDRESS", "INFER_PORT"),
    "localstack": ("S3_ADDRESS", "S3_PORT"),
}
"""Service → the settings with the address and the port that compose.yaml opens for it."""


@dataclass(frozen=True)
class Port:
    """One port of this machine, and the settings that chose it."""

    address: str
    number: int
    address_setting: str
    port_setting: str


def wanted(environment: Mapping[str, str], running: Collection[str]) -> list[Port]:
    """The ports that a start will open.

    Args:
        environment: with the settings, as compose.yaml hands them over.
        running: services of this twin that run already, and hold their ports themselves.
    """
    return [
        Port(environment[address], int(environment[port]), address, port)
        for service, (address, port) in PUBLISHED.items()
        if service not in running
    ]


def check(ports: list[Port]) -> None:
    """Opens every port for a moment.

    Raises:
        PortsTaken: with a line for each that cannot be opened.
    """
    problems = []
    with ExitStack() as opened:
        mine: dict[int, Port] = {}
        for port in ports:
            kind = socket.AF_INET6 if ":" in port.address else socket.AF_INET
            one = opened.enter_context(socket.socket(kind, socket.SOCK_STREAM))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have just ended do not count
            try:
                one.bind((port.address.strip("[]"), port.number))
                one.listen()
            except OSError as error:
                if error.errno != errno.EACCES:  # Docker may open ports that this job may not
                    problems.append(_told(port, error, mine))
            else:
                mine[port.number] = port
    if problems:
        raise PortsTaken("\n".join(problems))


def _told(port: Port, error: OSError, mine: Mapping[int, Port]) -> str:
    if error.errno != errno.EADDRINUSE:
        return (
            f"{port.address_setting} must be an address of this machine, such as 127.0.0.1; received {port.address} ({error})"
        )
    holder = f"{mine[port.number].port_setting} has it, too" if port.number in mine else "another program listens there"
    return (
        f"port {port.number} of {port.address} is taken ({holder}): set {port.port_setting} to a free one, "
        f"in the shell or in .env (make up {port.port_setting}=…)"
    )
