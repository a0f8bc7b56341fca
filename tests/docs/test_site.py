"""The site of docs/ builds without a warning, fetches nothing, and a wrong link or anchor fails it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(?:https?:)?//|<link[^>]*rel=["']?stylesheet[^>]*//"""
)


def build(tree: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=tree,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT, target)
    assert done.returncode == 0, done.stderr
    return target


def test_every_page_is_there(site: Path) -> None:
    sources = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    assert sources <= built
    shipped = {path.relative_to(ROOT).with_suffix(".html") for path in (ROOT / "examples").rglob("*.yaml")}
    assert shipped <= built


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not _FETCHED.search(text), page
        # The theme fetches a script where it meets one of these.
        assert 'class="mermaid"' not in text, page


def test_wrong_links_fail(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "install.md").write_text("# A page\n\n## A part\n\n[right](index.md#a-part)\n")
    wrong = ("nothing.md", "install.md#nothing", "/install.md", "../nothing/x.yaml")
    text = "# A page\n\n## A part\n\n" + "\n".join(f"[a]({link})" for link in wrong)
    (tmp_path / "docs" / "index.md").write_text(text)
    checks = (ROOT / "mkdocs.yml").read_text().partition("\nvalidation:")[2].partition("\nnav:")[0]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\nuse_directory_urls: false\nvalidation:{checks}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert done.stderr.count("WARNING") == len(wrong), done.stderr


def test_the_built_site_is_no_part_of_the_tree() -> None:
    done = subprocess.run(["git", "check-ignore", "-q", "build/site"], cwd=ROOT, check=False, timeout=20)
    assert done.returncode == 0
    assert shutil.which("git")
