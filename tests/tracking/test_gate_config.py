"""What the gate's configuration says for given settings: who may do what, from which pages, and where it sends clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from atelier_tracking.gate.nginx_config import placeholders
from atelier_tracking.gate.problem_responses import REFUSALS
from atelier_tracking.roles import PROTECTED, allowed
from atelier_tracking.settings import read_settings

from .test_settings import HASH, MINIMAL

TWO_USERS = {"HTPASSWD": f"ada:{HASH}\nrita:{HASH}"}
ROLES = TWO_USERS | {"ROLES": "ada admin\nrita reader"}
REGISTRY = ROLES | {"REGISTRY_USER": "registry", "HTPASSWD": f"{TWO_USERS['HTPASSWD']}\nregistry:{HASH}"}
REGISTRY["ROLES"] += "\nregistry promoter"


def lines(name: str, **changes: Any) -> list[str]:
    return [line.strip() for line in placeholders(read_settings(MINIMAL | changes), Path("/run"))[name].splitlines()]


def test_a_user_without_a_role_may_do_nothing_once_roles_are_set() -> None:
    assert lines("default_role", **TWO_USERS) == ["admin"]
    assert lines("roles", **TWO_USERS) == []
    assert lines("default_role", **ROLES) == ["none"]
    assert lines("roles", **ROLES) == ['"user ada" admin;', '"user rita" reader;']
    assert lines("users", **ROLES) == ['"user ada" "ada";', '"user rita" "rita";']


def test_the_registry_user_has_its_own_role_whatever_roles_say() -> None:
    assert lines("roles", **REGISTRY) == ['"user ada" admin;', '"user rita" reader;', '"user registry" registry;']
    assert lines("registry_user", **REGISTRY) == ["registry"]
    assert lines("registry_user", **ROLES) == []


def test_protected_classes_are_closed_to_everybody_but_the_registry_user() -> None:
    assert lines("protected", **ROLES) == []
    assert set(lines("protected", **REGISTRY)) == {
        f'"{user} {kind}" yes;' for user in ("", "ada", "rita") for kind in PROTECTED
    }


@pytest.mark.parametrize("gateway", [True, False])
@pytest.mark.parametrize("environment", [ROLES, REGISTRY])
def test_every_allowed_pair_is_listed(environment: dict[str, str], gateway: bool) -> None:
    key = {"MLFLOW_CRYPTO_KEK_PASSPHRASE": "x" * 32} if gateway else {}
    pairs = allowed(gateway=gateway, registry="REGISTRY_USER" in environment)
    assert lines("allowed", **environment, **key) == [f'"{role} {kind}" yes;' for role, kind in pairs]


def test_pages_of_other_origins_are_refused() -> None:
    assert lines("origin", PUBLIC_URL="https://draw.example") == ['"https://draw.example https://draw.example" "";']
    assert lines("own_origin", PUBLIC_URL="https://draw.example") == ["https://draw.example"]
    assert lines("origin") == [r'"~^(?<origin>\S+) \k<origin>$" "";']
    assert lines("own_origin") == ["$scheme://$http_host"]
    assert "Open this server at https://draw.example." in "".join(lines("error_locations", PUBLIC_URL="https://draw.example"))
    assert "set PUBLIC_URL" in "".join(lines("error_locations"))


def test_requests_without_tls_are_redirected_to_the_public_address() -> None:
    assert lines("https_host", PUBLIC_URL="https://draw.example:8443") == ["draw.example:8443"]
    assert lines("https_host", HTTPS_PORT="443") == ["$host"]
    assert lines("https_host", HTTPS_PORT="8443") == ["$host:8443"]


def test_only_given_proxies_may_name_the_clients_address() -> None:
    assert lines("real_ip") == []
    assert lines("real_ip", TRUSTED_PROXIES="10.0.0.0/8,192.0.2.1") == [
        "set_real_ip_from 10.0.0.0/8;",
        "set_real_ip_from 192.0.2.1/32;",
        "real_ip_header X-Forwarded-For;",
        "real_ip_recursive on;",
    ]


def test_refusals_that_pass_say_when_to_try_again() -> None:
    assert lines("retries") == [f"{reason} {problem.retry_s};" for reason, problem in REFUSALS.items() if problem.retry_s]
    assert {line.split()[0] for line in lines("retries")} == {"space", "guesses"}


def test_presigned_addresses_are_served_only_where_there_is_a_public_store() -> None:
    assert lines("presigned") == ["try_files /absent =404;"]
    assert lines("presigned", S3_PUBLIC_ENDPOINT_URL="https://s3.example") == ["proxy_pass http://$body_upstream;"]


def test_a_stop_waits_a_second_at_least() -> None:
    assert lines("drain_s", DRAIN_TIMEOUT_S="0") == ["1"]
    assert lines("drain_s", DRAIN_TIMEOUT_S="7") == ["7"]
