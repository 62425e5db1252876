"""Which layer a key of an adapter's file belongs to: in the names of diffusers, kohya, ComfyUI and peft."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from atelier_trainer.families.family import Family

SUFFIXES = re.compile(
    r"\.(?P<suffix>lora_(?:down|up|mid|A|B)(?:\.default)?\.weight|lora\.(?:down|up)\.weight|lora_magnitude_vector(?:\.default)?(?:\.weight)?"
    r"|alpha|dora_scale|scale|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|oft_blocks|oft_diag|rescale|boft_blocks"
    r"|diff(?:_b)?|on_input|w_norm|b_norm|a1\.weight|a2\.weight|b1\.weight|b2\.weight|weight|bias|scalar)$"
)
"""What follows a layer's name."""

PLAIN_SUFFIXES = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_mid.weight": "mid",
}
"""The suffixes of plain LoRA, in one spelling."""

OLD_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight$")
"""diffusers' names before it used peft."""


@dataclass(frozen=True)
class LayerKey:
    """A key of a file.

    Attributes:
        layer: `part.layer` of the diffusers folder.
        suffix: what the tensor is, for example `down`, `alpha` or `hada_w1_a`.
        naming: whose names the key has: diffusers, kohya, comfyui or peft.
    """

    layer: str
    suffix: str
    naming: str


class LayerNames:
    """Finds layers by any of their names.

    Args:
        family: of the base model.
        layers: `part.layer` of every layer that takes LoRA.
    """

    def __init__(self, family: Family, layers: Collection[str]) -> None:
        self._family, self._blocks = family, UNetBlocks.of_layers(layers)
        self._layers: dict[str, tuple[str, str]] = {}
        for layer in layers:
            self._layers[layer] = layer, "diffusers"
            for naming, names in self.all_names(layer).items():
                self._layers |= dict.fromkeys(names, (layer, naming))

    def find(self, key: str) -> LayerKey | None:
        """The layer and kind of a key; None where the base model has no layer of that name."""
        if match := OLD_PROCESSOR.search(key):
            target = "to_out.0" if match[1] == "out" else f"to_{match[1]}"
            key = f"{key[: match.start()]}.{target}.lora_{match[2]}.weight"
        match = SUFFIXES.search(key)
        if match is None:
            return None
        suffix = PLAIN_SUFFIXES.get(match["suffix"], match["suffix"])
        if found := self._layers.get(key[: match.start()]):
            return LayerKey(found[0], suffix, found[1])
        return None

    def all_names(self, layer: str) -> dict[str, list[str]]:
        """The names of a layer by whose they are; the first name of each is what `export` writes."""
        return _all_names(self._family, self._blocks, layer)


@dataclass(frozen=True)
class UNetBlocks:
    """How a UNet's blocks are numbered in its original code.

    Attributes:
        layers: residual layers of a level on the way down.
        up_attention: levels on the way up that have attention.
    """

    layers: int
    up_attention: frozenset[int]

    @staticmethod
    def of_layers(layers: Iterable[str]) -> UNetBlocks:
        """Read off the names of a UNet's layers in diffusers."""
        names = list(layers)
        resnets = [int(match[1]) for name in names if (match := re.match(r"unet\.down_blocks\.0\.resnets\.(\d+)\.", name))]
        attention = [int(match[1]) for name in names if (match := re.match(r"unet\.up_blocks\.(\d+)\.attentions\.", name))]
        return UNetBlocks(1 + max(resnets, default=0), frozenset(attention))


def _all_names(family: Family, blocks: UNetBlocks, layer: str) -> dict[str, list[str]]:
    part, _, module = layer.partition(".")
    if part == "unet":
        original = original_unet_name(module, blocks)
        flat = [name.replace(".", "_") for name in (original, module)]
        return {
            "diffusers": [layer],
            "kohya": [f"lora_unet_{name}" for name in (flat if family.kohya_original_names else reversed(flat))],
            "comfyui": [f"diffusion_model.{original}"],
            "peft": [f"base_model.model.{module}"],
        }
    short = module.removeprefix("text_model.")  # transformers 5 left it out of the name, and so do files written with it
    modules = [f"text_model.{short}", short]
    return {
        "diffusers": [f"{part}.{name}" for name in modules],
        "kohya": [f"{prefix}_{name.replace('.', '_')}" for prefix in family.kohya_prefixes[part] for name in modules],
        "comfyui": [f"text_encoders.{one}.transformer.{name}" for one in family.comfyui_encoders[part] for name in modules],
    }


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
}


def original_unet_name(module: str, unet: UNetBlocks) -> str:
    """A module's name in the original code of Stable Diffusion, which numbers the blocks one after another.

    Args:
        module: in diffusers' UNet2DConditionModel.
        unet: its blocks.
    """
    if module in _OUTSIDE:
        return _OUTSIDE[module]
    layers = unet.layers
    kind, _, rest = module.partition(".")
    if kind == "mid_block":
        what, number, inner = rest.split(".", 2)
        position = 1 if what == "attentions" else 2 * int(number)
        return f"middle_block.{position}.{_inside(what, inner)}"
    if kind not in ("down_blocks", "up_blocks"):
        return module
    level, what, number, inner = rest.split(".", 3)
    first = int(level) * (layers + 1)
    if what == "downsamplers":
        return f"input_blocks.{1 + first + layers}.0.op"
    if what == "upsamplers":
        position = 2 if int(level) in unet.up_attention else 1
        return f"output_blocks.{first + layers}.{position}.{inner}"
    blocks, offset = ("input_blocks", 1) if kind == "down_blocks" else ("output_blocks", 0)
    return f"{blocks}.{offset + first + int(number)}.{int(what == 'attentions')}.{_inside(what, inner)}"


def _inside(what: str, inner: str) -> str:
    if what != "resnets":
        return inner
    name, dot, rest = inner.partition(".")
    return _RESNET.get(name, name) + dot + rest
