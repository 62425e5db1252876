"""Roles: `user role` lines, and which class of routes each role may use."""

from __future__ import annotations

from collections.abc import Collection

from atelier_tracking.errors import RolesError

ROLES = ("reader", "trainer", "promoter", "admin")
"""In ascending order; each role includes the ones before it."""

LOWEST_ROLE = {
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
"""Class of routes (see routes.txt) → lowest role that may use it. Classes that are not listed are closed."""

PROTECTED = ("curate", "registered")
"""Classes for REGISTRY_USER only, if it is set."""

BYPASSES_GATE = ("presign",)
"""Closed if REGISTRY_USER is set, because presigned uploads do not pass the gate."""

REGISTRY = "registry"
"""Role of REGISTRY_USER, whatever ROLES says; it may not write files."""

REGISTRY_CLASSES = ("read", "register", "describe", *PROTECTED)


def parse_roles(text: str, users: Collection[str]) -> dict[str, str]:
    r"""Parses lines `user role`; skips blank lines and comments (`#`); the two characters `\n` end a line.

    Args:
        text: value of ROLES, or the content of its file.
        users: users of HTPASSWD; each needs a line.

    Returns:
        User → role.

    Raises:
        RolesError: lists all problems.
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
    """All allowed pairs of role and class.

    Args:
        gateway: whether MLFLOW_CRYPTO_KEK_PASSPHRASE is set; without it MLflow's gateway is closed.
        registry: whether REGISTRY_USER is set.
    """
    closed = (() if gateway else ("gateway",)) + (BYPASSES_GATE if registry else ())
    lowest_role = {kind: role for kind, role in LOWEST_ROLE.items() if kind not in closed}
    pairs = [(role, kind) for kind, lowest in lowest_role.items() for role in ROLES if ROLES.index(role) >= ROLES.index(lowest)]
    return pairs + [(REGISTRY, kind) for kind in REGISTRY_CLASSES]
