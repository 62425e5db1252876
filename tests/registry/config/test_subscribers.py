"""The file of subscribers: what is legal, and that every problem is told at once."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from atelier_registry.config.subscribers import read_subscribers
from atelier_registry.errors import SubscribersError


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of subscribers beside a good secret."""
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(bytes(32)).decode() + "\n")

    def write(text: str) -> Path:
        file = tmp_path / "subscribers.yaml"
        file.write_text(text.replace("SECRET", str(tmp_path / "secret")))
        return file

    return write


GOOD = "{name: ci, url: 'https://ci.example.com/hooks', secret_file: SECRET}"


def test_a_valid_file_is_read(written: Callable[..., Path]) -> None:
    [one, other] = read_subscribers(
        written(f"subscribers:\n- {GOOD}\n- {GOOD[:-1].replace('ci,', 'page,')}, models: [pencil], give_up_h: 1}}\n")
    )
    assert (one.name, one.url, one.models, one.aliases, one.timeout_s, one.give_up_h) == (
        "ci", "https://ci.example.com/hooks", None, None, 10, 72
    )  # fmt: skip
    assert (other.name, other.models, other.give_up_h) == ("page", ["pencil"], 1)
    assert read_subscribers(written("subscribers: []\n")) == []


def refused(file: Path) -> str:
    with pytest.raises(SubscribersError) as caught:
        read_subscribers(file)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("subscribers: [", "is not YAML"),
        ("- 1", "must be a mapping with `subscribers`; received list"),
        ("subscribers: 3", "subscribers: Input should be a valid list; received 3"),
        ("{}", "subscribers: is required"),
        (f"subscribers: [{GOOD}, {GOOD}]", "names must be unique; received twice: ci"),
        ("subscribers: [{name: CI!, url: 'https://a/', secret_file: SECRET}]", "received 'CI!'"),
        ("subscribers: [{name: ci, url: 'ftp://a/', secret_file: SECRET}]", "must be a URL such as https://"),
        ("subscribers: [{name: ci, url: 'https://me:pw@a/', secret_file: SECRET}]", "without a login"),
        (f"subscribers: [{GOOD[:-1]}, timeout_s: 0}}]", "timeout_s: Input should be greater than 0; received 0"),
        (f"subscribers: [{GOOD[:-1]}, retries: 3}}]", "subscribers.0.retries: unknown field"),
        (f"subscribers: [{GOOD[:-1]}, name: cd}}]", "the key 'name' occurs twice"),
        ("subscribers: [{name: ci, url: 'https://a/', secret_file: /no/such}]", "secret_file: cannot be read"),
    ],
)
def test_what_is_refused(written: Callable[..., Path], text: str, told: str) -> None:
    assert told in refused(written(text))


def test_all_problems_are_reported_at_once(written: Callable[..., Path]) -> None:
    told = refused(written("subscribers: [{name: 3, url: x, secret_file: /no/such, models: []}]"))
    for field in ("name", "url", "secret_file", "models"):
        assert f"subscribers.0.{field}: " in told


@pytest.mark.parametrize("text", ["", "plain", "whsec_", "whsec_AAAA", "whsec_not base64!", "whsec_" + "A" * 400, "\xff"])
def test_an_invalid_secret_is_not_revealed(written: Callable[..., Path], tmp_path: Path, text: str) -> None:
    file = written(f"subscribers: [{GOOD}]")
    (tmp_path / "secret").write_text(text, encoding="latin-1")
    told = refused(file)
    assert "secret_file: " in told
    assert text in ("", "whsec_") or text not in told
