"""Which documents become pages: every one of the repository, at its own path, with what it links to.

A hook of mkdocs, whose own way is one folder that holds them all; here each README stays beside what it is about.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
PLACES = ("*.md", "docs/*.md", "search_spaces/README.md", "jobs/**/*.md", "automixsearch/**/*.md", "tests/golden/*.md")
LINK = re.compile(r"\[([^\]]*)\]\(([^)#:]+)(?:#[^)]*)?\)")


def on_files(files: Files, config) -> Files:
    """The pages, and the pictures and files that they link to."""
    pages = [path for place in PLACES for path in sorted(ROOT.glob(place))]
    linked = {(page.parent / link).resolve() for page in pages for _, link in LINK.findall(page.read_text("utf-8"))}
    paths = dict.fromkeys([*pages, ROOT / "docs/style.css", *sorted(path for path in linked if path.is_file())])
    found = [
        File(
            path.relative_to(ROOT).as_posix(),
            str(ROOT),
            config.site_dir,
            config.use_directory_urls,
            inclusion=InclusionLevel.INCLUDED,  # also where the name begins with a dot
        )
        for path in paths
    ]
    return Files([*found, *(file for file in files if file.src_dir != config.docs_dir)])


def on_page_markdown(markdown: str, page, config, files) -> str:
    """A link to a folder, which has no page, becomes the name of the folder."""
    here = (ROOT / page.file.src_uri).parent
    return LINK.sub(lambda found: found[1] if (here / found[2]).is_dir() else found[0], markdown)
