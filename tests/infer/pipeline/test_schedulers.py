"""Whole trajectories against diffusers' schedulers, with a fixed fake model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from atelier_infer.arrays import Array
from atelier_infer.pipeline.schedulers import NoiseSchedule, make_scheduler
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral

SD21 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
    "clip_sample": False,
}
MIX = np.random.default_rng(1).normal(scale=0.5, size=(4, 4)).astype(np.float32)


def fake_model(sample: Array, timestep: float) -> Array:
    """Something smooth, bounded, not linear, that depends on every input. float32 [1, 4, 6, 5] both."""
    mixed = np.einsum("oc,bchw->bohw", MIX, sample)
    return np.tanh(mixed + np.float32(timestep / 1000)).astype(np.float32) + np.float32(0.1) * sample


def reference(name: str, config: dict[str, Any]) -> Any:
    common = {key: value for key, value in config.items() if key not in ("set_alpha_to_one", "clip_sample")}
    if name == "ddim":
        return DDIMScheduler(**config)
    if name == "euler":
        return EulerDiscreteScheduler(**common)
    if name == "euler_ancestral":
        return EulerAncestralDiscreteScheduler(**common)
    return DPMSolverMultistepScheduler(**common, use_karras_sigmas=True, algorithm_type="dpmsolver++", solver_order=2)


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 25, 50, 150])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["ddim", "euler", "euler_ancestral", "dpmpp_2m_karras"])
def test_trajectory_is_diffusers(name: str, prediction: str, spacing: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SD21 | {"prediction_type": prediction, "timestep_spacing": spacing}
    theirs = reference(name, config)
    theirs.set_timesteps(steps)
    ours = make_scheduler(name, NoiseSchedule(**config), steps)  # type: ignore[arg-type]
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps.numpy(), atol=1e-4)
    assert ours.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma), rel=1e-5)

    fresh = make_scheduler("euler_ancestral", NoiseSchedule(**config), steps)  # the same seed adds the same noise
    monkeypatch.setattr(ancestral, "randn_tensor", lambda shape, **_: torch.from_numpy(fresh.noise(tuple(shape))))  # type: ignore[attr-defined]
    noise = np.random.default_rng(0).standard_normal((1, 4, 6, 5)).astype(np.float32)
    sample, other = noise * ours.init_noise_sigma, torch.from_numpy(noise) * theirs.init_noise_sigma
    worst = 0.0
    for index, timestep in enumerate(theirs.timesteps):
        output = fake_model(ours.scale_model_input(sample, index), float(ours.timesteps[index]))
        sample = ours.step(output, index, sample)
        fed = theirs.scale_model_input(other, timestep)
        other = theirs.step(torch.from_numpy(fake_model(fed.numpy(), float(timestep))), timestep, other).prev_sample
        worst = max(worst, float(np.abs(sample - other.numpy()).max() / np.abs(other.numpy()).max()))
        assert sample.dtype == np.float32
    assert worst < 1e-5


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", ["ddim", "euler", "euler_ancestral", "dpmpp_2m_karras"])
def test_timesteps_of_every_step_count(name: str, spacing: str) -> None:
    config = SD21 | {"timestep_spacing": spacing, "beta_schedule": "linear", "set_alpha_to_one": True, "steps_offset": 0}
    theirs, schedule = reference(name, config), NoiseSchedule(**config)
    for steps in range(1, 151):
        theirs.set_timesteps(steps)
        ours = make_scheduler(name, schedule, steps)  # type: ignore[arg-type]
        # a level midway between two training steps may be rounded either way
        apart = np.abs(ours.timesteps - theirs.timesteps.numpy()[:steps])
        assert apart.max() < 1e-3 or (name == "dpmpp_2m_karras" and apart.max() == 1), steps


def test_linear_betas_and_alpha_one() -> None:
    config = SD21 | {"beta_schedule": "linear", "set_alpha_to_one": True, "steps_offset": 0, "num_train_timesteps": 600}
    theirs, schedule = DDIMScheduler(**config), NoiseSchedule(**config)
    np.testing.assert_allclose(schedule.alphas_cumprod(), theirs.alphas_cumprod.numpy(), rtol=1e-5)
    theirs.set_timesteps(7)
    ours = make_scheduler("ddim", schedule, 7)
    sample = np.random.default_rng(0).standard_normal((1, 4, 6, 5)).astype(np.float32)
    other = torch.from_numpy(sample)
    for index, timestep in enumerate(theirs.timesteps):
        sample = ours.step(fake_model(sample, float(timestep)), index, sample)
        other = theirs.step(torch.from_numpy(fake_model(other.numpy(), float(timestep))), timestep, other).prev_sample
    np.testing.assert_allclose(sample, other.numpy(), atol=1e-5)


def test_added_noise_is_the_seeds_own() -> None:
    schedule = NoiseSchedule(**SD21)
    results = [make_scheduler("euler_ancestral", schedule, 3, seed).noise((2, 3)) for seed in (1, 1, 2)]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()
    assert (results[0] != np.random.Generator(np.random.PCG64(1)).standard_normal((2, 3), dtype=np.float32)).any()
