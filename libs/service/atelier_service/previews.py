"""Previews of versions on their way to a browser: decoded within limits and encoded anew, so that no foreign byte is served."""

from __future__ import annotations

from io import BytesIO

from atelier_contracts.styles import MAX_PREVIEW_BYTES, MAX_PREVIEW_SIDE_PX
from PIL import Image

MEDIA_TYPE = "image/webp"
QUALITY = 85


class InvalidPreview(ValueError):
    """The bytes are no preview; the message says why."""


def reencode(content: bytes) -> bytes:
    """A WebP of the same picture, without metadata.

    Raises:
        InvalidPreview: it is no WebP, is damaged, or is too large.
    """
    if len(content) > MAX_PREVIEW_BYTES:
        raise InvalidPreview(f"a preview may have at most {MAX_PREVIEW_BYTES} bytes; received {len(content)}")
    try:
        image = Image.open(BytesIO(content), formats=("WEBP",))
        if max(image.size) <= MAX_PREVIEW_SIDE_PX:  # before the pixels are decompressed
            stream = BytesIO()
            image.convert("RGB").save(stream, "webp", quality=QUALITY)
            return stream.getvalue()
    except Exception as error:  # decoders raise errors of many types for hostile files
        raise InvalidPreview(f"a preview must be a WebP; it cannot be decoded ({type(error).__name__})") from error
    raise InvalidPreview(
        f"a side of a preview may have at most {MAX_PREVIEW_SIDE_PX} px; received {image.width} x {image.height}"
    )
