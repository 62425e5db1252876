"""The families of base models that can be served."""

from __future__ import annotations

from atelier_infer.families.family import Family
from atelier_infer.families.sd import SD
from atelier_infer.families.sdxl import SDXL

FAMILIES: dict[str, Family] = {"sd": SD, "sdxl": SDXL}
"""By the name in bundle.json."""
