"""The families of base models that can be trained and exported."""

from __future__ import annotations

from atelier_trainer.families.family import Family
from atelier_trainer.families.sd import SD
from atelier_trainer.families.sdxl import SDXL

FAMILIES: dict[str, Family] = {family.name: family for family in (SD, SDXL)}
"""By the name in bundle.json."""
