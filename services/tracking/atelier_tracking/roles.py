"""What each user may do: `user role` lines, and the table of roles against classes of routes."""

from __future__ import annotations

from collections.abc import Collection

from atelier_tracking.errors import RolesError

ROLES = ("reader", "trainer", "promoter", "admin")
"""Each may do what the ones before it may."""

LOWEST = {
    "read": "reader",
    "write": "trainer",
    "register": "trainer",
    "artifact": "trainer",
    "model": "trainer",
    "presign": "trainer",
    "describe": "promoter",
    "curate": "promoter",
    "registered": "admin",
    "admin": "admin",
    "gateway": "admin",
}
"""Class of a route (see routes.py) to the lowest role that may use it. A class that is not listed is for nobody."""

PROTECTED = ("curate", "registered")
"""For REGISTRY_USER alone once it is set."""

UNCHECKED = ("presign",)
"""For nobody once REGISTRY_USER is set: what is uploaded so does not come by the gate."""

REGISTRY = "registry"
"""Role of REGISTRY_USER, whatever ROLES says: it reads, registers and does what is PROTECTED, but writes no files."""

OF_REGISTRY = ("read", "register", "describe", *PROTECTED)


def parse_roles(text: str, users: Collection[str]) -> dict[str, str]:
    r"""Reads lines `user role`; blank lines and lines that begin with `#` are skipped, `\n` counts as a newline.

    Args:
        text: value of ROLES, or what its file holds.
        users: those that can log in; each needs a line.

    Returns:
        User to role.

    Raises:
        RolesError: with every problem at once.
    """
    problems: list[str] = []
    roles: dict[str, str] = {}
    for number, line in enumerate(text.replace("\\n", "\n").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"ROLES, line {number}"
        if len(words) != 2 or words[1] not in ROLES:
            problems.append(f"{where}: must be `user role` with a role of {', '.join(ROLES)}; received {line.strip()!r}")
        elif words[0] not in users:
            problems.append(f"{where}: user {words[0]} is not in HTPASSWD; add its login or remove the line")
        elif words[0] in roles:
            problems.append(f"{where}: user {words[0]} is listed twice; keep one line")
        else:
            roles[words[0]] = words[1]
    if not problems:
        problems += [
            f"ROLES: user {user} of HTPASSWD has no role; add a line `{user} reader`" for user in users if user not in roles
        ]
    if problems:
        raise RolesError(problems)
    return roles


def allowed(gateway: bool, registry: bool) -> list[tuple[str, str]]:
    """Every pair (role, class) that is allowed.

    Args:
        gateway: whether secrets of the gateway are kept under a passphrase of this server's own; without one it is closed.
        registry: whether there is a REGISTRY_USER.
    """
    off = (() if gateway else ("gateway",)) + (UNCHECKED if registry else ())
    lowest = {kind: role for kind, role in LOWEST.items() if kind not in off}
    pairs = [(role, kind) for kind, least in lowest.items() for role in ROLES if ROLES.index(role) >= ROLES.index(least)]
    return pairs + [(REGISTRY, kind) for kind in OF_REGISTRY]
