"""The families of base models that can be trained and exported."""

from __future__ import annotations

from atelier_trainer.families.family import Family
from atelier_trainer.families.sd import SD
from atelier_trainer.families.sdxl import SDXL

FAMILIES: tuple[Family, ...] = (SD, SDXL)
