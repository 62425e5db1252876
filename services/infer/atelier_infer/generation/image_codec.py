"""Images as bytes that say how they were drawn, and headers that say the same."""

from __future__ import annotations

import json
from io import BytesIO
from urllib.parse import quote

import numpy as np
from atelier_contracts import names
from atelier_contracts.generate import Drawn
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo
from pydantic import ValidationError

from atelier_infer.errors import ImageError
from atelier_infer.pipeline.vae_decode import Pixels

PNG, WEBP, JSON = "image/png", "image/webp", "application/json"

DESCRIPTION = 0x010E
"""EXIF's ImageDescription, which holds in a WebP what the text chunk holds in a PNG."""

PREVIEW_QUALITY = 70

PLAIN = " !#$&'()*+,/:;=?@[]"
"""Characters that a header holds as they are, beside letters and digits."""


def png_bytes(pixels: Pixels, drawn: Drawn) -> bytes:
    """A PNG with `drawn` as JSON in its text; the same input gives the same bytes.

    Args:
        pixels: uint8 [height, width, 3], RGB.
        drawn: what it was drawn with.
    """
    text = PngInfo()
    text.add_itxt(names.PNG_TEXT, drawn.model_dump_json())  # UTF-8, unlike a plain text chunk
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "png", pnginfo=text)
    return stream.getvalue()


def webp_bytes(png: bytes) -> bytes:
    """The same pixels as a lossless WebP with the same text, which EXIF wants in ASCII."""
    image = Image.open(BytesIO(png))
    exif = Image.Exif()
    exif[DESCRIPTION] = json.dumps(json.loads(_text(image)), ensure_ascii=True)
    stream = BytesIO()
    image.save(stream, "webp", lossless=True, exif=exif)
    return stream.getvalue()


def preview_bytes(pixels: Pixels) -> bytes:
    """A small WebP without text, with losses."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "webp", quality=PREVIEW_QUALITY)
    return stream.getvalue()


def read_image(content: bytes, max_side_px: int) -> tuple[Drawn, Pixels]:
    """What a PNG or WebP of ours says of itself, and its pixels.

    Raises:
        ImageError: it is neither, is too large, or has no text of ours.
    """
    try:
        image = Image.open(BytesIO(content), formats=("PNG", "WEBP"))
        if max(image.size) > max_side_px:  # looked at before the pixels are unpacked
            raise ImageError(f"a side must be at most {max_side_px} px; received {image.width} x {image.height}")
        drawn = Drawn.model_validate_json(_text(image))
        pixels = np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise ImageError(f"a side must be at most {max_side_px} px; received an image of far more") from error
    except (UnidentifiedImageError, OSError, SyntaxError, KeyError, ValueError, ValidationError) as error:
        raise ImageError(
            f"the body must be a PNG or WebP as this service draws them, with its text {names.PNG_TEXT!r} inside; "
            f"received {len(content)} bytes that are not: {type(error).__name__}; send the file as it was downloaded"
        ) from error
    return drawn, pixels


def blank(pixels: Pixels) -> bool:
    """Whether nothing is to be seen: every value within two levels of every other of its channel."""
    return bool((np.ptp(pixels, axis=(0, 1)) <= 2).all())


def headers(drawn: Drawn, warnings: list[str], alias: str | None) -> dict[str, str]:
    """Response headers, ASCII only: other characters of the model's name and the alias are percent-encoded."""
    found = {
        names.HEADER_MODEL: quote(drawn.model, safe=PLAIN),
        names.HEADER_VERSION: drawn.version,
        names.HEADER_BUNDLE: drawn.bundle_digest,
        names.HEADER_SEED: str(drawn.seed),
    }
    if drawn.adapter_digest:
        found[names.HEADER_ADAPTER] = drawn.adapter_digest
    if alias:
        found[names.HEADER_ALIAS] = quote(alias, safe=PLAIN)
    if warnings:
        found["Warning"] = ", ".join(f'299 - "{warning}"' for warning in warnings)
    return found


def _text(image: Image.Image) -> str:
    if isinstance(image, PngImageFile):
        return str(image.text[names.PNG_TEXT])
    return str(image.getexif()[DESCRIPTION])
