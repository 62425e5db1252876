"""The optimizer steps: what each option changes, against a plain loop in torch where there is a number to compare."""

from __future__ import annotations

import gc
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from atelier_contracts import names
from atelier_trainer import train as training
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.context import TrainContext
from atelier_trainer.errors import OptionError
from atelier_trainer.export import adapter
from atelier_trainer.families.family import unet_arguments
from atelier_trainer.fit import build_optimizer, fit, row_order
from atelier_trainer.objective import TrainingLoss, validation_loss
from atelier_trainer.prepare import prepare
from atelier_trainer.tracking.run_folder import read_run_metadata
from atelier_trainer.train_state import EMA_ALPHA
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import CLIPTextModel

from .conftest import quiet, run_training
from .forked_training import outcomes, start_training

pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy


def history(options: TrainOptions, name: str) -> list[tuple[int, float]]:
    """Steps and values of a metric, as MLflow has them."""
    metadata = read_run_metadata(Path(options.output.output_dir))
    assert metadata is not None
    client = mlflow.MlflowClient(options.tracking.tracking_uri)
    return [(metric.step, metric.value) for metric in client.get_metric_history(metadata.run_id, name)]


def values(options: TrainOptions, name: str) -> list[float]:
    return [value for _, value in history(options, name)]


def weights(options: TrainOptions) -> dict[str, torch.Tensor]:
    return load_file(Path(options.output.output_dir) / names.WEIGHTS_FILE)


def reference_step(options: TrainOptions, generators: list[torch.Generator]) -> dict[str, torch.Tensor]:
    """The adapter after one step of a plain loop: one micro-batch per generator, its gradients averaged, clipped, AdamW.

    Several micro-batches of one process share a generator; those of several processes have one each.
    """
    context = training.setup(options, quiet())
    data, unet = prepare(context), context.base.load_unet()
    training.add_lora(context, unet)
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    o = options.optimization
    optimizer = torch.optim.AdamW(
        parameters, o.learning_rate, (o.adam_beta1, o.adam_beta2), o.adam_epsilon, o.adam_weight_decay
    )
    loss_of, batch = TrainingLoss(o, context.base.noise_schedule, data.train, torch.device("cpu")), o.train_batch_size
    rows = row_order(len(data.train), batch * len(generators), o.seed)
    unet.train()
    for number, generator in enumerate(generators):
        micro_batch = rows[number * batch : (number + 1) * batch]
        loss = loss_of(lambda noisy, times, text: unet(noisy, times, **unet_arguments(text)).sample, micro_batch, generator)
        (loss / len(generators)).backward()
    torch.nn.utils.clip_grad_norm_(parameters, o.max_grad_norm)
    optimizer.step()
    return {f"unet.{name}": value for name, value in adapter.lora_weights(unet).items()}


def assert_same_weights(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.fixture
def one_step(small: TrainOptions) -> TrainOptions:
    return small.with_flags(max_train_steps=1, gradient_accumulation_steps=1, select="last")


def test_accumulated_gradients_are_the_mean_over_the_micro_batches(one_step: TrainOptions) -> None:
    options = one_step.with_flags(gradient_accumulation_steps=3)
    run_training(options)
    generator = torch.Generator().manual_seed(options.optimization.seed)
    assert_same_weights(weights(options), reference_step(options, [generator] * 3))


def test_gradients_are_averaged_over_processes(one_step: TrainOptions) -> None:
    assert outcomes(start_training(one_step, processes=2)) == [0, 0]
    seed = one_step.optimization.seed
    generators = [torch.Generator().manual_seed(seed + rank) for rank in range(2)]
    assert_same_weights(weights(one_step), reference_step(one_step, generators))
    assert len(history(one_step, "loss")) == 1  # the main process alone logs


def test_a_base_model_that_predicts_noise_is_trained_to_predict_noise(
    one_step: TrainOptions, small_base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "epsilon"
    shutil.copytree(small_base, folder)
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "epsilon"}))
    options = one_step.with_flags(pretrained_model_name_or_path=str(folder), prediction_type="epsilon")
    run_training(options)
    generator = torch.Generator().manual_seed(options.optimization.seed)
    assert_same_weights(weights(options), reference_step(options, [generator]))
    expected = reference_step(one_step, [torch.Generator().manual_seed(options.optimization.seed)])
    assert any(not torch.allclose(weights(options)[name], value, rtol=1e-4) for name, value in expected.items())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"lr_scheduler": "constant"}, [1.0] * 6),
        ({"lr_scheduler": "linear"}, [1 - step / 6 for step in range(6)]),
        ({"lr_scheduler": "linear", "lr_warmup_steps": 2}, [0, 1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]),
        ({"lr_scheduler": "cosine"}, [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]),
        ({"lr_scheduler": "constant", "scale_lr": True}, [2.0 * 2] * 6),  # batch x accumulation
    ],
    ids=str,
)
def test_the_learning_rate_follows_its_schedule(small: TrainOptions, flags: dict[str, Any], expected: list[float]) -> None:
    options = small.with_flags(learning_rate=1e-3, **flags)
    run_training(options)
    assert values(options, "learning_rate") == pytest.approx([1e-3 * share for share in expected])


def test_the_optimizer_uses_the_scaled_learning_rate(small: TrainOptions) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    options = small.with_flags(scale_lr=True, learning_rate=1e-3).optimization
    assert build_optimizer(options, [parameter], processes=3).param_groups[0]["lr"] == pytest.approx(1e-3 * 2 * 2 * 3)


def test_ema_loss_is_the_unbiased_moving_average(small: TrainOptions) -> None:
    result = run_training(small)
    losses, total, weight = values(small, "loss"), 0.0, 0.0
    averages = []
    for loss in losses:
        total, weight = total * (1 - EMA_ALPHA) + EMA_ALPHA * loss, weight * (1 - EMA_ALPHA) + EMA_ALPHA
        averages.append(total / weight)
    assert len(set(losses)) == small.optimization.max_train_steps
    assert values(small, "ema_loss") == pytest.approx(averages)
    assert result.losses.ema_loss == pytest.approx(averages[-1])


class StepSpy:
    """A sink that inspects the process at each step."""

    def __init__(self, inspect: Callable[..., Any]) -> None:
        self.inspect = inspect
        self.seen: list[Any] = []

    def log_metrics(self, step: int, values: dict[str, float]) -> None:
        if "loss" in values:
            gc.collect()
            self.seen.append(self.inspect())

    def log_image(self, image: Image.Image, key: str, step: int) -> None:
        pass

    def close(self) -> None:
        pass


def test_vae_and_text_encoder_are_released_before_the_steps(small: TrainOptions) -> None:
    gc.collect()
    frozen = (AutoencoderKL, CLIPTextModel)
    spy = StepSpy(lambda: [type(item).__name__ for item in gc.get_objects() if type(item) in frozen])
    run_training(small.with_flags(validation_prompt="a cat"), sinks=[spy])  # type: ignore[list-item]
    assert spy.seen == [[]] * small.optimization.max_train_steps


def fitted(options: TrainOptions, prepare_unet: Callable[..., Any] | Callable[..., None]) -> tuple[TrainContext, Any]:
    """One training without a run; `prepare_unet` sees the UNet before the first step."""
    context = training.setup(options, quiet())
    data, unet = prepare(context), context.base.load_unet()
    training.add_lora(context, unet)
    prepare_unet(unet)
    fit(context, unet, data, [], None)
    return context, unet


def count_calls(options: TrainOptions) -> tuple[int, dict[str, torch.Tensor]]:
    calls: list[int] = []
    _, unet = fitted(options, lambda unet: unet.up_blocks[-1].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1)))
    return len(calls), adapter.lora_weights(unet)


def test_gradient_checkpointing_computes_blocks_twice_and_changes_nothing_else(one_step: TrainOptions) -> None:
    validation = 2 * 7  # forward passes of the one validation, at most
    plain, expected = count_calls(one_step.with_flags(max_train_steps=3, validation_steps=100))
    recomputed, actual = count_calls(one_step.with_flags(max_train_steps=3, validation_steps=100, gradient_checkpointing=True))
    assert plain <= 3 + validation
    assert recomputed == plain + 3
    assert_same_weights(actual, expected)


def test_lora_dropout_drops_inputs_during_training_alone(one_step: TrainOptions) -> None:
    dropouts: list[torch.nn.Module] = []

    def find(unet: Any) -> None:
        dropouts.extend(module for name, module in unet.named_modules() if name.endswith("lora_dropout.default"))

    fitted(one_step.with_flags(lora_dropout=0.2), find)
    assert {module.p for module in dropouts} == {0.2}
    assert not any(module.training for module in dropouts)  # fit leaves the UNet in evaluation mode
    run_training(one_step)
    without = weights(one_step)
    run_training(one_step.with_flags(lora_dropout=0.9))
    assert any(not torch.equal(weights(one_step)[name], value) for name, value in without.items())


def test_the_best_weights_are_kept_and_give_the_same_loss_again(small: TrainOptions) -> None:
    options = small.with_flags(validation_steps=1, learning_rate=0.05, lr_scheduler="constant")
    result = run_training(options)
    losses = dict(history(options, "validation_loss"))
    assert result.losses.validation_loss == min(losses.values()) == losses[result.losses.step]
    context = training.setup(options, quiet())
    unet = context.base.load_unet()
    adapter.inject_lora(unet, **options.model.lora)
    adapter.set_lora_weights(unet, adapter.load_weights(Path(options.output.output_dir)))
    again = validation_loss(unet, context.base.noise_schedule, prepare(context).validation)
    assert again == pytest.approx(result.losses.validation_loss, rel=1e-6)
    last = run_training(options.with_flags(select="last")).losses
    assert (last.step, last.validation_loss) == (6, losses[6])


def test_the_adapter_depends_on_the_seed_alone(small: TrainOptions) -> None:
    contents = []
    for seed in (1, 1, 2):
        run_training(small.with_flags(seed=seed, max_train_steps=2))
        contents.append((Path(small.output.output_dir) / names.WEIGHTS_FILE).read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_a_bf16_training_is_validated_in_float32(small: TrainOptions) -> None:
    options = small.with_flags(mixed_precision="bf16", validation_prompt="a cat", num_validation_images=1)
    assert outcomes(start_training(options, processes=1)) == [0]
    in_bf16, (in_float32,) = values(options, "validation_loss")[-1], values(options, "kept_validation_loss")
    assert in_bf16 != in_float32
    assert in_bf16 == pytest.approx(in_float32, rel=0.05)
    assert all(value.dtype == torch.float32 for value in weights(options).values())


@pytest.mark.parametrize(
    "flags",
    [
        {"lr_scheduler": "polynomial", "lr_warmup_steps": 1},
        {"random_crops": 0, "height": 8},
        {"random_crops": 2, "height": 8, "dataloader_num_workers": 2},
        {"use_rslora": True, "lora_dropout": 0.2, "lora_targets": "attn2.to_k,to_v", "rank": 4},
    ],
    ids=str,
)
def test_the_adapter_learns_with_these_flags(small: TrainOptions, flags: dict[str, Any]) -> None:
    losses = run_training(small.with_flags(max_train_steps=2, **flags)).losses
    assert np.isfinite(losses.validation_loss)
    assert losses.validation_loss != losses.base_validation_loss


@pytest.mark.full
def test_a_compiled_unet_learns_the_same(small: TrainOptions) -> None:
    """Needs a C++ compiler where there is no GPU."""
    plain = run_training(small.with_flags(max_train_steps=2)).losses
    compiled = run_training(small.with_flags(max_train_steps=2, torch_compile=True)).losses
    assert compiled.validation_loss == pytest.approx(plain.validation_loss, rel=1e-4)
    assert compiled.validation_loss != compiled.base_validation_loss


def test_tensorboard_gets_curves_and_images(small: TrainOptions) -> None:
    options = small.with_flags(report_to="tensorboard", validation_prompt="a cat", num_validation_images=1)
    run_training(options)
    events = EventAccumulator(str(Path(options.output.output_dir) / "logs")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("validation_loss")] == [3, 6]
    assert [event.step for event in events.Images("validation_0")] == [3, 6]


def test_a_target_that_matches_no_layer_is_refused(small_base: Path) -> None:
    unet = load_base_model(ModelOptions(pretrained_model_name_or_path=str(small_base))).load_unet()
    with pytest.raises(OptionError, match=r"no layer that takes LoRA ends in 'ff.net'; choose from to_q"):
        adapter.inject_lora(unet, 2, 2.0, targets=["ff.net"])
