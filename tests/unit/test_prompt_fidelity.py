"""The prompt fidelity benchmark: its prompts, what it counts as a hit, and when its classifier is retrained."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from atelier_trainer.synthetic.scenes.dataset import render
from atelier_trainer.synthetic.scenes.scene import KINDS
from atelier_trainer.synthetic.tiny_base.image_cache import render_images as base_images
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # its modules lie beside the command, in no package

import classifier.train as judge
import prompt_fidelity as fidelity
from classifier import prompts
from classifier.report import JudgedImage, contact_sheet, read_images, write_images
from classifier.scenes import CELLS, IGNORED, NOTHING, SIDE, augment, cells_of, nonsense, transform_pixels


@pytest.fixture(scope="module")
def known() -> set[str]:
    return prompts.training_captions([1, 2], 400)


def _image(colour: str = "white") -> Image.Image:
    return Image.new("RGB", (128, 128), colour)


@pytest.mark.parametrize("things", [1, 2])
def test_prompts_are_new_distinct_and_name_their_things(known: set[str], things: int) -> None:
    chosen = prompts.prompts(30, things, known)
    texts = [text for text, _ in chosen]
    assert len(set(texts)) == 30
    assert not known.intersection(texts)
    for text, kinds in chosen:
        assert len(kinds) == things
        assert set(re.findall("[a-z]+", text)) & set(KINDS) == kinds


class _Everything(set[str]):
    def __contains__(self, text: object) -> bool:
        return True


def test_a_known_caption_is_no_prompt_and_the_rest_stay() -> None:
    first, *rest = prompts.prompts(5, 2, set())
    assert prompts.prompts(4, 2, {first[0]}) == rest
    with pytest.raises(ValueError, match="only 0 of 1 captions of series 2000"):
        prompts.prompts(1, 1, _Everything())


def test_training_captions_are_those_of_the_tiny_base(tmp_path: Path) -> None:
    _, captions = base_images(tmp_path, "colour", 5, 2)
    assert {text for texts in captions for text in texts} == prompts.training_captions([2], 5)
    assert render(2, 3, "sketch", 64)[1] in prompts.training_captions([2], 4)


def test_a_hit_is_every_thing_named() -> None:
    assert prompts.is_hit({"cat"}, {"cat"})
    assert prompts.is_hit({"cat"}, {"cat", "sun"})
    assert not prompts.is_hit({"cat", "sun"}, {"sun"})
    assert not prompts.is_hit({"cat"}, set())


def test_chance_is_the_hit_rate_of_shuffled_images() -> None:
    kind_names = [frozenset({kind}) for kind in ("cat", "cat", "sun", "car")]
    assert prompts.chance_hit_share(kind_names, kind_names) == pytest.approx(2 / 12)
    assert prompts.chance_hit_share(kind_names, [frozenset(KINDS)] * 4) == 1.0
    assert prompts.chance_hit_share(kind_names, [frozenset()] * 4) == 0.0
    rng = np.random.default_rng(0)
    labels = [frozenset({KINDS[k]}) for k in rng.integers(len(KINDS), size=300)]
    assert prompts.chance_hit_share(labels, labels) == pytest.approx(1 / len(KINDS), abs=0.01)
    with pytest.raises(ValueError, match="two images or more; received 1"):
        prompts.chance_hit_share(kind_names[:1], kind_names[:1])


def test_cache_key_follows_generator_settings_and_style(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = judge.Settings()
    key = judge.cache_key(settings, "colour")
    assert judge.cache_key(settings, "colour") == key
    others = {judge.cache_key(settings, "sketch"), judge.cache_key(replace(settings, epochs=1), "colour")}

    def changed_render(*args: object, **more: Any) -> object:
        image, text, scene = render(*args, **more)  # type: ignore[arg-type]
        return ImageOps.mirror(image), text, scene

    monkeypatch.setattr(judge, "render", changed_render)
    others.add(judge.cache_key(settings, "colour"))
    assert len(others | {key}) == 4


def test_cells_say_what_is_where() -> None:
    for index in range(20):
        scene = render(1000, index, "colour", 64)[2]
        cells = cells_of(scene)
        assert {KINDS[c] for c in cells.ravel() if c not in (NOTHING, IGNORED)} == set(scene.kinds)
        for thing in scene.things:
            assert cells[int(thing.cy * CELLS), int(thing.cx * CELLS)] == KINDS.index(thing.kind)


def test_distortions_keep_shapes_and_classes() -> None:
    torch.manual_seed(0)
    image, _, scene = render(1000, 1, "colour", 128)
    pixels = np.stack([np.asarray(image.resize((SIDE, SIDE)))] * 16)
    cells = np.stack([cells_of(scene)] * 16)
    images, classes = augment(pixels, cells, for_style=False)
    assert images.shape == (16, 3, SIDE, SIDE)
    assert (classes[:2] == NOTHING).all()
    assert set(classes[2:].unique().tolist()) == {*map(KINDS.index, scene.kinds), NOTHING, IGNORED}
    assert transform_pixels(pixels, nonsense).shape == pixels.shape


def test_a_thing_is_found_from_its_threshold_on() -> None:
    def network(batch: torch.Tensor) -> torch.Tensor:
        cells = torch.full((len(batch), NOTHING + 1, CELLS, CELLS), -9.0)
        cells[:, NOTHING] = 0.0
        cells[:, 3, 2, 2] = 1.0  # in one cell a probability of 0.73, a logit of 1
        return cells

    low, high = (np.full(len(KINDS), at, np.float32) for at in (0.9, 1.1))
    assert judge.KindClassifier(network, low, {}).detect([_image()]) == [{KINDS[3]}]
    assert judge.KindClassifier(network, high, {}).detect([_image()] * 2) == [set(), set()]


def test_images_go_out_and_come_back(tmp_path: Path) -> None:
    rows = [(_image("red"), "a red apple", frozenset({"apple"})), (_image(), "a sun over a cat", frozenset({"sun", "cat"}))]
    write_images(tmp_path, rows)
    assert [row[1:] for row in read_images(tmp_path)] == [row[1:] for row in rows]
    (tmp_path / "prompts.jsonl").write_text('{"file_name": "0000.png", "text": "a dog", "kinds": ["dog"]}\n')
    with pytest.raises(ValueError, match=r"line 1 must have .* received .*dog"):
        read_images(tmp_path)


def test_sheet_frames_hits_green_and_misses_red() -> None:
    detections: tuple[frozenset[str], ...] = (frozenset({"cat"}), frozenset())
    pair = [JudgedImage(_image(), "a cat", frozenset({"cat"}), detected, bool(detected)) for detected in detections]
    whole = np.asarray(contact_sheet(pair, columns=2)).astype(int)
    (_, green, _), (red, _, _) = whole[30, 7], whole[30, whole.shape[1] // 2 + 5]
    assert green > 100 > whole[30, 7, 0]
    assert red > 100 > whole[30, whole.shape[1] // 2 + 5, 1]


@pytest.mark.parametrize(
    ("flag", "bound", "status"),
    [
        ("--min-one", "0.5", 0),
        ("--min-one", "0.6", 1),
        ("--min-sketches", "0.25", 0),
        ("--min-sketches", "0.3", 1),
        ("--max-sketches", "0.25", 0),
        ("--max-sketches", "0.2", 1),
    ],
)
def test_command_judges_images_and_keeps_to_the_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, bound: str, status: int
) -> None:
    write_images(tmp_path, [(_image(), f"a {kind}", frozenset({kind})) for kind in ("cat", "cat", "sun", "sun")])
    shares = {f"{word}_{key}": 1.0 for word in ("one", "two") for key in ("hit", "exact", "false_positive")}

    class Cats:
        accuracy = greyed_accuracy = 1.0

        def __init__(self) -> None:
            self.figures = {**shares, "nonsense_false_positive": 0.0}

        def detect(self, images: list[Image.Image]) -> list[set[str]]:
            return [{"cat"} for _ in images]

        def sketches(self, images: list[Image.Image]) -> list[bool]:
            return [True, False, False, False]

    monkeypatch.setattr(fidelity, "train_kind_classifier", lambda *_: Cats())
    monkeypatch.setattr(fidelity, "train_style_classifier", lambda *_: Cats())
    out = tmp_path / "figures.json"
    argv = ["--images", str(tmp_path), "--json", str(out), "--sheet", str(tmp_path / "sheet.png"), flag, bound]
    assert fidelity.main(argv) == status
    report = json.loads(out.read_text())
    assert report["hits"]["one"] == {
        "prompts": 4,
        "hits": 2,
        "hit_share": 0.5,
        "chance": pytest.approx(0.5),
        "unnamed_share": 0.5,
    }
    assert report["kinds"]["sun"] == {"asked": 2, "detected": 0}
    assert report["sketch_share"] == 0.25
    assert report["machine"]["cores"] >= 1
    assert f"{flag} {bound}" in report["command"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--count", "1"], "received 1"),
        (["--adapter", "nowhere"], "nowhere has no pytorch_lora_weights.safetensors"),
        (["--base", "nowhere"], "nowhere has no model_index.json"),
        (["--images", "a", "--adapter", "b"], "give one of them"),
    ],
)
def test_command_refuses(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fidelity.main(argv)
    assert message in capsys.readouterr().err
