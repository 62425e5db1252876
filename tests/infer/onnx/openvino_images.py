"""Draws three images with OpenVINO; run by test_openvino.py in an environment of the extra alone.

python openvino_images.py BUNDLE IMAGES.npy CACHE
"""

import sys
from pathlib import Path

import numpy as np
from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
from atelier_infer.engine.denoising_step import DenoisingStep
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.bundle import open_bundle

runtime = Runtime("openvino", 1, Path(sys.argv[3]))
runtime.check()
bundle = open_bundle(Path(sys.argv[1]), runtime=runtime)
assert bundle.unet.get_providers()[0] == "OpenVINOExecutionProvider"  # type: ignore[attr-defined]
ids = [bundle.tokenizer.encode(text).ids for text in ("a cat on a chair", "")]
states = [DenoisingState(bundle, [], SamplingParams(*ids, 8, 4.0, seed, 128, 128, "ddim")) for seed in (1, 2, 3)]  # type: ignore[arg-type, call-arg]
step = DenoisingStep()
for state in states:
    state.prepare()
while not states[0].done:
    assert step.step(states) == [None] * 3
np.save(sys.argv[2], np.stack([state.finish() for state in states]))
