"""Synthetic scenes: reproducible, captioned truthfully, in two distinct styles."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from atelier_trainer.synthetic.scenes.captions import MOST_WORDS, VOCABULARY, caption
from atelier_trainer.synthetic.scenes.dataset import contact_sheet, render, write_imagefolder
from atelier_trainer.synthetic.scenes.scene import COLOURS, GROUNDS, KINDS, Scene, Thing, sample_scene
from atelier_trainer.synthetic.scenes.shapes.shape import parts_of
from PIL import Image

_COLOUR_WORDS = "|".join(sorted({colour for colours in COLOURS.values() for colour in colours}))
_NOUN = re.compile(
    rf"(?:an?|one) (?:(?:big|large|tall|round) )?(?:({_COLOUR_WORDS}) )?({'|'.join(KINDS)})"
    rf"(?:(?<=person) (?:in ({_COLOUR_WORDS})|(?:in|with) a ({_COLOUR_WORDS}) shirt))?"
)


def _described(count: int, seed: int = 7) -> list[tuple[Scene, str]]:
    pairs = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        scene = sample_scene(rng)
        pairs.append((scene, caption(scene, rng)))
    return pairs


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


def test_scenes_vary_in_count_kind_and_ground() -> None:
    scenes = [scene for scene, _ in _described(600)]
    counts = [len(scene.things) for scene in scenes]
    assert {kind for scene in scenes for kind in scene.kinds} == set(KINDS)
    assert {scene.ground for scene in scenes} == set(GROUNDS)
    assert 0.42 < counts.count(1) / 600 < 0.58
    assert 0.27 < counts.count(2) / 600 < 0.43
    assert 0.32 < sum(scene.ground == "plain" for scene in scenes) / 600 < 0.48


def test_things_are_big_distinct_inside_and_apart() -> None:
    least = {1: 0.55, 2: 0.42, 3: 0.32}
    for scene, _ in _described(400):
        assert len(set(scene.kinds)) == len(scene.kinds)
        for thing in scene.things:
            assert thing.colour in COLOURS[thing.kind]
            assert least[len(scene.things)] <= thing.size <= 0.75
            assert thing.size / 2 - 0.03 <= min(thing.cx, thing.cy)
            assert max(thing.cx, thing.cy) <= 1.03 - thing.size / 2
        for k, thing in enumerate(scene.things):
            for other in scene.things[:k]:
                apart = max(abs(thing.cx - other.cx), abs(thing.cy - other.cy))
                assert apart > 0.88 * (thing.size + other.size) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_parts_fill_their_square_and_differ_between_seeds(kind: str) -> None:
    outlines = []
    for seed in range(12):
        points = np.concatenate([part.points for part in parts_of(Thing(kind, COLOURS[kind][0], 0.5, 0.5, 0.6, False, seed))])
        assert np.abs(points).max() == pytest.approx(0.5)
        assert np.abs(points.max(axis=0) + points.min(axis=0)).max() < 1e-9
        outlines.append(points[:, 1].std())
    assert len(set(outlines)) == 12


def test_requested_kinds_count_and_plain_ground_are_used() -> None:
    for seed in range(30):
        scene = sample_scene(np.random.default_rng(seed), ("cat", "sun", "car"), count=2, plain=True)
        assert set(scene.kinds) < {"cat", "sun", "car"}
        assert len(scene.things) == 2
        assert scene.ground == "plain"


def test_a_flying_thing_is_above_a_standing_one() -> None:
    for seed in range(60):
        sun, cat = sorted(
            sample_scene(np.random.default_rng(seed), ("cat", "sun"), count=2).things, key=lambda thing: thing.kind != "sun"
        )
        assert sun.cy < cat.cy + 0.2


@pytest.mark.parametrize(
    ("kinds", "count", "said"),
    [
        (("cat", "dragon"), None, "dragon"),
        ((), None, "at least one kind"),
        (("cat", "cat"), None, "only once"),
        (("cat",), 2, "between 1 and 1"),
        (KINDS, 4, "between 1 and 3"),
        (KINDS, 0, "received 0"),
    ],
)
def test_invalid_scenes_are_refused(kinds: tuple[str, ...], count: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sample_scene(np.random.default_rng(0), kinds, count)


def test_captions_name_every_thing_once_in_the_closed_vocabulary() -> None:
    used = set()
    for scene, text in _described(3000):
        words = re.findall(r"[a-z]+", text)
        assert text == " ".join(text.split()) and re.fullmatch(r"[a-z, ]+", text)
        assert len(words) <= MOST_WORDS
        assert sorted(word for word in words if word in KINDS) == sorted(scene.kinds), text
        used.update(words)
    assert used == set(VOCABULARY)
    assert len(VOCABULARY) <= 150
    assert not used & {"sketch", "painting", "pencil", "colourful", "line"}


def test_colours_are_those_of_the_things() -> None:
    named = 0
    for scene, text in _described(1500):
        colours = {thing.kind: thing.colour for thing in scene.things}
        nouns = _NOUN.findall(text)
        assert len(nouns) == len(scene.things), text
        for before, kind, *shirt in nouns:
            said = before or "".join(shirt)
            named += bool(said)
            assert said in ("", colours[kind]), text
    assert named > 1000


def test_captions_describe_the_layout_truthfully() -> None:
    claims = 0
    for scene, text in _described(3000):
        at = {thing.kind: thing for thing in scene.things}
        short = _NOUN.sub(r"<\2>", text)
        ordered = [  # (first, second): the first is farther left
            *re.findall(r"<(\w+)> (?:to the )?left of <(\w+)>", short),
            *[pair[::-1] for pair in re.findall(r"<(\w+)> (?:to the )?right of <(\w+)>", short)],
            *re.findall(r"<(\w+)> on the left and <(\w+)> on the right", short),
        ]
        for middle, left, right in re.findall(r"<(\w+)> between <(\w+)> and <(\w+)>", short):
            ordered += [(left, middle), (middle, right)]
        for left, middle, right in re.findall(r"<(\w+)>, <(\w+)> and <(\w+)> in a row", short):
            ordered += [(left, middle), (middle, right)]
        stacked = re.findall(r"<(\w+)> at the top and <(\w+)> at the bottom", short)
        for first, second, word, third, fourth in re.findall(
            r"(?:<(\w+)> and )?<(\w+)> (above|over|under|below) <(\w+)>(?: and <(\w+)>)?", short
        ):
            for one in filter(None, (first, second)):
                for other in filter(None, (third, fourth)):
                    stacked.append((one, other) if word in ("above", "over") else (other, one))
        level = re.findall(r"<(\w+)> (?:next to|beside) <(\w+)>", short)
        assert all(at[b].cx - at[a].cx > 0.2 for a, b in ordered), text
        assert all(at[b].cy - at[a].cy > 0.2 for a, b in stacked), text
        assert all(abs(at[a].cy - at[b].cy) < 0.15 for a, b in level), text
        if re.search(r"left|right|between|in a row|above|over|under|below|top|next to|beside", short):
            assert ordered or stacked or level, text
        claims += len(ordered) + len(stacked) + len(level)
    assert claims > 800


def test_captions_name_the_ground_truthfully() -> None:
    tells = {"meadow": "meadow|grass", "beach": "beach|sand|sea", "snow": "snow|snowy", "sea": "sea", "night": "night"}
    for scene, text in _described(1500):
        for ground, words in tells.items():
            if re.search(rf"\b(?:{words})\b", text):
                assert re.search(rf"\b(?:{tells.get(scene.ground, 'nothing')})\b", text), (ground, scene.ground, text)


def test_both_styles_show_the_same_scene_under_the_same_caption() -> None:
    for index in range(5):
        _, sketched, first = render(3, index, "sketch", 64)
        _, coloured, second = render(3, index, "colour", 128)
        assert (sketched, first) == (coloured, second)


@pytest.mark.parametrize("style", ["sketch", "colour"])
def test_an_image_depends_on_seed_and_index_alone(style: str) -> None:
    wanted = render(3, 4, style, 64)[0].tobytes()
    render(3, 0, style, 64)
    assert render(3, 4, style, 64)[0].tobytes() == wanted
    assert render(3, 5, style, 64)[0].tobytes() != wanted
    assert render(4, 4, style, 64)[0].tobytes() != wanted


def test_a_sketch_is_nearly_grey_and_light_and_a_painting_is_not() -> None:
    for index in range(8):
        sketched, coloured = (_pixels(render(1, index, style, 128)[0]) for style in ("sketch", "colour"))
        assert np.ptp(sketched, axis=2).max() <= 12
        assert sketched.mean() > 170
        assert sketched.min() < 130
        assert np.ptp(coloured, axis=2).max() > 60


@pytest.mark.parametrize("style", ["sketch", "colour"])
@pytest.mark.parametrize("size", [64, 72, 128, 256, 512])
def test_images_have_the_requested_size_and_show_the_same_scene(style: str, size: int) -> None:
    image = render(2, 1, style, size)[0]
    assert (image.mode, image.size) == ("RGB", (size, size))
    small, usual = (
        _pixels(rendered.resize((16, 16), Image.Resampling.BOX)) for rendered in (image, render(2, 1, style, 256)[0])
    )
    assert np.abs(small - usual).mean() < 14


@pytest.mark.parametrize(
    ("style", "size", "index", "said"),
    [
        ("oil", 128, 0, "'oil'"),
        ("sketch", 513, 0, "513"),
        ("sketch", 56, 0, "64 to 512"),
        ("colour", 520, 0, "520"),
        ("colour", 128, -1, "index -1"),
    ],
)
def test_invalid_render_arguments_are_refused(style: str, size: int, index: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        render(0, index, style, size)


def test_an_image_folder_is_complete_and_the_same_every_time(tmp_path: Path) -> None:
    write_imagefolder(tmp_path / "a", "sketch", 3, seed=5, size=64)
    (tmp_path / "b").mkdir()
    write_imagefolder(tmp_path / "b", "sketch", 3, seed=5, size=64)
    write_imagefolder(tmp_path / "c", "colour", 3, seed=5, size=64)
    names = ["000000.png", "000001.png", "000002.png", "metadata.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == names
    lines = (tmp_path / "a" / "metadata.jsonl").read_text()
    assert lines == (tmp_path / "c" / "metadata.jsonl").read_text()
    records = [json.loads(line) for line in lines.splitlines()]
    assert [record["file_name"] for record in records] == names[:3]
    assert records[2]["text"] == render(5, 2, "sketch", 64)[1]


def test_a_folder_in_use_or_a_count_of_zero_is_refused(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="used"):
        write_imagefolder(tmp_path / "used", "sketch", 1, seed=0, size=64)
    with pytest.raises(ValueError, match="received 0"):
        write_imagefolder(tmp_path / "new", "sketch", 0, seed=0)
    assert (tmp_path / "used" / "mine.txt").read_text() == "keep"


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="100"):
        write_imagefolder(tmp_path / "new", "sketch", 2, seed=0, size=100)
    assert list(tmp_path.iterdir()) == []


def test_a_contact_sheet_lays_images_out_in_rows() -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    sheet = contact_sheet(images, 2)
    assert sheet.size == (2 * 66 + 2, 2 * 66 + 2)
    assert sheet.getpixel((30, 100)) == (0, 0, 255)
    for refused, columns in (([], 2), (images, 0), ([*images, Image.new("RGB", (8, 8))], 2)):
        with pytest.raises(ValueError, match="contact sheet"):
            contact_sheet(refused, columns)
