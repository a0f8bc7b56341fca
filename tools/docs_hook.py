"""What mkdocs needs to know of files outside of docs/: examples and the chart's README become pages of the site.

Pages link to `../examples/KIND/NAME.yaml`, which is right in a source tree. In the site every example has a page of its
own below examples/, and a list of them; links are changed accordingly, so that `mkdocs build --strict` checks them.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, InclusionLevel

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LISTING = "examples.md"
CHART = "charts/sixgate/README.md"
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
_COMMENT = re.compile(r"^# ?(.*)$", re.MULTILINE)


def examples() -> tuple[str, ...]:
    """Paths below the root of every shipped example."""
    return tuple(sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").rglob("*.yaml")))


def page_of(path: str) -> str:
    """The page of the site that shows a file of the source tree: `examples/a/b.yaml` is examples/a/b.md."""
    if path in {"examples", "README.md"}:
        return {"examples": LISTING, "README.md": "index.md"}[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("examples/") and path.endswith(".yaml"):
        return path.removesuffix(".yaml") + ".md"
    if path.startswith("examples/"):
        inside = [found for found in examples() if found.startswith(path.rstrip("/") + "/")]
        return page_of(inside[0]) if inside else path
    return path


def relink(text: str, source: str, page: str) -> str:
    """`text` of the file `source`, shown as `page`: its links to files outside of docs/ lead to their pages."""

    def changed(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        if not (ROOT / target).exists() or (source.startswith("docs/") and target.startswith("docs/")):
            return match[0]
        link = os.path.relpath(page_of(target), posixpath.dirname(page) or ".")
        return f"]({link}{match[2] or ''})"

    return _LINK.sub(changed, text)


def example_page(path: str) -> str:
    """One example, as it ships."""
    return f"# {path}\n\n```yaml\n{(ROOT / path).read_text().rstrip()}\n```\n"


def listing() -> str:
    """All examples with the comment that each begins with."""
    lines = ["# Examples", "", "Every file is applied by a test.", ""]
    for path in examples():
        head = (ROOT / path).read_text().split("\napiVersion", 1)[0]
        said = " ".join(part.strip() for part in _COMMENT.findall(head) if part.strip())
        lines.append(f"* [{path}]({page_of(path)})" + (f": {said}" if said else ""))
    return "\n".join(lines) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that do not stand in docs/."""
    pages = {LISTING: listing(), CHART: relink((ROOT / CHART).read_text(), CHART, CHART)}
    pages |= {page_of(path): example_page(path) for path in examples()}
    for name, text in pages.items():
        known = InclusionLevel.INCLUDED if name in {LISTING, CHART} else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, name, content=text, inclusion=known))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of the pages in docs/ that lead out of it."""
    source = page.file.src_uri
    return relink(markdown, f"docs/{source}", source) if page.file.generated_by is None else markdown
