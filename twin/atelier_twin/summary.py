"""The text that `make up` and the job `login` print: addresses, credentials, a request to try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from atelier_twin.secrets import PEOPLE, Secrets

LOGIN_HINT = "print the login with: docker compose run --rm secrets login"


@dataclass(frozen=True)
class Addresses:
    """URLs of the services on this machine."""

    tracking: str
    registry_api: str
    infer: str
    s3: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Addresses:
        return cls(*(environment[name] for name in ("TRACKING_URL", "REGISTRY_API_URL", "INFER_URL", "S3_URL")))


def summary(addresses: Addresses) -> str:
    """Addresses and next steps, without secrets."""
    return f"""
tracking      {addresses.tracking}   (a page; log in as admin)
registry-api  {addresses.registry_api}
infer         {addresses.infer}

login         docker compose run --rm secrets login
first version docker compose logs -f first-version   (trained and promoted at the first start, a few minutes)
generate      {_generate_command(addresses)}
"""


def credentials(secrets: Secrets, addresses: Addresses) -> str:
    """Addresses, logins, tokens and S3 keys."""
    lines = [f"tracking      {addresses.tracking}"]
    lines += [f"  user {name}, password {secrets.logins[name]}" for name in PEOPLE]
    lines += ["", f"registry-api  {addresses.registry_api}", f"infer         {addresses.infer}"]
    lines += [f"  token of the {name}: {secrets.tokens[name]}" for name in ("reader", "trainer", "promoter", "admin")]
    lines += ["", f"S3            {addresses.s3}", f"  key id {secrets.s3_access_key_id}, key {secrets.s3_secret_access_key}"]
    lines += [
        "",
        "generate an image:",
        f"  export ATELIER_TOKEN={secrets.tokens['reader']}",
        f"  {_generate_command(addresses)}",
        "",
    ]
    return "\n".join(lines)


def _generate_command(addresses: Addresses) -> str:
    return (
        f'curl -sS {addresses.infer}/generate -H "Authorization: Bearer $ATELIER_TOKEN" '
        """-H 'Content-Type: application/json' -d '{"prompt": "a red car next to a tree", "seed": 1}' -o car.png"""
    )
