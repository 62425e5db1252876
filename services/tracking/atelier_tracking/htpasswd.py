"""Who may log in: `user:hash` lines as `htpasswd` writes them, from one environment variable or a file."""

from __future__ import annotations

import re
from dataclasses import dataclass

from atelier_tracking.errors import LoginsError

USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
"""No character that means something to nginx, to a shell or in a log line."""

HASHES = {
    "$apr1$ (htpasswd -nm)": re.compile(r"\$apr1\$[./0-9A-Za-z]{1,8}\$[./0-9A-Za-z]{22}"),
    "bcrypt (htpasswd -nB)": re.compile(r"\$2[aby]\$(?P<cost>\d\d)\$[./0-9A-Za-z]{53}"),
    "SHA-256 crypt (htpasswd -n2)": re.compile(r"\$5\$(rounds=(?P<rounds>\d+)\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{43}"),
    "SHA-512 crypt (htpasswd -n5)": re.compile(r"\$6\$(rounds=(?P<rounds>\d+)\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}"),
}

MAX_BCRYPT_COST = 12
MAX_SHA_ROUNDS = 500_000
"""Both are about a quarter of a second: nginx answers nobody else on that worker while it checks a password."""

EATEN = (
    "compose replaces $name in env files and in compose.yaml: write every $ of the hash as $$ there "
    "(docker run --env-file and ECS take both spellings), or give the file by HTPASSWD_FILE"
)


@dataclass(frozen=True)
class Login:
    """One line of the password file.

    Attributes:
        user: name as it is typed at the login.
        hash: of the password; never shown.
    """

    user: str
    hash: str


def parse_logins(text: str) -> tuple[Login, ...]:
    r"""Reads lines `user:hash`; blank lines and lines that begin with `#` are skipped.

    A line ends at a newline or at the two characters `\n`, since an env file cannot hold a newline. A hash whose `$` are
    doubled is read as if they were not.

    Args:
        text: value of HTPASSWD, or what its file holds.

    Returns:
        At least one login, in the order given.

    Raises:
        LoginsError: with every problem at once; hashes are never repeated.
    """
    problems: list[str] = []
    found: dict[str, Login] = {}
    lines = [line.strip() for line in text.replace("\\n", "\n").splitlines()]
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        user, colon, hashed = line.partition(":")
        where = f"HTPASSWD, line {number}"
        if not colon or not USER.fullmatch(user):
            problems.append(
                f"{where}: must be user:hash, with a user of letters, digits and . _ @ + - (64 at most); "
                f"received {('user ' + repr(user)) if colon else 'a line without a colon'}; make it with: htpasswd -nB USER"
            )
            continue
        if problem := _problem(hashed.replace("$$", "$")):
            problems.append(f"{where}, user {user}: {problem}")
            continue
        if twin := next((known for known in found if known.lower() == user.lower()), None):
            rule = "is listed twice" if twin == user else f"differs from {twin} only in upper and lower case"
            problems.append(f"{where}: user {user} {rule}; keep one line per user")
            continue
        found[user] = Login(user, hashed.replace("$$", "$"))
    if not found and not problems:
        problems.append("HTPASSWD: must hold at least one user:hash line; make it with: htpasswd -nB USER")
    if problems:
        raise LoginsError(problems)
    return tuple(found.values())


def _problem(hashed: str) -> str | None:
    for pattern in HASHES.values():
        if match := pattern.fullmatch(hashed):
            groups = match.groupdict()
            if int(groups.get("cost") or 0) > MAX_BCRYPT_COST:
                return f"the bcrypt cost must be {MAX_BCRYPT_COST} at most; received {groups['cost']}; use htpasswd -nBC 10"
            if int(groups.get("rounds") or 0) > MAX_SHA_ROUNDS:
                return f"the rounds must be {MAX_SHA_ROUNDS} at most; received {groups['rounds']}; use htpasswd -nB"
            return None
    scheme = re.match(r"\$(\w+)\$|\{\w+\}", hashed)
    if scheme and not any(hashed.startswith(start) for start in ("$apr1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$")):
        return f"the scheme {scheme[0]} is not accepted; use one of {', '.join(HASHES)}"
    if not scheme and hashed and "$" not in hashed and "." not in hashed[:1]:
        return f"the hash is incomplete or a plain password; use one of {', '.join(HASHES)}. If it began with $: {EATEN}"
    return f"the hash is incomplete ({len(hashed)} characters are left). {EATEN[0].upper()}{EATEN[1:]}"
