"""Seconds per training step, alone and next to other trainings, for several settings of OpenMP's waiting threads.

A waiting thread of torch's OpenMP (GNU libgomp) spins before it sleeps. Next to other trainings it spins on a core that the
thread it waits for needs. The settings alternate for some rounds; --max-alone and --min-busy are bounds on the trainer's own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from atelier_trainer.__main__ import SPIN_COUNT

OPENMP_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
TRAINER = "trainer"
SETTINGS = {
    "default": {},
    TRAINER: {"GOMP_SPINCOUNT": SPIN_COUNT},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one_thread": {"OMP_NUM_THREADS": "1"},
}
BATCH, RANK, WARM_UP_STEPS = 16, 16, 2


def train(base: str, start: Path, seconds: float) -> list[float]:
    """Seconds of each optimizer step on random latents; starts when the file `start` appears."""
    import torch
    from atelier_trainer.base_models.load import load_base_model
    from atelier_trainer.config.option_groups import ModelOptions
    from atelier_trainer.export.adapter import inject_lora

    unet = load_base_model(ModelOptions(pretrained_model_name_or_path=base)).load_unet()
    optimizer = torch.optim.AdamW(inject_lora(unet, RANK, float(RANK)), lr=1e-4)
    config = unet.config
    latents = torch.randn(BATCH, config.in_channels, config.sample_size, config.sample_size)
    times, states = torch.randint(0, 1000, (BATCH,)), torch.randn(BATCH, 48, config.cross_attention_dim)
    durations: list[float] = []
    start.with_name(f"{os.getpid()}.loaded").touch()
    while not start.exists():
        time.sleep(0.01)
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(durations) <= WARM_UP_STEPS:
        started = time.perf_counter()
        unet(latents, times, states).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        durations.append(time.perf_counter() - started)
    return durations[WARM_UP_STEPS:]


def measure(base: str, processes: int, setting: dict[str, str], seconds: float, scratch: Path) -> float:
    """Median seconds per step over all processes, which start together."""
    for file in scratch.iterdir():
        file.unlink()
    start = scratch / "start"
    environment = {name: value for name, value in os.environ.items() if name not in OPENMP_VARIABLES} | setting
    command = [sys.executable, __file__, "--base", base, "--seconds", str(seconds), "--worker", str(start)]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    while len(list(scratch.glob("*.loaded"))) < processes:
        assert all(process.poll() is None for process in started), "a training ended before it was measured"
        time.sleep(0.1)
    start.touch()
    outputs = [process.communicate()[0] for process in started]
    return statistics.median(duration for output in outputs for duration in json.loads(output))  # type: ignore[no-any-return]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="models/tiny-sd", help="diffusers folder")
    parser.add_argument("--processes", type=int, default=4, help="trainings at a time (default: 4)")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each setting (default: 3)")
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--max-alone", type=float, default=1e9, help="exit 1 above this cost of the trainer's setting alone")
    parser.add_argument("--min-busy", type=float, default=0.0, help="exit 1 below this gain of the trainer's setting when busy")
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        print(json.dumps(train(args.base, args.worker, args.seconds)))
        return 0
    from tempfile import TemporaryDirectory

    counts = {"alone": 1, "busy": args.processes}
    seconds: dict[str, dict[str, list[float]]] = {name: {count: [] for count in counts} for name in args.settings}
    with TemporaryDirectory() as scratch:
        for _ in range(args.rounds):
            for count, processes in counts.items():
                for name in args.settings:
                    measured = measure(args.base, processes, SETTINGS[name], args.seconds, Path(scratch))
                    seconds[name][count].append(measured)
                    print(f"{name:>10} {count:>6} {measured:8.3f} s per step", flush=True)
    rows = {name: {count: statistics.median(values) for count, values in by.items()} for name, by in seconds.items()}
    for name, row in rows.items():
        print(f"{name:>10}: alone {row['alone']:.3f} s, {args.processes} at a time {row['busy']:.3f} s per step")
    if args.json is not None:
        machine = {"system": platform.platform(), "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()}
        args.json.write_text(json.dumps({"command": sys.argv, "machine": machine, "rows": rows, "rounds": seconds}, indent=2))
    if not {"default", TRAINER} <= rows.keys():
        return 0
    cost = rows[TRAINER]["alone"] / rows["default"]["alone"]
    gain = rows["default"]["busy"] / rows[TRAINER]["busy"]
    print(f"the trainer's setting: {cost - 1:+.1%} per step alone, {gain:.1f} times as fast with {args.processes} at a time")
    return 1 if cost > args.max_alone or gain < args.min_busy else 0


if __name__ == "__main__":
    sys.exit(main())
