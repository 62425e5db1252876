"""Schedulers in NumPy: one file each, one object per image."""

from __future__ import annotations

from atelier_contracts.styles import SchedulerName

from atelier_infer.arrays import Array
from atelier_infer.pipeline.schedulers.base import Scheduler
from atelier_infer.pipeline.schedulers.ddim import Ddim
from atelier_infer.pipeline.schedulers.dpm_solver import DpmSolver2MKarras
from atelier_infer.pipeline.schedulers.euler import Euler
from atelier_infer.pipeline.schedulers.euler_ancestral import EulerAncestral
from atelier_infer.pipeline.schedulers.schedule import NoiseSchedule

__all__ = ["Array", "NoiseSchedule", "Scheduler", "SchedulerName", "make_scheduler"]

_CLASSES: dict[SchedulerName, type[Scheduler]] = {"ddim": Ddim, "euler": Euler, "dpmpp_2m_karras": DpmSolver2MKarras}


def make_scheduler(name: SchedulerName, schedule: NoiseSchedule, steps: int, seed: int = 0) -> Scheduler:
    """`seed` matters only to a scheduler that adds noise."""
    if name == "euler_ancestral":
        return EulerAncestral(schedule, steps, seed)
    return _CLASSES[name](schedule, steps)
