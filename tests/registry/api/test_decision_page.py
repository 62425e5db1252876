"""The page in headless Chromium: with the keyboard, on a phone, and with everything that it decides."""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from atelier_contracts.names import TAG_STYLE
from atelier_contracts.styles import Recommended, RecordedEdits, Style, StyleEdits
from atelier_contracts.tokens import TokenFile
from atelier_registry.app import PAGE_FOLDER
from atelier_registry.bootstrap import Intervals, build_app
from atelier_registry.config.policy import Policy
from atelier_registry.events.event_stream import EventStream
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks
from PIL import Image
from playwright.sync_api import Browser

from ...servers import app_running
from ..adapter_files import ADAPTER, FILES
from ..conftest import Api
from ..fake_infer_client import FakeInferClient, png
from ..fake_registry import FakeRegistry

POLICY = Policy.model_validate(
    {"default": {"champion": {"output_finite": True}}, "models": {"watched": {"champion": {"approval": True}}}}
)
browser = pytest.mark.browser


def test_only_the_pages_files_need_no_token(start: Callable[..., Api], fake: FakeRegistry) -> None:
    client = start(fake).client
    index = client.get("/")
    assert index.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in index.headers["content-security-policy"]
    for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', index.text):
        assert client.get(name).status_code == 200
    assert {client.get(f"/static/{file.name}").status_code for file in PAGE_FOLDER.iterdir()} == {200}
    for path in ("/static/", "/static/x.js", "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py"):
        assert client.get(path).status_code in (401, 404)
    assert client.get("/models").status_code == 401


def test_the_page_loads_nothing_from_other_hosts_and_writes_no_markup() -> None:
    for file in PAGE_FOLDER.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text, file
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|localStorage", text), file


@pytest.fixture(scope="module")
def chromium(launch_chromium: Callable[..., Browser]) -> Iterator[Any]:
    started = launch_chromium()
    yield started
    started.close()


@pytest.fixture
def url(
    fake: FakeRegistry,
    ledger: Ledger,
    locks: AliasLocks,
    webhooks: WebhookDispatcher,
    token_file: Path,
    infer_client: FakeInferClient,
) -> Iterator[Any]:
    event_stream = EventStream(ledger.outbox)
    app = build_app(
        registry=fake,
        ledger=ledger,
        locks=locks,
        event_stream=event_stream,
        webhooks=webhooks,
        tokens=TokenFile(token_file),
        policy=POLICY,
        infer_client=infer_client,
        intervals=Intervals(alias_poll_s=0.2, cache_ttl_s=1, integrity_check_s=0.1),
    )
    with app_running(app) as address:
        yield f"{address}/"
        event_stream.close()


@pytest.fixture
def open_page(chromium: Any, url: Any) -> Iterator[Any]:
    """Opens the page as somebody, and fails where the page complains in its console."""
    contexts, complaints = [], []

    def opening(who: str = "pia", **options: Any) -> Any:
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if "Security Policy" in line.text else None)
        page.goto(url)
        page.get_by_label("Token").fill(f"{who}-secret")
        page.keyboard.press("Enter")
        return page

    yield opening
    for context in contexts:
        context.close()
    assert complaints == []


def wait(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@browser
def test_decisions_can_be_made_with_the_keyboard(
    open_page: Any, fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    infer_client.levels = {1: 40, 2: 200}
    fake.point(adapters, "champion", 1)
    for step, value in ((1, 0.5), (2, 0.4), (3, 0.3)):
        fake.add_point(adapters, 2, "validation_loss", step, value)
    fake._runs[fake.version(adapters, 2).run_id].metrics.update({"validation_loss": 0.3})  # type: ignore[attr-defined]
    fake.add_image(adapters, 2, "validation", 3, png(120))
    page = open_page()
    row = page.locator("tr[data-version='2']")
    row.locator("svg[aria-label='validation_loss from 0.5000 to 0.3000']").wait_for()
    row.get_by_alt_text("validation, step 3").wait_for()
    page.get_by_role("button", name="Version 2").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Version 2 against champion 1").wait_for()
    assert "✓ pass output_finite" in page.locator("#verdicts").inner_text()
    page.get_by_role("button", name="Generate side by side").press("Enter")
    page.get_by_alt_text("a cat, by candidate 2").wait_for()
    assert page.locator("#generated img").count() == 4
    page.get_by_label("Reason").fill("softer lines")
    page.keyboard.press("Enter")
    page.get_by_text("Done: the champion is version 2.").wait_for()
    assert fake.model(adapters).aliases["champion"] == 2
    assert "promote: champion from 1 to version 2" in page.locator("#history").inner_text()
    page.get_by_label("Reason").fill("hands")
    page.get_by_role("button", name="Roll back the champion").press("Enter")
    page.get_by_text("Done: the champion is version 1.").wait_for()
    assert fake.model(adapters).aliases["champion"] == 1


@browser
def test_a_style_is_shown_and_edited(open_page: Any, fake: FakeRegistry, name: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (120, 90), "teal").save(stream, "webp")
    preview = hashlib.sha256(stream.getvalue()).hexdigest()
    style = Style(title="Ink", licence="MIT", trigger_words=("sumi", "wash"), recommended=Recommended(steps=30, scale=0.8))
    manifest = ADAPTER.model_copy(update={"style": style, "preview_sha256": preview})
    fake.add_model(name)
    files = FILES | {"adapter.json": manifest.model_dump_json()}
    fake.add_version(name, tags={"atelier.kind": "adapter"}, files=files, preview=stream.getvalue())
    fake.point(name, "champion", 1)
    page = open_page()
    page.locator("#style").get_by_role("heading", name="Ink").wait_for()
    assert "sumi, wash" in page.locator("#style").inner_text()
    page.get_by_alt_text("preview of version 1").wait_for()
    page.get_by_text("Edit the style of all versions").click()
    assert page.get_by_label("Title").get_attribute("placeholder") == "Ink"
    page.get_by_label("Title").fill("Brush")
    page.get_by_label("Recommended steps").fill("12")
    page.get_by_label("Recommended scheduler").select_option("ddim")
    page.get_by_label("Why").fill("quicker")
    page.get_by_role("button", name="Save the style").press("Enter")
    page.get_by_text("Saved as decision").wait_for()
    page.locator("#style").get_by_role("heading", name="Brush").wait_for()
    edits = RecordedEdits.model_validate_json(fake.model(name).tags[TAG_STYLE]).edits
    assert edits == StyleEdits(title="Brush", recommended=Recommended(steps=12, scheduler="ddim"))
    assert "style: title “Brush”, steps “12”, scheduler “ddim”" in page.locator("#history").inner_text()
    page.get_by_label("Title").fill("")
    page.get_by_label("Why").fill("as trained")
    page.get_by_role("button", name="Save the style").press("Enter")
    page.locator("#style").get_by_role("heading", name="Ink").wait_for()


@browser
def test_a_refusal_shows_every_rule(open_page: Any, fake: FakeRegistry, adapters: str) -> None:
    fake.add_version(adapters, tags={"atelier.kind": "adapter"}, files={"adapter.json": FILES["adapter.json"]})
    page = open_page()
    page.get_by_role("button", name="Version 6").click()
    page.locator("#verdicts .fail").get_by_text("it has no evidence.json").wait_for()
    page.get_by_label("Reason").fill("try")
    page.get_by_role("button", name="Promote version 6").click()
    page.get_by_role("alert").get_by_text("may not become 'champion'").wait_for()
    assert fake.model(adapters).aliases == {}


@browser
def test_changed_files_are_shown(open_page: Any, url: Any, fake: FakeRegistry, adapters: str) -> None:
    page = open_page("ada")
    page.get_by_role("button", name="Version 2").click()
    page.get_by_label("Reason").fill("softer")
    page.get_by_role("button", name="Promote version 2").click()
    page.get_by_text("Done: the champion is version 2.").wait_for()
    assert page.locator("#changed li").count() == 0
    fake.overwrite(adapters, 2, "pytorch_lora_weights.safetensors", "planted")
    login = {"Authorization": "Bearer ada-secret"}
    wait(lambda: httpx.get(f"{url}models/{adapters}", headers=login).json()["problems"] != [])
    page.reload()
    page.locator("#changed").get_by_text("version 2 were changed after the decision").wait_for()


@browser
def test_a_second_person_can_approve(open_page: Any, fake: FakeRegistry) -> None:
    fake.add_model("watched")
    fake.add_version("watched", tags={"atelier.kind": "adapter"}, files=FILES)
    one, other = open_page("pia"), open_page("ada")
    one.get_by_role("button", name="Version 1").click()
    one.get_by_label("Reason").fill("softer")
    one.get_by_role("button", name="Promote version 1").click()
    one.get_by_text("somebody else must approve").wait_for()
    other.reload()
    other.on("dialog", lambda dialog: dialog.accept("seen"))
    other.get_by_role("button", name="Approve decision 1").click()
    wait(lambda: dict(fake.model("watched").aliases) == {"champion": 1})
    one.get_by_text("pia, approved by ada").wait_for()  # heard of by the event


@browser
def test_decisions_of_others_appear(open_page: Any, fake: FakeRegistry, adapters: str) -> None:
    page = open_page("rita")
    page.get_by_role("button", name="Version 3").wait_for()
    fake.point(adapters, "champion", 3)
    page.locator("tr[data-version='3']").get_by_text("champion").wait_for()
    page.locator("#history").get_by_text("outside: champion").wait_for()


@browser
def test_an_unknown_token_is_reported_and_not_stored(open_page: Any, adapters: str) -> None:
    page = open_page("nobody")
    page.get_by_role("alert").get_by_text("the token is unknown").wait_for()
    assert page.evaluate("sessionStorage.length") == 0
    page.get_by_label("Token").fill("rita-secret")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Version 3").wait_for()
    page.get_by_role("button", name="Log out").click()
    assert page.get_by_label("Token").is_visible()
    assert page.evaluate("sessionStorage.length") == 0


@browser
def test_markup_in_a_reason_is_text(open_page: Any, start: Callable[..., Api], fake: FakeRegistry, adapters: str) -> None:
    start(fake).promote(adapters, 1, reason="<img src=x onerror=alert(1)>")
    page = open_page("rita")
    page.locator("#history").get_by_text("<img src=x").wait_for()
    assert page.locator("#history img").count() == 0


@browser
def test_the_page_fits_a_phone(open_page: Any, fake: FakeRegistry, adapters: str) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.get_by_role("button", name="Version 5").tap()
    page.get_by_label("Reason").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360  # tables scroll within themselves
    heights = page.evaluate("[...document.querySelectorAll('button')].filter(b => b.offsetParent).map(b => b.offsetHeight)")
    assert min(heights) >= 44
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, textarea, select')].filter(e => !e.labels.length && !e.ariaLabel).length"
    )
    assert unnamed == 0
