"""A hook of the documentation site: pages may link to files outside docs/, as they do in a clone.

Tables, pictures, examples and the files that pages link to are published beside the pages, and
links to them are made to fit.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PUBLISHED = (
    "CONTRIBUTING.md",
    "benchmarks/*.md",
    "benchmarks/results/*",
    "examples/*.py",
    "cmpolicy/agents/ac.py",
    "cmpolicy/datasets/sample/README.md",
)
FOLDERS = {"benchmarks/results": "results.md", "benchmarks": "benchmarks/README.md"}
LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside docs/."""
    root = Path(config.config_file_path).parent
    for pattern in PUBLISHED:
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(root).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Make links fit that lead out of docs/, or from elsewhere into it."""
    page_at = page.file.src_uri
    inside = page.file.generated_by is None
    folder = posixpath.dirname(f"docs/{page_at}" if inside else page_at)

    def fit(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        place = posixpath.normpath(posixpath.join(folder, target))
        place = FOLDERS.get(place, place.removeprefix("docs/"))
        here = posixpath.dirname(page_at) or "."
        return f"{before}{posixpath.relpath(place, here)}{after}"

    return LINK.sub(fit, markdown)
