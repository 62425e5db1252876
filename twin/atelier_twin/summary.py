"""What a person is told: where the services are, how to read the login, a request to try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from atelier_twin.secrets import PEOPLE, Secrets

HOW = "read the login with: docker compose run --rm secrets login"


@dataclass(frozen=True)
class Addresses:
    """Where the services are reached from this machine."""

    tracking: str
    registry_api: str
    infer: str
    s3: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Addresses:
        return cls(*(environment[name] for name in ("TRACKING_URL", "REGISTRY_API_URL", "INFER_URL", "S3_URL")))


def summary(addresses: Addresses) -> str:
    """Addresses and what to do next; no secret."""
    return f"""
tracking      {addresses.tracking}   (a page; log in as admin)
registry-api  {addresses.registry_api}
infer         {addresses.infer}

login         docker compose run --rm secrets login
first version docker compose logs -f first-version   (trained and promoted at the first start, a few minutes)
draw          {_draw(addresses)}
"""


def full(made: Secrets, addresses: Addresses) -> str:
    """Logins and tokens, for the terminal of the person who asked."""
    lines = [f"tracking      {addresses.tracking}"]
    lines += [f"  user {name}, password {made.logins[name]}" for name in PEOPLE]
    lines += ["", f"registry-api  {addresses.registry_api}", f"infer         {addresses.infer}"]
    lines += [f"  token of the {name}: {made.tokens[name]}" for name in ("reader", "trainer", "promoter", "admin")]
    lines += ["", f"S3            {addresses.s3}", f"  key id {made.s3_access_key_id}, key {made.s3_secret_access_key}"]
    lines += ["", "draw an image:", f"  export ATELIER_TOKEN={made.tokens['reader']}", f"  {_draw(addresses)}", ""]
    return "\n".join(lines)


def _draw(addresses: Addresses) -> str:
    return (
        f'curl -sS {addresses.infer}/generate -H "Authorization: Bearer $ATELIER_TOKEN" '
        """-H 'Content-Type: application/json' -d '{"prompt": "a red car next to a tree", "seed": 1}' -o car.png"""
    )
