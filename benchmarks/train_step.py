"""Seconds per optimizer step and peak memory: a step from cached latents against one that encodes every image and caption.

Both train the same LoRA on the same base model in the same precision, alternating in one process; medians are compared. The
uncached step is that of a plain training script: VAE, text encoder, noise, UNet, loss, AdamW, all from diffusers' classes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import psutil
import torch
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions, OptimizationOptions
from atelier_trainer.data.encode import encode_texts
from atelier_trainer.data.encoded import CachedLatents, CaptionEmbeddings, EncodedDataset
from atelier_trainer.export import adapter
from atelier_trainer.families.family import Conditioning, unet_arguments
from atelier_trainer.objective import TrainingLoss, target
from atelier_trainer.tracking.journal import Journal
from torch.nn import functional as F

FORMATS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CAPTION = "a pencil sketch of a giraffe beside a tree"


class Benchmark:
    """One base model and batch size; every variant is a method that does one optimizer step."""

    def __init__(self, base: BaseModel, size_px: int, batch: int, precision: str, device: torch.device) -> None:
        self.base, self.size_px, self.batch, self.device = base, size_px, batch, device
        self.dtype, self.mixed = FORMATS[precision], precision != "no"
        (part,) = base.family.text_encoders
        self.vae, self.tokenizer, self.text_encoder = base.load_vae(), base.load_tokenizer(part), base.load_text_encoder(part)
        side = size_px // base.vae_factor
        channels = base.config("vae")["latent_channels"]
        generator = torch.Generator().manual_seed(0)
        mean = torch.randn(batch, 1, channels, side, side, generator=generator)
        scale = float(base.config("vae")["scaling_factor"])
        self.latents = CachedLatents(mean, torch.full_like(mean, 0.1), torch.zeros(batch, 1, 4), scale)
        (states,) = encode_texts(part, self.tokenizer, self.text_encoder, ["", CAPTION])
        self.captions = CaptionEmbeddings({"encoder_hidden_states": states}, torch.ones(batch, dtype=torch.long))
        self.pixels = torch.rand(batch, 3, size_px, size_px, generator=generator) * 2 - 1
        self.unet, self.compiled = base.load_unet().to(device, self.dtype), None
        self.parameters = adapter.inject_lora(self.unet, 8, 8.0)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)
        self.generator = torch.Generator().manual_seed(1)
        self.training_loss = TrainingLoss(
            OptimizationOptions(caption_dropout=0.1), base.noise_schedule, EncodedDataset(self.latents, self.captions), device
        )
        for part in (self.vae, self.text_encoder):
            part.to(device, self.dtype)

    def predict(self, noisy: torch.Tensor, times: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The UNet's prediction in its precision."""
        return self._call(self.unet, noisy, times, conditioning)

    def predict_compiled(self, noisy: torch.Tensor, times: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The same UNet through torch.compile, which compiles it at the first call."""
        if self.compiled is None:
            self.compiled = torch.compile(self.unet)
        return self._call(self.compiled, noisy, times, conditioning)

    def _call(self, unet: Any, noisy: torch.Tensor, times: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """One forward pass, with autocast where the precision is mixed."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.mixed):
            predicted: torch.Tensor = unet(noisy, times, **unet_arguments(conditioning)).sample
        return predicted

    def cached(self) -> None:
        """A step of atelier_trainer, from cached latents and text states."""
        self.optimize(self.training_loss(self.predict, torch.arange(self.batch), self.generator))

    def cached_compiled(self) -> None:
        """The same with --torch_compile."""
        self.optimize(self.training_loss(self.predict_compiled, torch.arange(self.batch), self.generator))

    def uncached(self) -> None:
        """A step that encodes images and captions first."""
        self.optimize(self.loss_of_uncached(True, True))

    def without_vae(self) -> None:
        """Only the text is encoded at each step."""
        self.optimize(self.loss_of_uncached(False, True))

    def without_text(self) -> None:
        """Only the images are encoded at each step."""
        self.optimize(self.loss_of_uncached(True, False))

    def loss_of_uncached(self, vae: bool, text: bool) -> torch.Tensor:
        """The loss of a step that runs VAE or text encoder, or both."""
        latents = self.latents.sample(torch.arange(self.batch), self.generator).latents.to(self.device)
        states = self.captions.of_images(torch.arange(self.batch))["encoder_hidden_states"].to(self.device)
        with torch.no_grad():
            if vae:
                posterior = self.vae.encode(self.pixels.to(self.device, self.dtype)).latent_dist
                latents = posterior.sample().float() * self.vae.config.scaling_factor
            if text:
                tokens = self.tokenizer(
                    [CAPTION] * self.batch, padding="max_length", truncation=True, return_tensors="pt"
                ).input_ids
                states = self.text_encoder(tokens.to(self.device)).last_hidden_state
        noise = torch.randn(latents.shape, generator=self.generator).to(self.device)
        times = torch.randint(0, 1000, (self.batch,), generator=self.generator)
        noisy = self.base.noise_schedule.add_noise(latents.cpu(), noise.cpu(), times).to(self.device)
        expected = target(self.base.noise_schedule, latents.cpu(), noise.cpu(), times).to(self.device)
        return F.mse_loss(self.predict(noisy, times.to(self.device), {"encoder_hidden_states": states}).float(), expected)

    def optimize(self, loss: torch.Tensor) -> None:
        """Backward and AdamW."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def forward_only(self) -> None:
        """The UNet's forward pass alone, without gradients: where the time goes."""
        with torch.no_grad():
            side = self.size_px // self.base.vae_factor
            noisy = torch.randn(self.batch, self.latents.mean.shape[2], side, side, device=self.device)
            states = self.captions.of_images(torch.arange(self.batch))["encoder_hidden_states"].to(self.device)
            self.predict(
                noisy, torch.zeros(self.batch, dtype=torch.long, device=self.device), {"encoder_hidden_states": states}
            )


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """One call."""
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(benchmark: Benchmark, names: list[str], repeats: int) -> dict[str, float]:
    """Median seconds of each variant; the variants alternate, so that a busy machine slows all alike."""
    steps = {name: getattr(benchmark, name) for name in names}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(seconds(step, benchmark.device))
    return {name: statistics.median(values) for name, values in times.items()}


def journal_seconds(records: int = 2000) -> float:
    """Seconds that logging one step takes."""
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        started = time.perf_counter()
        for step in range(records):
            journal.add_metrics(step, {"loss": 0.1, "ema_loss": 0.1, "learning_rate": 1e-4})
        spent = (time.perf_counter() - started) / records
        journal.close()
    return spent


def resident_mib() -> float:
    """Resident memory, after the allocator has returned its free pages."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    return float(psutil.Process().memory_info().rss / 2**20)


def main() -> int:
    """Prints a table; exits with 1 where the cached step is less than --min-ratio times as fast."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--base", required=True, help="diffusers folder: `python -m atelier_trainer base OUT --architecture sd21 --random`"
    )
    parser.add_argument("--size", type=int, default=256, help="px")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--mixed_precision", choices=tuple(FORMATS), default="bf16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--torch_compile", action="store_true", help="also measure the cached step compiled")
    parser.add_argument("--min-ratio", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = load_base_model(ModelOptions(pretrained_model_name_or_path=args.base))
    logging_s, rows, worst = journal_seconds(), [], float("inf")
    for batch in args.batch:
        benchmark = Benchmark(base, args.size, batch, args.mixed_precision, device)
        names = ["cached", "uncached", "without_vae", "without_text", "forward_only"]
        names += ["cached_compiled"] * args.torch_compile
        row: dict[str, Any] = {"batch": batch, **measure(benchmark, names, args.repeats)}
        row["ratio"] = row["uncached"] / row["cached"]
        row["images_per_s"] = batch / row["cached"]
        row["logging_share"] = logging_s / row["cached"]
        row["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        row["rss_with_vae_and_text_mib"] = resident_mib()
        benchmark.vae = benchmark.text_encoder = None
        row["rss_without_vae_and_text_mib"] = resident_mib()
        if device.type == "cuda":
            row["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
            torch.cuda.reset_peak_memory_stats()
        rows.append(row)
        worst = min(worst, row["ratio"])
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
        del benchmark
        gc.collect()
    report = {
        "command": " ".join(sys.argv),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "rows": rows,
    }
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2))
    if worst < args.min_ratio:
        print(f"the cached step is {worst:.2f} times as fast, less than {args.min_ratio}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
