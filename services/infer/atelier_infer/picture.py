"""The answer: a PNG that says how it was drawn, and headers that say the same."""

from __future__ import annotations

from io import BytesIO
from urllib.parse import quote

from atelier_contracts import names
from atelier_contracts.generate import Drawn
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from atelier_infer.drawing import Pixels


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


def headers(drawn: Drawn, warnings: list[str]) -> dict[str, str]:
    """Response headers, ASCII only: other characters of the model's name are percent-encoded."""
    found = {
        names.HEADER_MODEL: quote(drawn.model, safe=" !#$&'()*+,/:;=?@[]"),
        names.HEADER_VERSION: drawn.version,
        names.HEADER_BUNDLE: drawn.bundle_digest,
        names.HEADER_SEED: str(drawn.seed),
    }
    if drawn.adapter_digest:
        found[names.HEADER_ADAPTER] = drawn.adapter_digest
    if warnings:
        found["Warning"] = ", ".join(f'299 - "{warning}"' for warning in warnings)
    return found
