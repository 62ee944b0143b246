"""The documentation site: it builds without a warning, and asks nobody on the network."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_every_page_is_in_the_navigation_or_said_to_be_left_out() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    [(_, navigation)] = [pair for pair in yaml.safe_load(text).items() if pair[0] == "nav"]
    named = set(re.findall(r"[\w-]+\.md", str(navigation)))
    assert {page.name for page in DOCS.glob("*.md")} <= named
    assert named - {page.name for page in DOCS.glob("*.md")} == {"CONTRIBUTING.md"}


def test_pictures_are_small() -> None:
    for picture in (DOCS / "images").glob("*.png"):
        assert picture.stat().st_size < 150_000, picture


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("MkDocs is not installed: pip install -e '.[docs]'")
    path = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    command += ["--site-dir", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.slow
def test_the_site_has_every_page_and_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert {f"{page.stem}.html" for page in DOCS.glob("*.md")} <= {page.name for page in pages}
    for page in pages:
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text()):
            fetched = re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)
            assert fetched is None or 'rel="canonical"' in tag, f"{page}: {tag}"
    assert "write_dataset" in (site / "api.html").read_text()


@pytest.mark.slow
def test_the_front_page_is_drawn_by_a_browser(site: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not installed")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path}", f"file://{site / 'index.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert '<nav class="md-nav md-nav--primary' in done.stdout
    assert "Five minutes" in done.stdout
