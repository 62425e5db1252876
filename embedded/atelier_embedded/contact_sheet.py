"""The contact sheet: one row per prompt, base on the left, tuned on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

IMAGE_PX, GAP_PX, TEXT_PX, HEAD_PX = 160, 12, 230, 40
PAPER, INK = (255, 255, 255), (40, 40, 40)


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], heads: Sequence[str], out: Path) -> None:
    """Draws prompts and images as a table and writes it whole or not at all.

    Args:
        rows: prompt and its images, as many as there are heads; any size, shown at IMAGE_PX.
        heads: names of the columns.
        out: PNG file.
    """
    column = IMAGE_PX + GAP_PX
    sheet = Image.new("RGB", (TEXT_PX + len(heads) * column + GAP_PX, HEAD_PX + len(rows) * column + GAP_PX), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for number, head in enumerate(heads):
        pen.text((TEXT_PX + number * column + IMAGE_PX // 2, HEAD_PX // 2), head, INK, font, anchor="mm")
    for number, (prompt, images) in enumerate(rows):
        top = HEAD_PX + number * column
        pen.multiline_text((GAP_PX, top + IMAGE_PX // 2), _wrapped(prompt, font), INK, font, anchor="lm", spacing=6)
        for place, image in enumerate(images):
            shown = image.convert("RGB").resize((IMAGE_PX, IMAGE_PX), Image.Resampling.LANCZOS)
            sheet.paste(shown, (TEXT_PX + place * column, top))
    partial = out.with_suffix(".part")
    sheet.save(partial, "PNG")
    partial.replace(out)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > TEXT_PX - 2 * GAP_PX and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
