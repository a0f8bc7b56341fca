"""Pictures: generated, well-formed, readable on light and dark pages, and nothing fetched."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools import gen_pictures

ROOT = Path(__file__).resolve().parents[2]
DRAWN = gen_pictures.files()


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def fills(style: str) -> dict[str, str]:
    return dict(re.findall(r"\.?(\w+)\{fill:(#[0-9a-f]{6})", style))


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_a_picture_is_the_generated_one_and_is_used(name: str) -> None:
    assert (ROOT / "docs" / "pictures" / name).read_text() == DRAWN[name], "run `make generate`"
    ElementTree.fromstring(DRAWN[name])
    assert "http" not in DRAWN[name].replace("http://www.w3.org/2000/svg", "")
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    assert any(f"pictures/{name}" in page.read_text() for page in pages)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_letters_have_contrast(dark: bool) -> None:
    light, _, night = gen_pictures.STYLE.partition("@media (prefers-color-scheme:dark){")
    found = fills(night if dark else light)
    for paper in ("paper", "box", "ours", "slow"):
        for letters in ("text", "small"):
            lighter, darker = sorted((luminance(found[paper]), luminance(found[letters])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (paper, letters)


def test_a_text_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not fit into a box of 60 by 40 pixels"):
        gen_pictures.Box((0, 0, 3, 2), ("far too long for this",)).draw()
