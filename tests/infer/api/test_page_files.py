"""The drawing page's files, without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import atelier_infer
import pytest

from ..conftest import Service

STATIC = Path(atelier_infer.__file__).parent / "api/static"


def test_every_file_is_open_and_may_load_nothing_from_elsewhere(service: Service) -> None:
    service.client.headers.pop("Authorization")
    for path in ["/", *(f"/static/{file.name}" for file in STATIC.iterdir() if file.name != "index.html")]:
        answer = service.client.get(path)
        assert answer.status_code == 200, path
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert service.client.head(path).status_code == 200
    assert service.client.get("/").headers["content-type"].startswith("text/html")
    assert service.client.get("/static/page.js").headers["content-type"].startswith("text/javascript")
    assert service.client.get("/index.html").status_code == 401
    assert service.client.get("/../settings.py").status_code == 401


@pytest.mark.parametrize("file", [file.name for file in STATIC.iterdir()])
def test_files_name_no_other_host_and_no_inline_code(file: str) -> None:
    text = (STATIC / file).read_text()
    assert not re.search(r"https?://|//cdn|@import", text)
    assert "innerHTML" not in text
    assert not re.search(r"<script>|\son\w+=|style=\"", text)


def test_what_a_module_imports_is_there() -> None:
    for file in STATIC.glob("*.js"):
        for name in re.findall(r'from "\./([\w.]+)"', file.read_text()):
            assert (STATIC / name).is_file(), name


def test_every_id_that_the_code_asks_for_is_in_the_page() -> None:
    page, code = (STATIC / "index.html").read_text(), (STATIC / "page.js").read_text()
    ids = set(re.findall(r'\bid="([\w-]+)"', page))
    fields = re.search(r"FIELDS = \[(.*?)\]", code)[1]
    assert set(re.findall(r'\bbyId\("(\w+)"\)', code)) | set(re.findall(r'"(\w+)"', fields)) <= ids
