"""MLflow's own dashboard through nginx, at a name and at a bare address: runs, a chart, an image, a version, the button."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Error, Page, expect

from .conftest import EXPERIMENT, MODEL, NAME, Tracking, open_context

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

# What the dashboard asks for and may be told no: not for trainers (403), or offered only with a public S3 address (404).
OPTIONAL = ("/server-info", "/assistant/", "/users/current", "/gateway-proxy")


def refused(page: Page) -> list[str]:
    return [line for line in page.failed if not any(part in line for part in OPTIONAL)]  # type: ignore[attr-defined]


def test_runs_are_listed(page: Page, origin: str, tracking: Tracking) -> None:
    page.goto(f"{origin}/#/experiments/1/runs")
    expect(page.get_by_role("gridcell", name="night").get_by_role("link")).to_be_visible()
    expect(page.get_by_text(EXPERIMENT).first).to_be_visible()
    assert refused(page) == []


def test_a_metric_is_drawn_as_a_chart(page: Page, origin: str, tracking: Tracking) -> None:
    page.goto(f"{origin}/#/experiments/1/runs/{tracking.run_id}/model-metrics")
    expect(page.get_by_role("heading", name="loss")).to_be_visible()
    expect(page.locator(".js-plotly-plot .scatterlayer path.js-line").first).to_be_attached()
    assert refused(page) == []


def test_a_validation_image_is_shown(page: Page, origin: str, tracking: Tracking) -> None:
    page.goto(f"{origin}/#/experiments/1/runs/{tracking.run_id}/artifacts")
    page.get_by_text("validation").click()
    page.get_by_text("a red car.png").click()
    image = page.get_by_role("img", name="validation/a red car.png")
    expect(image).to_be_visible()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 128
    assert refused(page) == []


def test_the_registered_version_is_listed(page: Page, origin: str) -> None:
    page.goto(f"{origin}/#/models/{MODEL}")
    expect(page.get_by_role("link", name="Version 1", exact=True)).to_be_visible()
    assert refused(page) == []


def test_a_version_is_registered_with_the_button(page: Page, origin: str, tracking: Tracking) -> None:
    page.goto(f"{origin}/#/models/{MODEL}")
    rows = page.get_by_role("link", name="Version ")
    expect(rows.first).to_be_visible()
    before = rows.count()
    page.goto(f"{origin}/#/experiments/1/runs/{tracking.run_id}/artifacts")
    page.get_by_text("second").click()
    page.get_by_role("button", name="Register model").click()
    dialog = page.get_by_role("dialog", name="Register model")
    dialog.get_by_role("combobox", name="Model").click()
    page.locator(".ant-select-item-option, .du-bois-light-select-item-option").get_by_text(MODEL, exact=True).click()
    dialog.get_by_role("button", name="Register").click()
    expect(dialog).to_be_hidden()
    page.goto(f"{origin}/#/models/{MODEL}")
    expect(page.get_by_role("link", name=f"Version {before + 1}", exact=True)).to_be_visible()
    assert refused(page) == []


def test_a_reader_sees_runs_and_cannot_start_an_experiment(chromium: Browser, tracking: Tracking, origin: str) -> None:
    with open_context(chromium, tracking, "infer") as context:
        page = context.new_page()
        page.goto(f"{origin}/#/experiments/1/runs")
        expect(page.get_by_role("gridcell", name="night").get_by_role("link")).to_be_visible()
        created = page.evaluate(
            "fetch('ajax-api/2.0/mlflow/experiments/create', {method: 'POST', body: '{\"name\": \"mine\"}',"
            " headers: {'Content-Type': 'application/json'}}).then(answer => answer.status)"
        )
        assert created == 403


def test_without_a_login_the_browser_has_nothing_to_show(chromium: Browser, origin: str) -> None:
    with chromium.new_context() as context:
        page = context.new_page()
        with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            page.goto(f"{origin}/")
        assert page.title() != "MLflow"


def test_with_a_wrong_password_it_says_that_a_login_is_needed(chromium: Browser, origin: str) -> None:
    with chromium.new_context(http_credentials={"username": "trainer", "password": "wrong"}) as context:
        page = context.new_page()
        answer = page.goto(f"{origin}/")
        assert answer is not None
        assert answer.status == 401
        assert "A login is required" in page.inner_text("body")
        assert page.title() != "MLflow"


def test_another_site_cannot_use_the_login_of_a_browser(chromium: Browser, tracking: Tracking) -> None:
    """A page at the bare address sends its own origin to the name: nginx refuses it, though the browser knows the login."""
    with open_context(chromium, tracking, "trainer") as context:
        page = context.new_page()
        page.goto(f"http://{NAME}/version")
        page.goto(f"http://{tracking.address}/healthz")
        answers: list[int] = []
        page.on("response", lambda answer: answers.append(answer.status) if "experiments/create" in answer.url else None)
        page.evaluate(
            f"fetch('http://{NAME}/api/2.0/mlflow/experiments/create', {{method: 'POST', mode: 'no-cors',"
            " credentials: 'include', body: '{\"name\": \"theirs\"}'}).catch(() => null)"
        )
        page.goto(f"http://{NAME}/version")
        assert answers
        assert set(answers) <= {401, 403}
        known = page.evaluate(
            "fetch('/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name=theirs').then(answer => answer.status)"
        )
        assert known == 404
