"""Chooses the media type of a response by the `Accept` header."""

from __future__ import annotations

from collections.abc import Sequence

from atelier_infer.errors import NotAcceptableError


def negotiate(accept: str, offered: Sequence[str]) -> str:
    """The offered media type of the highest quality; the first of equals.

    Raises:
        NotAcceptableError: the header allows none.

    Source: RFC 9110 section 12.5.1.
    """
    if not accept.strip():
        return offered[0]
    ranges = [_parse(part) for part in accept.split(",") if part.strip()]
    best = max(offered, key=lambda media_type: _quality(media_type, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptableError(f"Accept must allow one of {', '.join(offered)} for this request; received {accept[:200]!r}")
    return best


def _parse(part: str) -> tuple[str, float]:
    media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        return media_type, float(quality)
    except ValueError:
        return media_type, 0.0


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """Of the most specific range that matches."""
    for pattern in (media_type, media_type.split("/")[0] + "/*", "*/*"):
        for name, quality in ranges:
            if name == pattern:
                return quality
    return 0.0
