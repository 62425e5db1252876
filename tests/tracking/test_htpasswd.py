"""Parsing of HTPASSWD."""

from __future__ import annotations

import pytest
from atelier_tracking.errors import LoginsError
from atelier_tracking.htpasswd import parse_logins

APR1 = "$apr1$abcdefgh$0123456789012345678901"
BCRYPT = "$2y$10$" + "a" * 53
SHA256 = "$5$rounds=5000$salt$" + "a" * 43
SHA512 = "$6$salt$" + "a" * 86


@pytest.mark.parametrize("hashed", [APR1, BCRYPT, BCRYPT.replace("2y", "2b"), SHA256, SHA512])
@pytest.mark.parametrize("doubled", [False, True])
def test_hashes_with_single_and_doubled_dollars(hashed: str, doubled: bool) -> None:
    line = "ada:" + (hashed.replace("$", "$$") if doubled else hashed)
    assert [(login.user, login.hash) for login in parse_logins(line)] == [("ada", hashed)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\\n"])
def test_several_users(end: str) -> None:
    text = end.join(["# people", f"ada:{APR1}", "", f"bea@example.org:{BCRYPT}"])
    assert [login.user for login in parse_logins(text)] == ["ada", "bea@example.org"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at least one user:hash line"),
        ("ada", "a line without a colon"),
        (f"a b:{APR1}", "received user 'a b'"),
        (f"#:{APR1}\n:{APR1}", "line 2.*received user ''"),
        ("ada:", "the hash is incomplete"),
        ("ada:plain", "incomplete or a plain password"),
        ("ada:" + APR1[:-1], "the hash is incomplete"),
        ("ada:$apr1$salt", "write every \\$ of the hash as \\$\\$"),
        ("ada:.Kvxyz", "write every \\$ of the hash as \\$\\$"),
        ("ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "the scheme {SHA} is not supported"),
        ("ada:$y$j9T$abc$def", "the scheme \\$y\\$ is not supported"),
        ("ada:$2y$13$" + "a" * 53, "cost must be 12 at most; received 13"),
        ("ada:$6$rounds=900000$salt$" + "a" * 86, "rounds must be 500000 at most; received 900000"),
        (f"ada:{APR1}\nada:{BCRYPT}", "line 2: user ada is listed twice"),
        (f"ada:{APR1}\nADA:{BCRYPT}", "differs from ada only in upper and lower case"),
    ],
)
def test_a_malformed_line_is_refused(text: str, words: str) -> None:
    with pytest.raises(LoginsError, match=words) as error:
        parse_logins(text)
    assert "0123456789" not in str(error.value) and "aaaa" not in str(error.value)


def test_all_problems_are_reported() -> None:
    with pytest.raises(LoginsError) as error:
        parse_logins(f"ada\nbea:x\nada:{APR1}\nada:{APR1}")
    assert len(error.value.problems) == 3
