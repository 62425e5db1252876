"""Prompts that no base model was trained on, and how often what they name is found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from atelier_trainer.synthetic.scenes.captions import caption
from atelier_trainer.synthetic.scenes.scene import sample_scene

from classifier.report import (
    JudgedImage,
)

PROMPT_SEED = 2000
"""First of the series for prompts: this one names one thing, the next one two."""
CAPTIONS_PER_SCENE = 4  # the tiny base's: a scene's own, and three more from a series of their own
WORDS = {1: "one", 2: "two", 3: "three"}


def training_captions(seeds: Iterable[int], scenes_count: int) -> set[str]:
    """Every caption that a base can have seen of the first scenes of some series; nothing is rendered."""
    texts = set()
    for seed in seeds:
        for index in range(scenes_count):
            rng = np.random.default_rng([seed, index])
            scene = sample_scene(rng)
            texts.add(caption(scene, rng))
            more = np.random.default_rng([seed, index, 1])
            texts.update(caption(scene, more) for _ in range(CAPTIONS_PER_SCENE - 1))
    return texts


def prompts(count: int, things: int, known: AbstractSet[str], seed: int | None = None) -> list[tuple[str, frozenset[str]]]:
    """Makes distinct captions outside `known`, each with the kinds that it names.

    Args:
        count: number of prompts.
        things: number of things that each names, 1 to 3.
        known: captions to leave out.
        seed: the series; None for the usual one.

    Raises:
        ValueError: the series gives too few captions outside `known`.
    """
    seed = PROMPT_SEED + things - 1 if seed is None else seed
    chosen: dict[str, frozenset[str]] = {}
    for index in range(1000 * count):
        if len(chosen) == count:
            break
        rng = np.random.default_rng([seed, index])
        scene = sample_scene(rng, count=things)
        text = caption(scene, rng)
        if text not in known:
            chosen[text] = frozenset(scene.kinds)
    if len(chosen) < count:
        raise ValueError(f"only {len(chosen)} of {count} captions of series {seed} are outside `known`: ask for fewer")
    return list(chosen.items())


def is_hit(kinds: AbstractSet[str], detected: AbstractSet[str]) -> bool:
    """Every kind named is detected; others may be detected as well."""
    return kinds <= detected


def chance_hit_share(kind_names: Sequence[AbstractSet[str]], detected: Sequence[AbstractSet[str]]) -> float:
    """Hit rate expected when each image is judged by another's prompt: the mean over all such pairs.

    Raises:
        ValueError: there are fewer than two images.
    """
    if len(kind_names) < 2:
        raise ValueError(f"chance takes two images or more; received {len(kind_names)}: use more")
    hits = [is_hit(kinds, here) for i, kinds in enumerate(kind_names) for j, here in enumerate(detected) if i != j]
    return sum(hits) / len(hits)


def hit_figures(results: Sequence[JudgedImage]) -> dict[str, dict[str, float]]:
    """Figures for the prompts that name one thing, two things and so on."""
    figures = {}
    for things in sorted({len(one.kinds) for one in results}):
        group = [one for one in results if len(one.kinds) == things]
        hits = sum(one.is_hit for one in group)
        figures[WORDS.get(things, str(things))] = {
            "prompts": len(group),
            "hits": hits,
            "hit_share": hits / len(group),
            "chance": chance_hit_share([one.kinds for one in group], [one.detected for one in group]),
            "unnamed_share": sum(bool(one.detected - one.kinds) for one in group) / len(group),
        }
    return figures


def things_in_words(word: str) -> str:
    """`one thing`, `two things` and so on."""
    return f"{word} thing" if word == "one" else f"{word} things"
