"""In which form an answer is given: what `Accept` likes best of what there is."""

from __future__ import annotations

from collections.abc import Sequence

from atelier_infer.errors import FormatError


def best_of(accept: str, offered: Sequence[str]) -> str:
    """The offered media type of the highest quality; of equals the first offered.

    Raises:
        FormatError: the header accepts none.

    Source: RFC 9110 section 12.5.1.
    """
    if not accept.strip():
        return offered[0]
    ranges = [_parsed(part) for part in accept.split(",") if part.strip()]
    best = max(offered, key=lambda media: _quality(media, ranges))
    if _quality(best, ranges) <= 0:
        raise FormatError(f"Accept must allow one of {', '.join(offered)} for this request; received {accept[:200]!r}")
    return best


def _parsed(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        return media, float(quality)
    except ValueError:
        return media, 0.0


def _quality(media: str, ranges: list[tuple[str, float]]) -> float:
    """Of the most specific range that matches."""
    for pattern in (media, media.split("/")[0] + "/*", "*/*"):
        for name, quality in ranges:
            if name == pattern:
                return quality
    return 0.0
