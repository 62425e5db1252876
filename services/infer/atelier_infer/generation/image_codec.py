"""Images as bytes with their generation metadata inside, and response headers with the same metadata."""

from __future__ import annotations

import json
from io import BytesIO
from urllib.parse import quote

import numpy as np
from atelier_contracts import names
from atelier_contracts.generate import GenerationMetadata
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo
from pydantic import ValidationError

from atelier_infer.errors import InvalidImageError
from atelier_infer.pipeline.vae_decode import Pixels

PNG, WEBP, JSON = "image/png", "image/webp", "application/json"

IMAGE_DESCRIPTION = 0x010E
"""EXIF tag that holds in a WebP what the text chunk holds in a PNG."""

PREVIEW_QUALITY = 70

HEADER_SAFE = " !#$&'()*+,/:;=?@[]"
"""Characters that are not percent-encoded in headers, besides letters and digits."""


def encode_png(pixels: Pixels, metadata: GenerationMetadata) -> bytes:
    """Equal input gives equal bytes.

    Args:
        pixels: uint8 [height, width, 3], RGB.
        metadata: stored as JSON in a text chunk.
    """
    text = PngInfo()
    absent = set() if metadata.recommended else {"recommended"}  # so that an image without one is what it always was
    text.add_itxt(names.PNG_TEXT, metadata.model_dump_json(exclude=absent))  # an international text chunk is UTF-8
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "png", pnginfo=text)
    return stream.getvalue()


def png_to_webp(png: bytes) -> bytes:
    """Lossless, with the same metadata; EXIF requires ASCII."""
    image = Image.open(BytesIO(png))
    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION] = json.dumps(json.loads(_metadata_text(image)), ensure_ascii=True)
    stream = BytesIO()
    image.save(stream, "webp", lossless=True, exif=exif)
    return stream.getvalue()


def encode_preview(pixels: Pixels) -> bytes:
    """A lossy WebP without metadata."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "webp", quality=PREVIEW_QUALITY)
    return stream.getvalue()


def read_image(content: bytes, max_side_px: int) -> tuple[GenerationMetadata, Pixels]:
    """Metadata and pixels of a PNG or WebP made by this service.

    Raises:
        InvalidImageError: it is something else, is too large, or has no metadata.
    """
    try:
        image = Image.open(BytesIO(content), formats=("PNG", "WEBP"))
        if max(image.size) > max_side_px:  # before the pixels are decompressed
            raise InvalidImageError(f"a side must be at most {max_side_px} px; received {image.width} x {image.height}")
        metadata = GenerationMetadata.model_validate_json(_metadata_text(image))
        pixels = np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise InvalidImageError(f"a side must be at most {max_side_px} px; received a much larger image") from error
    except (UnidentifiedImageError, OSError, SyntaxError, KeyError, ValueError, ValidationError) as error:
        raise InvalidImageError(
            f"the body must be a PNG or WebP made by this service, with its metadata {names.PNG_TEXT!r} inside; received "
            f"{len(content)} bytes that are not ({type(error).__name__}); send the file as it was downloaded"
        ) from error
    return metadata, pixels


def is_blank(pixels: Pixels) -> bool:
    """Whether the values of each channel lie within two levels of each other."""
    return bool((np.ptp(pixels, axis=(0, 1)) <= 2).all())


def headers(metadata: GenerationMetadata, warnings: list[str], alias: str | None) -> dict[str, str]:
    """ASCII only: other characters of the model's name and the alias are percent-encoded."""
    values = {
        names.HEADER_MODEL: quote(metadata.model, safe=HEADER_SAFE),
        names.HEADER_VERSION: metadata.version,
        names.HEADER_BUNDLE: metadata.bundle_digest,
        names.HEADER_SEED: str(metadata.seed),
    }
    if metadata.adapter_digest:
        values[names.HEADER_ADAPTER] = metadata.adapter_digest
    if alias:
        values[names.HEADER_ALIAS] = quote(alias, safe=HEADER_SAFE)
    if warnings:
        values["Warning"] = ", ".join(f'299 - "{warning}"' for warning in warnings)
    return values


def _metadata_text(image: Image.Image) -> str:
    if isinstance(image, PngImageFile):
        return str(image.text[names.PNG_TEXT])
    return str(image.getexif()[IMAGE_DESCRIPTION])
