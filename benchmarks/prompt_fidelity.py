"""How often does a base model, with or without an adapter, generate what the prompt names?

    prompts ── base and adapter ──> images ── classifier ──> kinds detected ── every kind named is among them ──> hit

Prompts come from the caption generator, from series that nothing trains on, and no prompt is a training caption. Colours,
places and grounds in a prompt are not judged.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier_trainer.synthetic.scenes.dataset import STYLES, render
from atelier_trainer.synthetic.scenes.scene import KINDS
from classifier.prompts import WORDS, hit_figures, is_hit, prompts, things_in_words, training_captions
from classifier.report import (
    JudgedImage,
    command_line,
    contact_sheet,
    file_digest,
    machine,
    read_images,
    versions,
    write_images,
)
from classifier.scenes import SEED as CLASSIFIER_SEED
from classifier.style import train_style_classifier
from classifier.train import CACHE, KindClassifier, train_kind_classifier
from PIL import Image


def load_pipeline(base: Path, adapter: Path | None) -> Any:
    """A diffusers folder with, perhaps, the LoRA weights of an adapter folder."""
    # Imported here: it takes seconds that --images does not need.
    import diffusers
    import torch
    import transformers
    from diffusers import StableDiffusionPipeline

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()

    pipeline = StableDiffusionPipeline.from_pretrained(
        base, dtype=torch.float32, use_safetensors=True, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    if adapter is not None:
        pipeline.load_lora_weights(adapter)
    return pipeline


@dataclass(frozen=True)
class Sampling:
    """How images are generated; the i-th image depends on `seed` and i, not on the batch."""

    steps: int
    guidance: float
    seed: int
    batch: int


def generate(pipeline: Any, texts: Sequence[str], sampling: Sampling) -> list[Image.Image]:
    """Generates an image for each text at the base model's native size."""
    import torch

    started, images = time.monotonic(), []
    for start in range(0, len(texts), sampling.batch):
        chunk = list(texts[start : start + sampling.batch])
        generators = [torch.Generator().manual_seed(sampling.seed * 1_000_003 + start + k) for k in range(len(chunk))]
        output = pipeline(chunk, num_inference_steps=sampling.steps, guidance_scale=sampling.guidance, generator=generators)
        images += output.images
        print(f"generated {len(images)} of {len(texts)} in {time.monotonic() - started:.0f} s")
    return images


def reconstructed_scenes(
    pipeline: Any, style: str, things: int, count: int, batch: int = 20
) -> Iterable[tuple[Image.Image, set[str]]]:
    """Real scenes, encoded and decoded by the base model's VAE, the upper bound for any prompt, with their kinds."""
    import torch

    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    for start in range(0, count, batch):
        scenes = [
            render(CLASSIFIER_SEED + 10 + things, i, style, size, count=things) for i in range(start, min(start + batch, count))
        ]
        with torch.inference_mode():
            pixels = pipeline.image_processor.preprocess([image for image, _, _ in scenes])
            decoded = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mean).sample
        for image, (_, _, scene) in zip(pipeline.image_processor.postprocess(decoded), scenes, strict=True):
            yield image, set(scene.kinds)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=Path("models/tiny-sd"), help="diffusers folder")
    parser.add_argument("--adapter", type=Path, help="folder with pytorch_lora_weights.safetensors")
    parser.add_argument("--images", type=Path, help="judge these PNG files and prompts.jsonl instead of generating images")
    parser.add_argument("--style", choices=sorted(STYLES), default="colour", help="which classifier judges (default: colour)")
    parser.add_argument("--count", type=int, default=100, help="prompts with one thing, and as many with two (default: 100)")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps (default: 25)")
    parser.add_argument("--guidance", type=float, default=3.0, help="classifier-free guidance (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise; prompts are always the same (default: 0)")
    parser.add_argument("--batch", type=int, default=20, help="images per batch (default: 20)")
    parser.add_argument("--train-seeds", type=int, nargs="+", default=[1, 2], help="series whose captions are no prompts")
    parser.add_argument("--train-scenes", type=int, default=20_000, help="scenes of each such series (default: 20000)")
    parser.add_argument("--cache-dir", type=Path, default=CACHE, help=f"folder of trained classifiers (default: {CACHE})")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet, green borders for hits")
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("--save", type=Path, help="save the generated images, to judge them again with --images")
    parser.add_argument("--min-one", type=float, default=0.0, help="exit 1 below this share of hits with one thing")
    parser.add_argument("--min-two", type=float, default=0.0, help="exit 1 below this share of hits with two things")
    parser.add_argument("--min-sketches", type=float, default=0.0, help="exit 1 if fewer are classified as sketches (a share)")
    parser.add_argument("--max-sketches", type=float, default=1.0, help="exit 1 if more are classified as sketches (a share)")
    args = parser.parse_args(argv)
    if args.images and args.adapter:
        parser.error("--adapter has no effect with --images, which generates nothing: give one of them")
    if args.adapter and not (args.adapter / "pytorch_lora_weights.safetensors").is_file():
        parser.error(f"{args.adapter} has no pytorch_lora_weights.safetensors: give another folder with --adapter")
    if args.count < 2:
        parser.error(f"--count must be 2 or more, as chance compares images; received {args.count}: use more")
    folder, file = (args.images, "prompts.jsonl") if args.images else (args.base, "model_index.json")
    if not (folder / file).is_file():
        parser.error(f"{folder} has no {file}: give another folder with {'--images' if args.images else '--base'}")
    return args


def generate_all(
    args: argparse.Namespace, classifier: KindClassifier
) -> tuple[list[tuple[Image.Image, str, frozenset[str]]], dict[str, Any]]:
    """Generates an image for every prompt; also returns what the report says about them."""
    known = training_captions(args.train_seeds, args.train_scenes)
    chosen = [prompt for things in (1, 2) for prompt in prompts(args.count, things, known)]
    print(f"{len(chosen)} prompts, none of them among {len(known)} training captions")
    pipeline = load_pipeline(args.base, args.adapter)
    ceiling = {}
    for things in (1, 2):
        scenes, kinds = zip(*reconstructed_scenes(pipeline, args.style, things, args.count), strict=True)
        hits = [is_hit(kind_names, detected) for kind_names, detected in zip(kinds, classifier.detect(scenes), strict=True)]
        ceiling[WORDS[things]] = sum(hits) / len(hits)
    print(f"real scenes through the base's VAE: one thing {ceiling['one']:.1%}, two things {ceiling['two']:.1%} hits")
    started = time.monotonic()
    images = generate(pipeline, [text for text, _ in chosen], Sampling(args.steps, args.guidance, args.seed, args.batch))
    details = {
        "base": str(args.base),
        "unet_sha256": file_digest(args.base / "unet" / "diffusion_pytorch_model.safetensors"),
        "adapter": args.adapter and str(args.adapter),
        "adapter_sha256": args.adapter and file_digest(args.adapter / "pytorch_lora_weights.safetensors"),
        "steps": args.steps,
        "guidance": args.guidance,
        "seed": args.seed,
        "generation_s": round(time.monotonic() - started, 1),
        "vae_ceiling": ceiling,
    }
    return [(image, text, kinds) for image, (text, kinds) in zip(images, chosen, strict=True)], details


def print_accuracy(style: str, classifier: KindClassifier) -> None:
    """Prints the accuracy of the classifier itself."""
    for word in ("one", "two"):
        shares = {key: classifier.figures[f"{word}_{key}"] for key in ("hit", "exact", "false_positive")}
        print(
            f"classifier on real {style} scenes, {things_in_words(word)}: {shares['hit']:.1%} hits, "
            f"{shares['exact']:.1%} without anything else, {shares['false_positive']:.1%} with something that is not there"
        )
    print(f"classifier on noise and shuffled tiles: something detected in {classifier.figures['nonsense_false_positive']:.1%}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark and returns the exit status."""
    args = parse_arguments(argv)
    classifier = train_kind_classifier(args.style, args.cache_dir)
    style_classifier = train_style_classifier(args.cache_dir)
    print_accuracy(args.style, classifier)
    rows, details = (read_images(args.images), {"images": str(args.images)}) if args.images else generate_all(args, classifier)
    if args.save:
        write_images(args.save, rows)
    images = [image for image, _, _ in rows]
    results = [
        JudgedImage(image, text, kinds, frozenset(detected), is_hit(kinds, detected))
        for (image, text, kinds), detected in zip(rows, classifier.detect(images), strict=True)
    ]
    figures, sketch_share = hit_figures(results), sum(style_classifier.sketches(images)) / len(images)
    asked = Counter(kind for one in results for kind in one.kinds)
    missed = Counter(kind for one in results for kind in one.kinds - one.detected)
    for word, group in figures.items():
        print(
            f"{things_in_words(word)}: {group['hits']} of {group['prompts']} hit ({group['hit_share']:.1%}); "
            f"chance {group['chance']:.1%}; something unnamed detected in {group['unnamed_share']:.1%} of the images"
        )
    print("missed most: " + (", ".join(f"{kind} {n} of {asked[kind]}" for kind, n in missed.most_common(6)) or "nothing"))
    print(
        f"look like sketches: {sketch_share:.1%} of the images "
        f"(of real scenes {style_classifier.accuracy:.1%} are classified correctly, "
        f"{style_classifier.greyed_accuracy:.1%} without their colour)"
    )
    if args.sheet:
        contact_sheet(results).save(args.sheet)
    if args.json:
        report = {
            "command": command_line(argv),
            "machine": machine(),
            "versions": versions(),
            **details,
            "style": args.style,
            "classifier": classifier.figures,
            "style_classifier": {"accuracy": style_classifier.accuracy, "greyed_accuracy": style_classifier.greyed_accuracy},
            "hits": figures,
            "kinds": {kind: {"asked": asked[kind], "detected": asked[kind] - missed[kind]} for kind in KINDS},
            "sketch_share": sketch_share,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    broken = [
        f"below the bound of {bound:.1%} for {things_in_words(word)}"
        for word, bound in (("one", args.min_one), ("two", args.min_two))
        if figures.get(word, {"hit_share": 0.0})["hit_share"] < bound
    ]
    if not args.min_sketches <= sketch_share <= args.max_sketches:
        broken.append(f"outside the bounds of {args.min_sketches:.1%} to {args.max_sketches:.1%} for what looks like a sketch")
    for line in broken:
        print(line)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
