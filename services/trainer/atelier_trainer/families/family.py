"""What the trainer needs to know of a family of base models; each family is a folder next to this module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from atelier_trainer.families.lora_layers import Groups, text_encoder_lora_layers, unet_lora_layers

Conditioning = dict[str, torch.Tensor]
"""What a UNet is conditioned on: tensors by the name of the graph's input, all with the batch as first dimension."""


def unet_arguments(conditioning: Conditioning) -> dict[str, Any]:
    """The keyword arguments of diffusers' UNet2DConditionModel: everything but the text's states is added conditioning."""
    added = {name: tensor for name, tensor in conditioning.items() if name != "encoder_hidden_states"}
    arguments: dict[str, Any] = {"encoder_hidden_states": conditioning["encoder_hidden_states"]}
    return arguments | {"added_cond_kwargs": added} if added else arguments


@dataclass(frozen=True)
class TextEncoderPart:
    """A text encoder of the diffusers folder.

    Attributes:
        part: folder, and prefix of its layers in an adapter's keys.
        tokenizer: folder of its tokenizer.
        model_class: transformers' class.
        outputs: names of the graph's outputs.
        encode: from the model and token ids int64 [b, s] to the outputs.
    """

    part: str
    tokenizer: str
    model_class: Any
    outputs: tuple[str, ...]
    encode: Callable[[Any, torch.Tensor], tuple[torch.Tensor, ...]]


class Architecture(NamedTuple):
    """What files call a kind of base model.

    Attributes:
        modelspec: of its LoRA adapters, in `modelspec.architecture`.
        kohya: in `ss_base_model_version`.
        published: hub id of the published model, whose configuration and tokenizers a checkpoint file of the kind has.
    """

    modelspec: str
    kohya: str
    published: str


@dataclass(frozen=True)
class Family:
    """A family of base models.

    Attributes:
        name: as bundle.json has it.
        pipeline_class: diffusers' class; its name is in model_index.json.
        pipeline_arguments: for its `from_pretrained`.
        text_encoders: in the order in which their states are concatenated.
        conditioning: from the outputs of the text encoders, by part, to what the UNet takes of the text.
        size_conditioning: from the geometry of images, float32 [b, 4] (height and width of the original image, top and left of
            its crop, in px), and the width and height of the crop to what the UNet takes of it.
        conditioning_example: random conditioning of a UNet, for a number of text tokens and of rows.
        prompt_arguments: from one text's conditioning to arguments of diffusers' pipeline, without the word negative.
        kohya_original_names: whether kohya's files name the UNet's layers as the original code does.
        kohya_prefixes: by text encoder, what its layers' names begin with in kohya's files; the first one is written.
        comfyui_encoders: by text encoder, its names in ComfyUI's files; likewise.
        checkpoint_encoders: by text encoder, what its keys begin with in a checkpoint file of the original code.
        architectures: names of the base model in the metadata of files, by the width of the text that its UNet attends to and
            its prediction type.
    """

    name: Literal["sd", "sdxl"]
    pipeline_class: Any
    pipeline_arguments: Mapping[str, Any]
    text_encoders: tuple[TextEncoderPart, ...]
    conditioning: Callable[[Mapping[str, tuple[torch.Tensor, ...]]], Conditioning]
    size_conditioning: Callable[[torch.Tensor, int, int], Conditioning]
    conditioning_example: Callable[[Any, int, int], Conditioning]
    prompt_arguments: Callable[[Conditioning], dict[str, torch.Tensor]]
    kohya_original_names: bool
    kohya_prefixes: Mapping[str, tuple[str, ...]]
    comfyui_encoders: Mapping[str, tuple[str, ...]]
    checkpoint_encoders: Mapping[str, str]
    architectures: Mapping[tuple[int, str], Architecture]

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders of a complete base model."""
        encoders = [encoder.part for encoder in self.text_encoders]
        return ("unet", "vae", *encoders, *(encoder.tokenizer for encoder in self.text_encoders), "scheduler")

    def lora_layers(self, models: Mapping[str, Any]) -> dict[str, Groups]:
        """The layers that take LoRA, by part.

        Args:
            models: the UNet and the text encoders, by part.
        """
        encoders = {part.part: text_encoder_lora_layers(models[part.part]) for part in self.text_encoders}
        return {"unet": unet_lora_layers(models["unet"])} | encoders
