"""The drawing page in a headless Chromium."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from atelier_contracts import names
from atelier_contracts.generate import GenerationMetadata
from atelier_contracts.manifests import BundleManifest
from atelier_contracts.styles import Recommended, Style
from atelier_infer.engine import denoising_state
from atelier_infer.generation import service as service_module
from PIL import Image
from playwright.sync_api import Browser, expect

from ..conftest import SECRET, Service
from ..fake_store import FakeStore
from ..support import make_noise_non_finite
from ..tiny_bundle import adapter_tensors, build_adapter

pytestmark = pytest.mark.browser
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def chromium(launch_chromium: Callable[..., Browser]) -> Iterator[Any]:
    started = launch_chromium()
    yield started
    started.close()


@pytest.fixture
def open_page(
    chromium: Any, service: Service, store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path
) -> Iterator[Any]:
    """A factory of tabs with a token; version 2 is another style, version 1 the champion with a validation image."""
    build_adapter(tmp_path / "second", bundle[1].digest(), adapter_tensors(seed=5))
    store.publish_adapter(tmp_path / "second")
    store.images[1] = service.generate().content
    contexts, faults = [], []

    def make(address: str = "", *, token: str | None = SECRET, **options: Any) -> Any:
        context = chromium.new_context(accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{service.client.base_url}/{address}")
        if token:
            page.get_by_role("textbox", name="Your token").fill(token)
            page.get_by_role("button", name="Continue").click()
            page.get_by_role("checkbox", name="version 2").wait_for()
        return page

    yield make
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(denoising_state.DenoisingState):
        def step(self, model_output: Any) -> None:
            time.sleep(0.15)
            super().step(model_output)

    monkeypatch.setattr(service_module, "DenoisingState", Slow)


def generate(page: Any, prompt: str = "a cat", steps: int | None = 4, seed: str = "7") -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Steps").fill("" if steps is None else str(steps))
    page.get_by_label("Seed", exact=True).fill(seed)
    page.get_by_role("button", name="Generate", exact=True).click()


def download(page: Any, which: int = 0) -> bytes:
    with page.expect_download() as caught:
        page.get_by_role("link", name="Download PNG").nth(which).click()
    with open(caught.value.path(), "rb") as file:
        return file.read()


def test_previews_appear_and_the_image_is_downloaded_with_its_metadata(open_page: Any, service: Service, slow: Any) -> None:
    page = open_page()
    generate(page, "a cät on a chair", steps=12)
    image = page.locator("#results img")
    expect(image).to_have_class("preview")
    assert image.get_attribute("src").startswith("data:image/webp")
    expect(page.locator("#results .state")).to_contain_text("of 12")
    expect(page.get_by_role("link", name="Download PNG")).to_be_visible(timeout=PATIENCE_MS)
    assert image.get_attribute("alt") == "a cät on a chair, generated with champion"
    png = download(page)
    results = GenerationMetadata.model_validate_json(Image.open(io.BytesIO(png)).text[names.PNG_TEXT])  # type: ignore[attr-defined]
    assert (results.prompt, results.seed, results.steps, results.version) == ("a cät on a chair", 7, 12, "1")
    assert service.client.post("/verify", content=png).json()["matches"]


def test_the_same_prompt_and_seed_across_styles(open_page: Any) -> None:
    page = open_page()
    page.get_by_role("checkbox", name="version 2").check()
    page.get_by_role("checkbox", name="base").check()
    generate(page, seed="")
    expect(page.get_by_role("link", name="Download PNG")).to_have_count(3)
    texts = [Image.open(io.BytesIO(download(page, index))).text[names.PNG_TEXT] for index in range(3)]  # type: ignore[attr-defined]
    results = [GenerationMetadata.model_validate_json(text) for text in texts]
    assert {one.version for one in results} == {"1", "2", "base"}
    assert len({one.seed for one in results}) == 1


def test_a_style_is_described_and_its_recommended_values_apply(
    open_page: Any, service: Service, store: FakeStore, publish: Callable[..., int]
) -> None:
    style = Style(title="Ink", trigger_words=("sumi",), licence="MIT", recommended=Recommended(steps=3, scale=0.5))
    stream = io.BytesIO()
    Image.new("RGB", (90, 60), "teal").save(stream, "webp")
    number = publish(seed=6, style=style, preview_sha256=hashlib.sha256(stream.getvalue()).hexdigest())
    (store.folders[number] / names.PREVIEW_FILE).write_bytes(stream.getvalue())
    assert service.generate(version=number).status_code == 200, "it is in memory"
    page = open_page()
    ink = page.locator(".style", has_text="Ink")
    expect(ink).to_contain_text("Trigger words: sumi")
    expect(ink).to_contain_text("Licence: MIT")
    expect(ink.locator("img")).to_be_visible()
    assert page.get_by_label("Steps").get_attribute("placeholder") == "25"
    ink.get_by_role("checkbox").check()
    assert page.get_by_label("Steps").get_attribute("placeholder") == "as each style says"
    page.get_by_role("checkbox", name="champion").first.uncheck()
    assert page.get_by_label("Steps").get_attribute("placeholder") == "3"
    generate(page, steps=None)
    expect(page.locator("#results .state")).to_contain_text("3 steps")
    expect(page.locator("#results .state")).to_contain_text("scale, steps as recommended")
    metadata = GenerationMetadata.model_validate_json(Image.open(io.BytesIO(download(page))).info[names.PNG_TEXT])
    assert (metadata.steps, metadata.adapters[0].weight, metadata.guidance_scale) == (3, 0.5, 5.0)


def test_styles_show_their_validation_image(open_page: Any) -> None:
    page = open_page()
    champion = page.locator(".style", has=page.get_by_role("checkbox", name="now version 1"))
    expect(champion.locator("img")).to_be_visible(timeout=PATIENCE_MS)
    expect(champion).to_contain_text("now version 1")
    expect(page.locator(".style", has=page.get_by_role("checkbox", name="version 2")).locator(".placeholder")).to_have_text("2")


@pytest.mark.parametrize("how", ["button", "key"])
def test_cancel_and_try_again(open_page: Any, service: Service, slow: Any, how: Any) -> None:
    page = open_page()
    generate(page, steps=100)
    expect(page.locator("#results .state")).to_contain_text("of 100")
    if how == "button":
        page.get_by_role("button", name="Cancel: champion").click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator("#results .state")).to_have_text("cancelled")
    service.wait(lambda: service.engine.admission.admitted == 0)
    page.get_by_role("button", name="Try again: champion").click()
    expect(page.locator("#results .state")).to_contain_text("of 100")


def test_an_error_is_shown_in_place_of_the_image(open_page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page()
    make_noise_non_finite(monkeypatch)
    generate(page)
    reported = page.locator("#results").get_by_role("alert")
    expect(reported).to_contain_text("NaN or infinity")
    monkeypatch.undo()
    page.get_by_role("button", name="Try again: champion").click()
    expect(page.get_by_role("link", name="Download PNG")).to_be_visible(timeout=PATIENCE_MS)


def test_a_missing_token_is_requested(open_page: Any) -> None:
    page = open_page()
    page.get_by_role("checkbox", name="now version 1").uncheck()
    generate(page)
    expect(page.locator("#notice")).to_have_text("Choose at least one style.")


def test_offline_and_online_again(open_page: Any, slow: Any) -> None:
    page = open_page()
    generate(page)
    expect(page.get_by_role("link", name="Download PNG")).to_be_visible(timeout=PATIENCE_MS)
    page.context.set_offline(True)
    expect(page.locator("#notice")).to_contain_text("offline")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("#results").get_by_role("alert")).to_contain_text("cannot be reached")
    expect(page.locator("#history img")).to_have_count(1)  # what was drawn stays
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again: champion").click()
    expect(page.get_by_role("link", name="Download PNG")).to_be_visible(timeout=PATIENCE_MS)


def test_a_link_restores_the_whole_request(open_page: Any) -> None:
    page = open_page()
    page.get_by_role("checkbox", name="version 2").check()
    page.get_by_role("checkbox", name="now version 1").uncheck()
    page.get_by_label("Width").select_option("48")
    generate(page, "a dög & a bird", seed="99")
    expect(page.get_by_role("link", name="Download PNG")).to_be_visible(timeout=PATIENCE_MS)
    first = download(page)
    other = open_page("#" + page.url.split("#")[1])
    expect(other.get_by_label("Prompt", exact=True)).to_have_value("a dög & a bird")
    expect(other.get_by_role("checkbox", name="version 2")).to_be_checked()
    expect(other.get_by_role("checkbox", name="now version 1")).not_to_be_checked()
    other.get_by_role("button", name="Generate", exact=True).click()
    expect(other.get_by_role("link", name="Download PNG")).to_be_visible(timeout=PATIENCE_MS)
    assert download(other) == first
    assert SECRET not in page.url


def test_history_outlives_the_page_and_fills_the_form(open_page: Any) -> None:
    page = open_page()
    generate(page, "a bird", seed="3")
    expect(page.locator("#history img")).to_have_count(1)
    page.goto(page.url.split("#")[0])
    page.reload()  # the token stays in the tab
    expect(page.get_by_role("checkbox", name="version 2")).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("button", name="a bird, champion").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a bird")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("3")
    page.get_by_role("button", name="Clear history").click()
    expect(page.locator("#history img")).to_have_count(0)


def test_an_invalid_token_must_be_entered_again(open_page: Any) -> None:
    page = open_page(token=None)
    page.get_by_role("textbox", name="Your token").fill("wrong")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#notice")).to_have_text("This token is not valid.")
    page.get_by_role("textbox", name="Your token").fill(SECRET)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("checkbox", name="version 2")).to_be_visible(timeout=PATIENCE_MS)
    assert page.evaluate("localStorage.length") == 0


def test_on_a_phone_nothing_is_wider_than_the_screen(open_page: Any) -> None:
    page = open_page(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    generate(page)
    expect(page.get_by_role("link", name="Download PNG")).to_be_visible(timeout=PATIENCE_MS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.evaluate(
        "[...document.querySelectorAll('button, select, input:not([type=checkbox]), textarea')]"
        ".filter((one) => one.offsetParent && one.offsetHeight < 44).map((one) => one.id || one.textContent)"
    )
    assert small == []


def test_by_keyboard_alone(open_page: Any) -> None:
    page = open_page()
    page.keyboard.press("Tab")  # the link over the form comes first
    expect(page.locator(".skip")).to_be_focused()
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.type("a cat")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("link", name="Download PNG")).to_be_visible(timeout=PATIENCE_MS)
    assert page.evaluate(
        "[...document.querySelectorAll('input, select, textarea')].every((one) => one.labels.length || one.closest('dialog'))"
    )
