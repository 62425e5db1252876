"""Where webhooks may go."""

from __future__ import annotations

import pytest
from atelier_service.webhook_hosts import Origin, WebhookTarget, find_target, parse_hosts
from hypothesis import given
from hypothesis import strategies as st


def find(url: str, hosts: frozenset[Origin]) -> WebhookTarget:
    return find_target(url, hosts, field="webhook_url", setting="ATELIER_INFER_WEBHOOK_HOSTS")


HOSTS = parse_hosts("a.example, b.example:8443,http://worker,http://127.0.0.1:9000")


@pytest.mark.parametrize(
    ("url", "place", "path"),
    [
        ("https://a.example", ("https", "a.example", 443), "/"),
        ("https://A.Example:443/x?y=1", ("https", "a.example", 443), "/x?y=1"),
        ("HTTPS://b.example:8443/", ("https", "b.example", 8443), "/"),
        ("http://worker:80/a", ("http", "worker", 80), "/a"),
        ("http://127.0.0.1:9000/@a", ("http", "127.0.0.1", 9000), "/@a"),
    ],
)
def test_listed_hosts_are_allowed(url: str, place: tuple[str, str, int], path: str) -> None:
    assert find(url, HOSTS) == (place, path, url)


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example",
        "https://a.example:8443",
        "https://b.example",
        "https://worker",
        "https://x.a.example",
        "https://a.example.evil.example",
        "https://127.0.0.1",
        "http://localhost:9000",
    ],
)
def test_others_are_not(url: str) -> None:
    with pytest.raises(ValueError, match=r"must lead to a host that ATELIER_INFER_WEBHOOK_HOSTS lists.*received http"):
        find(url, HOSTS)
    with pytest.raises(ValueError):
        find(url, frozenset())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "//a.example/",
        "ftp://a.example",
        "https://",
        "https://user@a.example",
        "https://a.example@evil.example",
        "https://evil.example\\@a.example",
        "https://a.example\\.evil.example",
        "https://a.example#@evil.example",
        "https://a.example?x",
        "https://a.example:0",
        "https://a.example:99999",
        "https://a.example:",
        "https://a..example",
        "https://a.example.",
        "https://[::1]/",
        "https://a.example/ x",
        "https://a.example/\r\nHost: evil",
        "https://a.example/ä",
        "https://ａ.example/",
        "https://" + "a" * 64 + ".example",
        " https://a.example",
        "https://a.example\n",
    ],
)
def test_ambiguous_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be https://HOST\[:PORT\]\[/PATH\]"):
        find(url, HOSTS)


@given(st.text())
def test_nothing_else_gets_out(url: str) -> None:
    with pytest.raises(ValueError):
        find(url, HOSTS)


@pytest.mark.parametrize(
    "text", ["a.example,", "https://a.example", "a.example/x", "a b", "*.example", "A.example", "a:0", "u@a"]
)
def test_what_may_not_be_listed(text: str) -> None:
    with pytest.raises(ValueError, match="each entry must be HOST or HOST:PORT"):
        parse_hosts(text)
