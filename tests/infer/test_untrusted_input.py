"""Whatever is in an image, a manifest, a file of weights or a header: it is read, or refused with an error of the tree."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atelier_contracts import names
from atelier_contracts.generate import GenerationMetadata
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_contracts.tokens import TokenFile, TokenFileError, parse_tokens
from atelier_infer.aliases import last_known_aliases
from atelier_infer.api.content_negotiation import negotiate
from atelier_infer.api.verify import to_generate_request
from atelier_infer.artifacts.artifact_cache import ArtifactCache
from atelier_infer.errors import InferError, InvalidImageError, NotAcceptableError, RefusedError, RequestError
from atelier_infer.generation.image_codec import IMAGE_DESCRIPTION, JSON, PNG, WEBP, encode_png, read_image
from atelier_infer.pipeline.adapter import FLOATS, Adapter
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .fake_store import FakeStore
from .tiny_bundle import TARGETS, adapter_tensors, build_adapter, read_adapter

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([2**63, 10**400, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(["/etc", "..", "", "../bundles/" + "a" * 64, "a" * 300, "A" * 64, "a" * 64 + "\n", "\x00", "a/b"])
DRAWN = {
    "model": "sketches", "version": "1", "adapter_digest": "a" * 64, "bundle_digest": "b" * 64, "prompt": "a cat",
    "negative_prompt": "", "steps": 2, "guidance_scale": 2.0, "guidance_until": 1.0, "seed": 1, "width": 4, "height": 4,
    "scheduler": "ddim", "adapters": [{"version": 1, "digest": "a" * 64, "weight": 1.0}],
}  # fmt: skip
CHANGES = st.dictionaries(st.sampled_from(list(DRAWN)), VALUES | PATHS, max_size=3)
WORDS = st.sampled_from(
    [PNG, WEBP, JSON, "*/*", "image/*", "q=0", "q=1e999", "q=nan", "q=-1", "q=", ";", ",", "=", "\x00", "é"]
)


def encoded_image(text: str | bytes, form: str) -> bytes:
    """An image of 4 x 4 px with any text."""
    stream, image = BytesIO(), Image.new("RGB", (4, 4))
    if form == "png":
        info = PngInfo()
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        info.add(b"iTXt", names.PNG_TEXT.encode() + b"\0\0\0\0\0" + raw)
        image.save(stream, "png", pnginfo=info)
    else:
        exif = Image.Exif()
        exif[IMAGE_DESCRIPTION] = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        image.save(stream, "webp", exif=exif)
    return stream.getvalue()


def read(content: bytes) -> None:
    """As `/verify` does: the image, then the request that its text makes."""
    try:
        results, pixels = read_image(content, 64)
    except InvalidImageError:
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3
    assert all(
        len(digest) == 64 and digest.isalnum() for digest in [results.bundle_digest, *(a.digest for a in results.adapters)]
    )
    try:
        to_generate_request(results)
    except RequestError:
        return


@settings(SHARED, max_examples=40)
@given(CHANGES, st.sampled_from(["png", "webp"]))
def test_any_field_of_an_images_text(changes: dict[str, Any], form: str) -> None:
    read(encoded_image(json.dumps(DRAWN | changes), form))


@SHARED
@given(st.text() | st.binary(max_size=80) | VALUES.map(json.dumps), st.sampled_from(["png", "webp"]))
@example("[" * 100_000, "png")
@example('{"seed": ' + "9" * 100_000 + "}", "png")
def test_any_text_of_an_image(text: bytes | str, form: str) -> None:
    read(encoded_image(text, form))


@SHARED
@given(st.data(), st.sampled_from(["png", "webp"]))
def test_any_damage_of_an_image(data: Any, form: str) -> None:
    content = bytearray(encoded_image(json.dumps(DRAWN), form))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=6)):
        content[place] = value
    read(bytes(content[: data.draw(st.integers(0, len(content)))]))


def test_an_image_of_ours_is_read() -> None:
    """So that the tests above do not pass by refusing everything."""
    results = GenerationMetadata.model_validate(DRAWN)
    assert read_image(encode_png(np.zeros((4, 4, 3), np.uint8), results), 64)[0] == results
    assert read_image(encoded_image(json.dumps(DRAWN), "webp"), 64)[0] == results


@given(st.text(max_size=60) | st.lists(WORDS | st.text(max_size=4), max_size=8).map("".join))
def test_any_accept_header(accept: str) -> None:
    try:
        assert negotiate(accept, (PNG, WEBP, JSON)) in (PNG, WEBP, JSON)
    except NotAcceptableError as error:
        assert "Accept must allow" in str(error)


KINDS = st.sampled_from(["F16", "F32", "F64", "BF16", "F8_E4M3", "I64", "U8", "BOOL", "X"])
SHAPES = st.sampled_from([[2, 4], [6, 2], [2, 6], [4, 2], [0, 4], [2], [], [2**40, 4], [2**63, 2**63], [-1, 4]])
KEYS = st.sampled_from([f"unet.{layer}.lora_{half}.weight" for layer in TARGETS for half in "AB"]) | st.text(max_size=9)
OFFSETS = st.just([0, 32]) | st.lists(st.integers(), max_size=3)
HEADER = st.dictionaries(
    KEYS,
    st.fixed_dictionaries({"dtype": KINDS | VALUES, "shape": SHAPES | VALUES, "data_offsets": OFFSETS}),
    max_size=4,
)  # fmt: skip


def arrays_of(adapter: Adapter) -> list[np.ndarray]:
    groups = [group for part in adapter.parts.values() for group in part.values()]
    return [array for group in groups for array in (group.a, group.b)]


def loads(folder: Path, bundle: BundleManifest) -> None:
    try:
        adapter = read_adapter(folder, bundle)
    except RefusedError:
        return
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in arrays_of(adapter))


@SHARED
@given(HEADER, st.binary(max_size=64), st.none() | st.integers(0, 2**64 - 1))
def test_any_header_of_weights(
    adapter: tuple[Path, AdapterManifest],
    bundle: tuple[Path, BundleManifest],
    header: dict[str, Any],
    data: bytes,
    length: int | None,
) -> None:
    text = json.dumps(header).encode()
    size = len(text) if length is None else length
    (adapter[0] / names.WEIGHTS_FILE).write_bytes(struct.pack("<Q", size) + text + data)
    loads(adapter[0], bundle[1])


@SHARED
@given(st.data())
def test_any_weights(adapter: tuple[Path, AdapterManifest], bundle: tuple[Path, BundleManifest], data: Any) -> None:
    """Well-formed files: shapes and kinds of number that fit, or do not; NaN and infinity."""
    tensors = adapter_tensors()
    for key in data.draw(st.lists(st.sampled_from(list(tensors)), max_size=2)):
        kind = data.draw(st.sampled_from([*FLOATS, np.int64, np.uint8, np.bool_]))
        shape = data.draw(st.sampled_from([tensors[key].shape, tensors[key].shape[::-1], (), (0,), (2, 4, 1)]))
        value = data.draw(st.sampled_from([0.5, np.nan, np.inf, 1e300]))
        with np.errstate(all="ignore"):
            tensors[key] = np.full(shape, value, np.float64).astype(kind)
    build_adapter(adapter[0], bundle[1].digest(), tensors)
    loads(adapter[0], bundle[1])


FIELDS = st.sampled_from(["format", "bundle_digest", "weights_sha256", "layers", "run_id", "files", "base"])


def tree(folder: Path) -> set[str]:
    return {os.path.relpath(path, folder) for path in folder.rglob("*")}


@SHARED
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | st.dictionaries(FIELDS, VALUES | PATHS, max_size=3))
def test_any_adapter_json(
    store: FakeStore,
    publish: Callable[..., int],
    bundle: tuple[Path, BundleManifest],
    tmp_path: Path,
    changes: bytes | dict[str, Any],
) -> None:
    """Nothing but a checked adapter is left behind, and nothing outside of the cache."""
    number = publish(seed=1) if not store.folders else 1
    file = store.folders[number] / names.ADAPTER_FILE
    whole = file.read_bytes()
    file.write_bytes(changes if isinstance(changes, bytes) else json.dumps(json.loads(whole) | changes).encode())
    cache = tmp_path / "inner" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    before = tree(tmp_path)
    try:
        loads(ArtifactCache(store, cache).adapter(number).folder, bundle[1])
    except InferError:
        assert tree(tmp_path) - before <= {"inner/cache/adapters"}
    else:
        assert all(new.startswith("inner/cache/adapters") for new in tree(tmp_path) - before)
    finally:
        file.write_bytes(whole)


@SHARED
@given(st.binary(max_size=60) | st.dictionaries(FIELDS, VALUES | st.dictionaries(PATHS, PATHS, max_size=2), max_size=3))
def test_any_bundle_json(
    store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path, changes: bytes | dict[str, Any]
) -> None:
    folder = tmp_path / "given"
    folder.mkdir(exist_ok=True)
    whole = (bundle[0] / names.BUNDLE_FILE).read_text()
    content = changes if isinstance(changes, bytes) else json.dumps(json.loads(whole) | changes).encode()
    (folder / names.BUNDLE_FILE).write_bytes(content)
    cache = tmp_path / "inner" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    if "c" * 64 not in store.bundle_folders:
        store.publish_bundle(folder, "c" * 64)
    before = tree(tmp_path)
    with pytest.raises(InferError):
        ArtifactCache(store, cache).bundle("c" * 64)
    assert tree(tmp_path) - before <= {"inner/cache/bundles"}


@SHARED
@given(st.binary(max_size=80) | VALUES.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 100_000))
def test_any_last_known(tmp_path: Path, content: bytes) -> None:
    (tmp_path / last_known_aliases.FILE).write_bytes(content)
    assert last_known_aliases.read(tmp_path, "sketches") is None


@SHARED
@given(st.dictionaries(st.sampled_from(["format", "model", "generation", "aliases"]), VALUES | PATHS, max_size=2))
def test_any_field_of_last_known(tmp_path: Path, changes: dict[str, Any]) -> None:
    promoted = {"version": 1, "adapter_digest": "a" * 64}
    whole = {"format": 1, "model": "sketches", "generation": "1", "aliases": {"champion": promoted}}
    (tmp_path / last_known_aliases.FILE).write_text(json.dumps(whole | changes))
    found = last_known_aliases.read(tmp_path, "sketches")
    assert found is None or found.model == "sketches"


LINES = st.builds(
    "{} {} {}".format,
    st.text(max_size=6),
    st.sampled_from(["reader", "admin", "root", "__class__"]),
    st.just("a" * 64) | st.text(),
)


@SHARED
@given(st.lists(LINES | st.text(max_size=20), max_size=4).map("\n".join))
def test_any_token_file(tmp_path: Path, text: str) -> None:
    try:
        tokens = parse_tokens(text)
    except TokenFileError as error:
        assert "a" * 64 not in str(error)
    else:
        assert len({token.id for token in tokens}) == len(tokens)
    path = tmp_path / "tokens"
    path.write_text("")
    known = TokenFile(path)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert known.find("some token") is None


@SHARED
@given(st.binary(min_size=1, max_size=60), st.text(max_size=9))
def test_any_bytes_of_a_token_file_that_changes_under_a_service(tmp_path: Path, content: bytes, secret: str) -> None:
    path = tmp_path / "tokens"
    path.write_text("")
    known = TokenFile(path)
    path.write_bytes(content)
    assert known.find(secret) is None
