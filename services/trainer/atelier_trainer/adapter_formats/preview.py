"""Previews: small pictures of a style. Foreign ones are decoded within limits and encoded anew, so none of their bytes stay."""

from __future__ import annotations

import base64
import binascii
import re
from io import BytesIO

from atelier_contracts.styles import MAX_PREVIEW_BYTES, MAX_PREVIEW_SIDE_PX
from PIL import Image

from atelier_trainer.errors import PreviewError

MAX_SOURCE_BYTES, MAX_SOURCE_SIDE_PX = 8 * 2**20, 4096
THUMBNAIL_SIDE_PX, QUALITY = 256, 85
FORMATS = ("PNG", "JPEG", "WEBP")
DATA_URI = re.compile(r"data:image/(?:png|jpeg|jpg|webp);base64,", re.IGNORECASE)


def make_preview(content: bytes) -> bytes:
    """A picture as it is kept with a version: WebP without metadata, each side at most MAX_PREVIEW_SIDE_PX.

    Raises:
        PreviewError: it is no PNG, JPEG or WebP, is damaged, or is too large.
    """
    if len(content) > MAX_SOURCE_BYTES:
        raise PreviewError(f"it may have at most {MAX_SOURCE_BYTES} bytes; received {len(content)}")
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
        if max(image.size) > MAX_SOURCE_SIDE_PX:  # before the pixels are decompressed
            raise PreviewError(f"a side may have at most {MAX_SOURCE_SIDE_PX} px; received {image.width} x {image.height}")
        return encode_preview(image)
    except PreviewError:
        raise
    except Exception as error:  # decoders raise errors of many types for hostile files
        raise PreviewError(f"it must be a PNG, JPEG or WebP; it cannot be decoded ({type(error).__name__})") from error


def encode_preview(image: Image.Image) -> bytes:
    """The same image gives the same bytes; transparent parts become white."""
    layer = image.convert("RGBA")
    opaque = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    opaque.thumbnail((MAX_PREVIEW_SIDE_PX, MAX_PREVIEW_SIDE_PX), Image.Resampling.LANCZOS)
    stream = BytesIO()
    opaque.save(stream, "webp", quality=QUALITY)
    assert stream.tell() <= MAX_PREVIEW_BYTES  # a lossy WebP of this size has at most 2 bytes per pixel
    return stream.getvalue()


def read_thumbnail(data_uri: str) -> bytes:
    """A preview from `modelspec.thumbnail`.

    Raises:
        PreviewError: it is no data URI of an image in base64, or `make_preview` refuses it.
    """
    start = DATA_URI.match(data_uri)
    if start is None:
        raise PreviewError(f"it must be a data URI of a PNG, JPEG or WebP in base64; received {data_uri[:40]!r}")
    if len(data_uri) > MAX_SOURCE_BYTES * 4 // 3 + 100:
        raise PreviewError(f"it may have at most {MAX_SOURCE_BYTES} bytes; received about {len(data_uri) * 3 // 4}")
    try:
        content = base64.b64decode(data_uri[start.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise PreviewError("its base64 is damaged") from error
    return make_preview(content)


def write_thumbnail(preview: bytes) -> str:
    """`modelspec.thumbnail`: a JPEG as a data URI, which ModelSpec recommends to have 256 px a side."""
    image = Image.open(BytesIO(preview), formats=("WEBP",)).convert("RGB")
    image.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX), Image.Resampling.LANCZOS)
    stream = BytesIO()
    image.save(stream, "jpeg", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
