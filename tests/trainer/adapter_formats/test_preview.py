"""A preview is always a small WebP of our own encoder; what cannot become one is refused before it costs memory."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from atelier_trainer.adapter_formats.preview import MAX_SOURCE_BYTES, make_preview, read_thumbnail, write_thumbnail
from atelier_trainer.errors import PreviewError
from PIL import Image


def picture(format: str, size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: Any) -> bytes:
    stream = BytesIO()
    Image.new(mode, size, (200, 30, 30, 128)[: len(mode)]).save(stream, format, **options)
    return stream.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(BytesIO(content))


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_picture_becomes_a_webp_without_metadata(format: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    content = picture(format, exif=exif)
    preview = make_preview(content)
    assert b"secret place" in content and b"secret place" not in preview
    assert (opened(preview).format, opened(preview).size) == ("WEBP", (64, 48))
    assert preview == make_preview(content), "the same picture gives the same bytes"


def test_a_large_picture_is_made_smaller_and_keeps_its_proportions() -> None:
    assert opened(make_preview(picture("png", (2000, 1000)))).size == (512, 256)


def test_transparent_parts_become_white() -> None:
    stream = BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(stream, "png")
    assert np.asarray(opened(make_preview(stream.getvalue()))).min() >= 250


def bomb() -> bytes:
    """A PNG of a kilobyte that says it has 30000 pixels a side."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + chunk(b"IEND", b"")


HOSTILE = {
    "nothing": (b"", "it must be a PNG, JPEG or WebP"),
    "a script": (b"<svg onload='alert(1)'/>", "it must be a PNG, JPEG or WebP"),
    "another format": (picture("gif"), "it must be a PNG, JPEG or WebP"),
    "cut short": (picture("png", (300, 300))[:90], "it cannot be decoded"),
    "many pixels": (bomb(), "a side may have at most 4096 px; received 30000 x 30000|it cannot be decoded"),
    "long": (b"\x89PNG" + bytes(MAX_SOURCE_BYTES), f"it may have at most {MAX_SOURCE_BYTES} bytes; received"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_picture_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(PreviewError, match=message):
        make_preview(content)
    with pytest.raises(PreviewError, match="it"):
        read_thumbnail("data:image/png;base64," + base64.b64encode(content).decode())


@pytest.mark.parametrize("text", ["https://example.org/a.png", "data:text/html;base64,PGI+", "data:image/png;base64,???", "x"])
def test_only_a_data_uri_of_a_picture_is_a_thumbnail(text: str) -> None:
    with pytest.raises(PreviewError):
        read_thumbnail(text)


def test_an_exported_thumbnail_can_be_read_again() -> None:
    text = write_thumbnail(make_preview(picture("png", (600, 300))))
    assert text.startswith("data:image/jpeg;base64,")
    assert opened(base64.b64decode(text.partition(",")[2])).size == (256, 128)
    assert opened(read_thumbnail(text)).size == (256, 128)
