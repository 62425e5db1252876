"""A base model in memory: three ONNX sessions, tokenizer and noise schedule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest
from pydantic import ValidationError
from tokenizers import Tokenizer

from atelier_infer.arrays import Array
from atelier_infer.errors import BundleError
from atelier_infer.onnx.providers import Runtime
from atelier_infer.onnx.session import Session
from atelier_infer.pipeline.memory_model import MemoryModel
from atelier_infer.pipeline.schedulers import NoiseSchedule
from atelier_infer.pipeline.text_embeddings import TextEmbeddingCache
from atelier_infer.pipeline.tokenizer import PromptTokenizer

FLOATS, INTEGERS = "tensor(float)", "tensor(int64)"
Signature = tuple[dict[str, str], dict[str, str]]
"""Inputs and outputs of a graph: name to type."""

TEXT_ENCODER_SIGNATURE: Signature = {"input_ids": INTEGERS}, {"last_hidden_state": FLOATS}
UNET_SIGNATURE: Signature = (
    {"sample": FLOATS, "timestep": FLOATS, "encoder_hidden_states": FLOATS, names.LORA_SCALE: FLOATS},
    {"out_sample": FLOATS},
)
VAE_DECODER_SIGNATURE: Signature = {"latents": FLOATS}, {"image": FLOATS}


@dataclass(frozen=True)
class Bundle:
    """Only the engine's thread uses text_embeddings and unet, and only the decoder's thread uses vae_decoder.

    Notation: b batch, s text_tokens, d text width, c latent channels, h and w latent height and width, r rank.

    Attributes:
        unet: sample float32 [b, c, h, w], timestep float32 [b], encoder_hidden_states float32 [b, s, d], lora_scale
            float32 [b, 1, r], per target A float32 [in, r] and B float32 [r, out] → out_sample float32 [b, c, h, w].
        vae_decoder: latents float32 [b, c, h, w], divided by latent_scale → image float32 [b, 3, h * vae_factor,
            w * vae_factor], about [-1, 1].
        no_adapter: A and B of rank 0 for every target.
        decode_tile_px: longest side that is decoded whole.
        memory: None when it was not measured.
    """

    digest: str
    manifest: BundleManifest
    schedule: NoiseSchedule
    tokenizer: PromptTokenizer
    text_embeddings: TextEmbeddingCache
    unet: Session
    vae_decoder: Session
    no_adapter: dict[str, Array]
    decode_tile_px: int
    memory: MemoryModel | None = None


def open_bundle(folder: Path, *, runtime: Runtime, decode_tile_px: int = 768, memory: MemoryModel | None = None) -> Bundle:
    """Opens a folder whose digests were checked.

    Args:
        folder: bundle.json and the files that it lists.
        runtime: runs the graphs.
        decode_tile_px: longest side of an image that is decoded whole.
        memory: if it was measured.

    Raises:
        ProviderError: a graph would run on another provider than the runtime's.
        BundleError: a graph's inputs or outputs differ from the contract, or a configuration is not supported.
    """
    manifest = BundleManifest.model_validate_json((folder / names.BUNDLE_FILE).read_bytes())
    where = f"bundle {manifest.digest()}"
    try:
        schedule = NoiseSchedule.model_validate_json((folder / names.SCHEDULER_FILE).read_bytes())
    except ValidationError as error:
        faults = "; ".join(f"{item['loc'][0]}: {item['msg']}, received {item['input']!r}" for item in error.errors())
        raise BundleError(f"{where}: {names.SCHEDULER_FILE} is not supported: {faults}; export the bundle again") from error
    if schedule.prediction_type != manifest.prediction_type:
        raise BundleError(
            f"{where}: prediction_type is {manifest.prediction_type} in {names.BUNDLE_FILE} and {schedule.prediction_type} "
            f"in {names.SCHEDULER_FILE}; export the bundle again"
        )
    if manifest.size_multiple_px % manifest.vae_factor or manifest.native_size_px % manifest.size_multiple_px:
        raise BundleError(
            f"{where}: native_size_px must be a multiple of size_multiple_px, and that of vae_factor; received "
            f"{manifest.native_size_px}, {manifest.size_multiple_px}, {manifest.vae_factor}"
        )
    try:
        tokenizer = Tokenizer.from_file(str(folder / names.TOKENIZER_FILE))
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"{where}: {names.TOKENIZER_FILE} cannot be read: {error}") from error
    lora_inputs = {name: FLOATS for layer in manifest.lora_targets for name in names.lora_inputs(layer)}
    unet = names.FUSED_UNET_FILE if runtime.fuses and names.FUSED_UNET_FILE in manifest.files else names.UNET_FILE

    def open_session(file: str, signature: Signature, *, fp16: bool = False) -> ort.InferenceSession:
        session = runtime.session(folder / file, f"{manifest.digest()}-{file.removesuffix('.onnx')}", fp16=fp16)
        _check_signature(file, session, signature)
        return session

    return Bundle(
        digest=manifest.digest(),
        manifest=manifest,
        schedule=schedule,
        tokenizer=PromptTokenizer(tokenizer, text_tokens=manifest.text_tokens, pad_token_id=manifest.pad_token_id),
        text_embeddings=TextEmbeddingCache(open_session(names.TEXT_ENCODER_FILE, TEXT_ENCODER_SIGNATURE)),
        unet=runtime.bind(open_session(unet, (UNET_SIGNATURE[0] | lora_inputs, UNET_SIGNATURE[1]), fp16=True)),
        vae_decoder=open_session(names.VAE_DECODER_FILE, VAE_DECODER_SIGNATURE),
        no_adapter=_rank_zero(manifest.lora_targets),
        decode_tile_px=decode_tile_px,
        memory=memory,
    )


def _rank_zero(targets: dict[str, tuple[int, int]]) -> dict[str, Array]:
    feeds = {}
    for layer, (inner, outer) in targets.items():
        a, b = names.lora_inputs(layer)
        feeds[a], feeds[b] = np.zeros((inner, 0), np.float32), np.zeros((0, outer), np.float32)
    return feeds


def _check_signature(file: str, session: ort.InferenceSession, signature: Signature) -> None:
    actual = [{item.name: item.type for item in items} for items in (session.get_inputs(), session.get_outputs())]
    for kind, expected, received in zip(("inputs", "outputs"), signature, actual, strict=True):
        if expected != received:
            missing, unknown = _shown(expected.items() - received.items()), _shown(received.items() - expected.items())
            raise BundleError(f"{file}: its {kind} differ from the contract: missing {missing}; unknown {unknown}")


def _shown(items: set[tuple[str, str]]) -> str:
    shown = [f"{name} {kind}" for name, kind in sorted(items)[:5]]
    return (", ".join(shown) + (f" and {len(items) - 5} more" if len(items) > 5 else "")) if shown else "nothing"
