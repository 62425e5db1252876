"""The contact sheet: one row per prompt, the base model's image on the left, the version's on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

IMAGE_PX, GAP_PX, TEXT_PX, HEADING_PX = 160, 12, 230, 40
PAPER, INK = (255, 255, 255), (40, 40, 40)


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], headings: Sequence[str], out: Path) -> None:
    """Arranges prompts and images in a table; the file is written atomically.

    Args:
        rows: prompt and its images, one per heading, of any size; shown at IMAGE_PX.
        headings: of the columns.
        out: PNG file.
    """
    column = IMAGE_PX + GAP_PX
    sheet = Image.new("RGB", (TEXT_PX + len(headings) * column + GAP_PX, HEADING_PX + len(rows) * column + GAP_PX), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for number, heading in enumerate(headings):
        draw.text((TEXT_PX + number * column + IMAGE_PX // 2, HEADING_PX // 2), heading, INK, font, anchor="mm")
    for number, (prompt, images) in enumerate(rows):
        top = HEADING_PX + number * column
        draw.multiline_text((GAP_PX, top + IMAGE_PX // 2), _wrap(prompt, font), INK, font, anchor="lm", spacing=6)
        for index, image in enumerate(images):
            resized = image.convert("RGB").resize((IMAGE_PX, IMAGE_PX), Image.Resampling.LANCZOS)
            sheet.paste(resized, (TEXT_PX + index * column, top))
    partial = out.with_suffix(".part")
    sheet.save(partial, "PNG")
    partial.replace(out)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > TEXT_PX - 2 * GAP_PX and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
