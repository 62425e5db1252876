"""A base model in memory: its ONNX sessions, tokenizers and noise schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest, outdated_format
from pydantic import ValidationError
from tokenizers import Tokenizer

from atelier_infer.errors import BundleError
from atelier_infer.families import FAMILIES
from atelier_infer.families.family import Conditioning, Family
from atelier_infer.onnx.providers import Runtime
from atelier_infer.onnx.session import Session
from atelier_infer.pipeline.adapter import WeightedAdapter
from atelier_infer.pipeline.lora_layout import LoraLayout
from atelier_infer.pipeline.memory_model import MemoryModel
from atelier_infer.pipeline.schedulers import NoiseSchedule
from atelier_infer.pipeline.text_embeddings import TextEmbeddingCache, TextEncoderGraph
from atelier_infer.pipeline.tokenizer import PromptTokenizer, TokenIds

FLOATS, INTEGERS = "tensor(float)", "tensor(int64)"
Signature = tuple[dict[str, str], dict[str, str]]
"""Inputs and outputs of a graph: name to type."""

VAE_DECODER_SIGNATURE: Signature = {"latents": FLOATS}, {"image": FLOATS}


@dataclass(frozen=True)
class Bundle:
    """Only the engine's thread uses text_embeddings and unet, and only the decoder's thread uses vae_decoder.

    Notation: b batch, c latent channels, h and w latent height and width.

    Attributes:
        unet: sample float32 [b, c, h, w], timestep float32 [b], the family's conditioning, and LoRA inputs → out_sample
            float32 [b, c, h, w].
        lora: layout of the UNet's LoRA inputs.
        vae_decoder: latents float32 [b, c, h, w], divided by latent_scale → image float32 [b, 3, h * vae_factor,
            w * vae_factor], about [-1, 1].
        decode_tile_px: longest side that is decoded whole.
        memory: None when it was not measured.
    """

    digest: str
    manifest: BundleManifest
    family: Family
    schedule: NoiseSchedule
    tokenizer: PromptTokenizer
    text_embeddings: TextEmbeddingCache
    unet: Session
    lora: LoraLayout
    vae_decoder: Session
    decode_tile_px: int
    memory: MemoryModel | None = None

    def conditioning(
        self, ids: TokenIds, adapters: Sequence[WeightedAdapter], width: int, height: int, *, negative: bool = False
    ) -> Conditioning:
        """What one row of the UNet is conditioned on.

        Args:
            ids: of the text.
            adapters: whose LoRA for the text encoders applies.
            width: of the image in px.
            height: of the image in px.
            negative: whether the text is the negative prompt.

        Raises:
            GraphError: ONNX Runtime failed.
        """
        texts = self.text_embeddings.get(ids, adapters)
        if negative and self.manifest.zero_empty_negative and _equal(ids, self.tokenizer.encode("").ids):
            texts = {part: {name: np.zeros_like(array) for name, array in outputs.items()} for part, outputs in texts.items()}
        return self.family.conditioning(texts, width, height)


def _equal(ids: TokenIds, others: TokenIds) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(ids, others, strict=True))


def parse_bundle_manifest(text: bytes, where: str) -> BundleManifest:
    """`where` begins the error's message.

    Raises:
        BundleError: it is not a manifest that this release reads.
    """
    try:
        return BundleManifest.model_validate_json(text)
    except ValidationError as error:
        reason = outdated_format(text) or f"it is not a bundle manifest: {error}"
        raise BundleError(f"{where}: {names.BUNDLE_FILE}: {reason}") from error


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
    manifest = parse_bundle_manifest((folder / names.BUNDLE_FILE).read_bytes(), f"bundle in {folder.name}")
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
    family = FAMILIES[manifest.family]
    unet = runtime.choose_unet(manifest.files)
    layouts = {
        part: LoraLayout(groups, by_layer=part == "unet" and unet == names.CPU_UNET_FILE)
        for part, groups in manifest.lora.items()
    }
    if set(layouts) != {"unet", *manifest.text_encoders} or set(manifest.text_encoders) != set(family.text_outputs):
        raise BundleError(
            f"{where}: a base model of family {manifest.family} has the parts unet, {', '.join(family.text_outputs)}; received "
            f"{', '.join(sorted(layouts | manifest.text_encoders))}; export the bundle again"
        )

    def open_session(file: str, part: str | None, signature: Signature, *, fp16: bool = False) -> ort.InferenceSession:
        session = runtime.session(folder / file, f"{manifest.digest()}-{file.removesuffix('.onnx')}", fp16=fp16)
        inputs, outputs = signature
        lora = dict.fromkeys([*layouts[part].rows, *layouts[part].scale_names], FLOATS) if part else {}
        _check_signature(file, session, (inputs | lora, outputs))
        if part:
            _check_rows(file, session, layouts[part])
        return session

    encoders = {}
    for part, encoder in manifest.text_encoders.items():
        signature = {"input_ids": INTEGERS}, dict.fromkeys(family.text_outputs[part], FLOATS)
        session = open_session(encoder.graph, part, signature)
        encoders[part] = TextEncoderGraph(session, layouts[part], tuple(item.name for item in session.get_outputs()))
    inputs = dict.fromkeys(("sample", "timestep", *family.unet_inputs), FLOATS)
    return Bundle(
        digest=manifest.digest(),
        manifest=manifest,
        family=family,
        schedule=schedule,
        tokenizer=PromptTokenizer(
            [(_open_tokenizer(where, folder / encoder.tokenizer), encoder) for encoder in manifest.text_encoders.values()]
        ),
        text_embeddings=TextEmbeddingCache(encoders),
        unet=runtime.bind(open_session(unet, "unet", (inputs, {"out_sample": FLOATS}), fp16=True)),
        lora=layouts["unet"],
        vae_decoder=open_session(names.VAE_DECODER_FILE, None, VAE_DECODER_SIGNATURE),
        decode_tile_px=decode_tile_px,
        memory=memory,
    )


def _open_tokenizer(where: str, file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"{where}: {file.name} cannot be read: {error}") from error


def _check_signature(file: str, session: ort.InferenceSession, signature: Signature) -> None:
    actual = [{item.name: item.type for item in items} for items in (session.get_inputs(), session.get_outputs())]
    for kind, expected, received in zip(("inputs", "outputs"), signature, actual, strict=True):
        if expected != received:
            missing, unknown = _shown(expected.items() - received.items()), _shown(received.items() - expected.items())
            raise BundleError(f"{file}: its {kind} differ from the contract: missing {missing}; unknown {unknown}")


def _check_rows(file: str, session: ort.InferenceSession, layout: LoraLayout) -> None:
    """The graph slices each layer's rows at fixed places, so rows in other places would be silently wrong."""
    for item in session.get_inputs():
        if item.name in layout.rows and item.shape[:1] != [layout.rows[item.name]]:
            raise BundleError(
                f"{file}: {item.name} must have the {layout.rows[item.name]} rows of the layers in {names.BUNDLE_FILE}; it has "
                f"{item.shape[0]}; export the bundle again"
            )


def _shown(items: set[tuple[str, str]]) -> str:
    shown = [f"{name} {kind}" for name, kind in sorted(items)[:5]]
    return (", ".join(shown) + (f" and {len(items) - 5} more" if len(items) > 5 else "")) if shown else "nothing"
