"""Names of aliases, tags, files, graph inputs and headers that two services must spell alike."""

from typing import NamedTuple

CHAMPION = "champion"
"""The alias that infer serves when a request names neither a version nor an alias."""

# Tags on MLflow model versions, and on registered models where that is said.
TAG_KIND = "atelier.kind"  # KIND_ADAPTER or KIND_BUNDLE
TAG_BUNDLE_DIGEST = "atelier.bundle_digest"
TAG_SOURCE_DIGEST = "atelier.source_digest"
TAG_RETIRED = "atelier.retired"  # id of the decision that took the version out of use
TAG_PROMOTED_DIGEST = "atelier.promoted_digest"  # the adapter's digest when registry-api let an alias point at the version
TAG_STYLE = "atelier.style"  # of the registered model: `styles.RecordedEdits` of its style, as JSON
KIND_ADAPTER, KIND_BUNDLE = "adapter", "bundle"

# The registered model that holds nothing but the newest entry of registry-api's chain of decisions, as a tag `ENTRY:HASH`.
CHAIN_MODEL, TAG_CHAIN_HEAD = "atelier-decisions", "atelier.chain_head"

# Files of an adapter, in the folder that the MLflow model keeps its weights in; and of a bundle.
WEIGHTS_FILE, ADAPTER_FILE, EVIDENCE_FILE = "pytorch_lora_weights.safetensors", "adapter.json", "evidence.json"
PREVIEW_FILE = "preview.webp"  # a picture of the adapter's style, of which not every adapter has one
ADAPTER_FOLDER = "adapter_weights"  # mlflow.diffusers' own name
BUNDLE_FILE, SCHEDULER_FILE = "bundle.json", "scheduler_config.json"
UNET_FILE, VAE_DECODER_FILE = "unet.onnx", "vae_decoder.onnx"
FUSED_UNET_FILE = "unet_fused.onnx"  # unet.onnx with ONNX Runtime's own attention operator
CPU_UNET_FILE = "unet_cpu.onnx"  # unet_fused.onnx with an A and a B per layer, see `LayerInputs`


class LoraInputs(NamedTuple):
    """Graph inputs that hold the adapters of one group of layers.

    Shapes: b batch, r sum of the ranks in the batch, per layer in and out features or channels and k side of the kernel.
    Each layer has its own rows, in the manifest's order; its A is the weight [r, in, k, k] as [r, in * k * k], transposed.

    Attributes:
        a: float32 [sum of in * k * k, r].
        b: float32 [sum of out, r].
        scale: float32 [b, 1, r].
    """

    a: str
    b: str
    scale: str


class LayerInputs(NamedTuple):
    """Inputs of one layer, in graphs where each layer has its own; the scale is the group's.

    Attributes:
        a: float32 [in * k * k, r].
        b: float32 [out, r].
    """

    a: str
    b: str


UNUSED_RANK = {"projection": 1, "convolution": 1}
"""r by group where no adapter of the batch touches the group, 0 for the others; the weights are zeros.

These groups hold convolutions, whose B is the left factor of a batched product, and ONNX Runtime leaves the result of a
batched product over no element uninitialized.
"""


def lora_inputs(group: str) -> LoraInputs:
    """Names of the inputs of one group."""
    return LoraInputs(f"{group}.lora_A", f"{group}.lora_B", f"{group}.lora_scale")


def layer_inputs(group: str, layer: str) -> LayerInputs:
    """Names of the inputs of one layer of a group."""
    inputs = lora_inputs(group)
    return LayerInputs(f"{inputs.a}/{layer}", f"{inputs.b}/{layer}")


def lora_rank(group: str, rank: int) -> int:
    """R of a group for an adapter of this rank, 0 for none. Graphs skip a group whose r is not above UNUSED_RANK."""
    unused = UNUSED_RANK.get(group, 0)
    return max(rank, unused + 1) if rank else unused


# Response headers of an image, and the PNG text key that holds its `generate.GenerationMetadata` as JSON.
HEADER_MODEL, HEADER_VERSION, HEADER_SEED = "X-Atelier-Model", "X-Atelier-Version", "X-Atelier-Seed"
HEADER_ADAPTER, HEADER_BUNDLE = "X-Atelier-Adapter-Digest", "X-Atelier-Bundle-Digest"
HEADER_ALIAS = "X-Atelier-Alias"  # where an alias led to the version
PNG_TEXT = "atelier"
BASE_VERSION = "base"  # HEADER_VERSION of an image made without an adapter
