"""Input and output of prompt_fidelity: folders of images, the contact sheet, the machine that was measured."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from atelier_trainer.synthetic.scenes.scene import KINDS
from PIL import Image, ImageDraw, ImageFont

_GREEN, _RED = (46, 160, 67), (207, 34, 46)
_BORDER, _GAP, _LINE, _LINES = 4, 6, 12, 5  # pixels, and lines of text under an image
_MOST_SIDE = 160  # larger images are shown reduced
_PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy", "pillow")


@dataclass(frozen=True)
class JudgedImage:
    """An image, its prompt, the kinds that the prompt names, the kinds detected, and whether that is a hit."""

    image: Image.Image
    text: str
    kinds: frozenset[str]
    detected: frozenset[str]
    is_hit: bool


def contact_sheet(results: Sequence[JudgedImage], columns: int = 10) -> Image.Image:
    """Images in rows with their prompts below, framed green for a hit and red for a miss, and for a miss what was detected."""
    side = min(_MOST_SIDE, max(one.image.width for one in results))
    wide, high = side + 2 * _BORDER + _GAP, side + 2 * _BORDER + _GAP + _LINES * _LINE
    rows = -(-len(results) // columns)
    whole = Image.new("RGB", (columns * wide + _GAP, rows * high + _GAP), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(size=10)
    for k, one in enumerate(results):
        x, y = _GAP + k % columns * wide, _GAP + k // columns * high
        whole.paste(_GREEN if one.is_hit else _RED, (x, y, x + side + 2 * _BORDER, y + side + 2 * _BORDER))
        whole.paste(one.image.resize((side, side)), (x + _BORDER, y + _BORDER))
        lines = textwrap.wrap(one.text, side // 5)[: _LINES - 1]
        if not one.is_hit:
            lines.append(f"detected: {', '.join(sorted(one.detected)) or 'nothing'}")
        for number, line in enumerate(lines):
            ink = _RED if line.startswith("detected: ") else "black"
            draw.text((x, y + side + 2 * _BORDER + 1 + number * _LINE), line, fill=ink, font=font)
    return whole


def read_images(folder: Path) -> list[tuple[Image.Image, str, frozenset[str]]]:
    """Images from elsewhere: PNG files named in prompts.jsonl by lines with file_name, text and kinds.

    Raises:
        ValueError: a line lacks a field, names an unknown kind or no kind.
    """
    rows = []
    for number, line in enumerate((folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        missing = {"file_name", "text", "kinds"} - set(row)
        kinds = frozenset(row.get("kinds", ()))
        if missing or not kinds or not kinds <= set(KINDS):
            raise ValueError(
                f"prompts.jsonl line {number} must have file_name, text and kinds, one or more of {', '.join(KINDS)}; "
                f"received {line!r}: correct the line"
            )
        with Image.open(folder / row["file_name"]) as opened:
            rows.append((opened.convert("RGB"), row["text"], kinds))
    return rows


def write_images(folder: Path, rows: Iterable[tuple[Image.Image, str, frozenset[str]]]) -> None:
    """The layout that `read_images` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "prompts.jsonl").open("w", encoding="utf-8") as lines:
        for index, (image, text, kinds) in enumerate(rows):
            image.save(folder / f"{index:04d}.png")
            lines.write(json.dumps({"file_name": f"{index:04d}.png", "text": text, "kinds": sorted(kinds)}) + "\n")


def machine() -> dict[str, str | int]:
    """The machine that was measured."""
    names = [line.split(":", 1)[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "system": platform.platform(),
    }


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the figures depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def command_line(argv: Sequence[str] | None) -> str:
    """The command that reproduces the figures."""
    return shlex.join(["python", "benchmarks/prompt_fidelity.py", *(sys.argv[1:] if argv is None else argv)])


def file_digest(file: Path) -> str | None:
    """The file's sha256; None where there is no such file."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
