"""The body of every error response."""

from __future__ import annotations

from pydantic import BaseModel


class Problem(BaseModel):
    """An error's body, `application/problem+json`. Source: RFC 9457.

    Attributes:
        type: `/problems/<name>`: what a client tests; served without a token.
        title: the same for people.
        detail: the rule, the value received and what to do.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
