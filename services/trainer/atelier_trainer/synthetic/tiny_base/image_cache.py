"""Images for the tiny base, rendered once into memory-mapped files that all trainings read."""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from atelier_trainer.synthetic.scenes.captions import caption
from atelier_trainer.synthetic.scenes.dataset import render
from atelier_trainer.synthetic.tiny_base.architecture import SIZE_PX

CAPTIONS_PER_SCENE = 4


def render_images(folder: Path, style: str, count: int, seed: int) -> tuple[np.ndarray, list[list[str]]]:
    """Renders `count` scenes of one style, or opens those of an earlier call.

    Returns:
        uint8 array [count, 128, 128, 3] (memory-mapped, read only) and, for each, a list of CAPTIONS_PER_SCENE captions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{style}-{count}-{seed}"
    array_file, caption_file = folder / f"{stem}.npy", folder / f"{stem}.json"
    if not caption_file.exists():
        array = np.lib.format.open_memmap(array_file, "w+", np.uint8, (count, SIZE_PX, SIZE_PX, 3))
        captions: list[list[str]] = []
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            jobs = ((style, seed, start, min(start + 200, count)) for start in range(0, count, 200))
            for start, chunk, texts in pool.map(_render_chunk, jobs):
                array[start : start + len(chunk)] = chunk
                captions += texts
        array.flush()
        partial = caption_file.with_suffix(".part")
        partial.write_text(json.dumps(captions))
        partial.replace(caption_file)
    return np.load(array_file, mmap_mode="r"), json.loads(caption_file.read_text())


def _render_chunk(job: tuple[str, int, int, int]) -> tuple[int, np.ndarray, list[list[str]]]:
    style, seed, start, stop = job
    chunk = np.empty((stop - start, SIZE_PX, SIZE_PX, 3), np.uint8)
    captions = []
    for index in range(start, stop):
        image, text, scene = render(seed, index, style, SIZE_PX)
        chunk[index - start] = np.asarray(image)
        rng = np.random.default_rng([seed, index, 1])
        captions.append([text] + [caption(scene, rng) for _ in range(CAPTIONS_PER_SCENE - 1)])
    return start, chunk, captions
