"""Logins: `user:hash` lines in the format of `htpasswd`, from an environment variable or a file."""

from __future__ import annotations

import re
from dataclasses import dataclass

from atelier_tracking.errors import LoginsError

USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
"""Excludes characters with a meaning in nginx's configuration, in shells or in logs."""

HASHES = {
    "$apr1$ (htpasswd -nm)": re.compile(r"\$apr1\$[./0-9A-Za-z]{1,8}\$[./0-9A-Za-z]{22}"),
    "bcrypt (htpasswd -nB)": re.compile(r"\$2[aby]\$(?P<cost>\d\d)\$[./0-9A-Za-z]{53}"),
    "SHA-256 crypt (htpasswd -n2)": re.compile(r"\$5\$(rounds=(?P<rounds>\d+)\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{43}"),
    "SHA-512 crypt (htpasswd -n5)": re.compile(r"\$6\$(rounds=(?P<rounds>\d+)\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}"),
}

MAX_BCRYPT_COST = 12
MAX_SHA_ROUNDS = 500_000
"""Each takes about 0.25 s, during which the nginx worker serves no other request."""

INTERPOLATION_HINT = (
    "compose replaces $name in env files and in compose.yaml: write every $ of the hash as $$ there "
    "(docker run --env-file and ECS accept both), or use HTPASSWD_FILE"
)


@dataclass(frozen=True)
class Login:
    """One line: user name, and hash of the password (never shown)."""

    user: str
    hash: str


def parse_logins(text: str) -> tuple[Login, ...]:
    r"""Parses lines `user:hash`; skips blank lines and comments (`#`).

    Lines end with a newline or with the two characters `\n`, because env files cannot contain newlines. `$$` in a hash is read
    as `$`.

    Args:
        text: value of HTPASSWD, or the content of its file.

    Returns:
        At least one login, in the order of the lines.

    Raises:
        LoginsError: lists all problems, without hashes.
    """
    problems: list[str] = []
    logins: dict[str, Login] = {}
    lines = [line.strip() for line in text.replace("\\n", "\n").splitlines()]
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        user, colon, hashed = line.partition(":")
        where = f"HTPASSWD, line {number}"
        if not colon or not USER.fullmatch(user):
            problems.append(
                f"{where}: must be user:hash, with a user of letters, digits and . _ @ + - (64 at most); "
                f"received {('user ' + repr(user)) if colon else 'a line without a colon'}; create it with: htpasswd -nB USER"
            )
            continue
        if problem := _problem(hashed.replace("$$", "$")):
            problems.append(f"{where}, user {user}: {problem}")
            continue
        if duplicate := next((other for other in logins if other.lower() == user.lower()), None):
            reason = "is listed twice" if duplicate == user else f"differs from {duplicate} only in upper and lower case"
            problems.append(f"{where}: user {user} {reason}; keep one line per user")
            continue
        logins[user] = Login(user, hashed.replace("$$", "$"))
    if not logins and not problems:
        problems.append("HTPASSWD: must contain at least one user:hash line; create it with: htpasswd -nB USER")
    if problems:
        raise LoginsError(problems)
    return tuple(logins.values())


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
    if scheme and not any(hashed.startswith(prefix) for prefix in ("$apr1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$")):
        return f"the scheme {scheme[0]} is not supported; use one of {', '.join(HASHES)}"
    if not scheme and hashed and "$" not in hashed and "." not in hashed[:1]:
        schemes = ", ".join(HASHES)
        return f"the hash is incomplete or a plain password; use one of {schemes}. If it began with $: {INTERPOLATION_HINT}"
    hint = INTERPOLATION_HINT[0].upper() + INTERPOLATION_HINT[1:]
    return f"the hash is incomplete ({len(hashed)} characters). {hint}"
