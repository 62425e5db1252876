"""Checks that the twin's ports are free before anything starts; Docker would fail with half of the services running."""

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
"""Service → the settings of its address and port in compose.yaml."""


@dataclass(frozen=True)
class Port:
    """One port of this machine, and the names of its settings."""

    address: str
    number: int
    address_setting: str
    port_setting: str


def required(environment: Mapping[str, str], running: Collection[str]) -> list[Port]:
    """The ports that a start will open.

    Args:
        environment: the settings.
        running: services of this twin that are running, whose ports are open already.
    """
    return [
        Port(environment[address], int(environment[port]), address, port)
        for service, (address, port) in PUBLISHED.items()
        if service not in running
    ]


def check(ports: list[Port]) -> None:
    """Opens all ports, and closes them again.

    Raises:
        PortsTaken: the message has a line for each port that cannot be opened.
    """
    problems = []
    with ExitStack() as stack:
        opened: dict[int, Port] = {}
        for port in ports:
            family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore connections in TIME_WAIT
            try:
                listener.bind((port.address.strip("[]"), port.number))
                listener.listen()
            except OSError as error:
                if error.errno != errno.EACCES:  # Docker may open privileged ports, this job may not
                    problems.append(_problem(port, error, opened))
            else:
                opened[port.number] = port
    if problems:
        raise PortsTaken("\n".join(problems))


def _problem(port: Port, error: OSError, opened: Mapping[int, Port]) -> str:
    if error.errno != errno.EADDRINUSE:
        return (
            f"{port.address_setting} must be an address of this machine, such as 127.0.0.1; received {port.address} ({error})"
        )
    other = opened.get(port.number)
    cause = f"{other.port_setting} is the same" if other else "another program listens on it"
    return (
        f"port {port.number} of {port.address} is taken ({cause}): set {port.port_setting} to a free port "
        f"in the shell or in .env (make up {port.port_setting}=…)"
    )
