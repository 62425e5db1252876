"""Failed logins are limited, without locking out users who know their password."""

from __future__ import annotations

from pathlib import Path

from .containers import PASSWORDS, BackingServices, apr1, tracking


def test_failed_logins_are_limited_by_address_and_user(backing_services: BackingServices, tmp_path: Path) -> None:
    users = "\\n".join(f"{user}:{apr1(PASSWORDS[user])}" for user in ("ada", "rita", "theo"))
    users += "".join(f"\\n{user}:{apr1(user)}" for user in ("default", "include"))  # keywords of nginx's map
    env = backing_services.settings(HTPASSWD=users, TRUSTED_PROXIES="172.16.0.0/12,192.168.0.0/16,10.0.0.0/8")
    with tracking(env, tmp_path, "--network", backing_services.network, logins=PASSWORDS) as server:

        def status(user: str, address: str = "203.0.113.5") -> int:
            return server.request("GET", "/static-files/none", user, X_Forwarded_For=address).status

        assert status("ada") == 404  # a login before the guesses
        assert [status("default:default"), status("include:include"), status("-:-")] == [404, 404, 401]
        guesses = [status(f"ada:guess-{number}") for number in range(40)]
        assert guesses[:10] == [401] * 10
        assert guesses.count(429) >= 20
        answer = server.request("GET", "/version", "ada:guess", X_Forwarded_For="203.0.113.5")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "30")
        # from the same address, other logins still work
        assert status("ada") == 404
        assert status("rita") == 404
        unknown = [status(f"nobody-{number}:x") for number in range(40)]
        assert unknown.count(429) >= 20
        assert status("theo") == 404
        # another address
        assert status("ada:guess", "203.0.113.77") == 401
        # an IPv6 /64 counts as one address
        six = [status("rita:guess", f"2001:db8:1:2:{number:x}::1") for number in range(40)]
        assert six.count(429) >= 20
        assert status("rita:guess", "2001:db8:1:3::1") == 401
