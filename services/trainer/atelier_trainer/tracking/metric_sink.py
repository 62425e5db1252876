"""Destinations of a training's curves and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from PIL import Image


class MetricSink(Protocol):
    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one optimizer step."""

    def log_image(self, image: Image.Image, key: str, step: int) -> None:
        """An image of the validation prompt."""

    def close(self) -> object:
        """Called after the last value."""
