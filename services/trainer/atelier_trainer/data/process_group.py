"""The processes of one training, as much of accelerate's Accelerator as the trainer uses."""

from __future__ import annotations

from typing import Protocol

import torch


class ProcessGroup(Protocol):
    @property
    def process_index(self) -> int:
        """0 in the main process."""

    @property
    def num_processes(self) -> int: ...

    def wait_for_everyone(self) -> None:
        """Returns once every process has called it."""

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        """The `sum` or `mean` over all processes."""


class SingleProcess:
    process_index, num_processes = 0, 1

    def wait_for_everyone(self) -> None:
        pass

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        return tensor
