"""The documentation builds without a warning, loads nothing from elsewhere, and its links outside the site lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    file
    for file in subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    if not file.startswith("docs/")  # the site's own pages are checked when it is built
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return out


def test_every_page_is_in_the_site(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        folder = page.relative_to(ROOT / "docs").with_suffix("")
        assert (site / (folder.parent if folder.name == "index" else folder) / "index.html").is_file()


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?|png|svg))'
    assert {found for page in site.rglob("*.html") for found in re.findall(loaded, page.read_text())} == set()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", file.read_text())
    assert [link for link in links if not link.startswith("http") and not (file.parent / link).exists()] == []


def test_the_glossary_is_short_and_names_existing_modules() -> None:
    text = (ROOT / "GLOSSARY.md").read_text()
    assert len(text.splitlines()) <= 60
    packages = {"infer": "services/infer/atelier_infer", "trainer": "services/trainer/atelier_trainer",
                "registry-api": "services/registry-api/atelier_registry", "tracking": "services/tracking/atelier_tracking",
                "contracts": "contracts/atelier_contracts"}  # fmt: skip
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| ([^|]+) \|$", text, re.M)
    missing = []
    for row in rows:
        service = ""
        for part in re.findall(r"(infer|trainer|registry-api|tracking|contracts)? ?`([\w./-]+)`", row):
            service = part[0] or service
            folder = ROOT / packages.get(service, ".")
            place = folder / part[1]
            if not (place.exists() or place.with_suffix(".py").exists() or (ROOT / part[1]).exists()
                    or (ROOT / "libs/service/atelier_service" / f"{part[1]}.py").exists() or not service):  # fmt: skip
                missing.append(f"{service} {part[1]}")
    assert missing == []
