"""The files that come with the package, found by name: search spaces, recipes, studies and jobs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from automixsearch.errors import SpecError, unknown

KINDS: Mapping[str, tuple[str, ...]] = {
    "search space": ("search_spaces/*.yaml",),
    "recipe": ("search_spaces/recipes/*.yaml",),
    "study file": ("jobs/ablation/*.yaml", "jobs/sensitivity/*.yaml"),
    "search space or study file": ("search_spaces/*.yaml", "jobs/ablation/*.yaml", "jobs/sensitivity/*.yaml"),
    "job": ("jobs/search/*.yaml", "jobs/ablation/*.yaml", "jobs/sensitivity/*.yaml"),
}
"""What a command asks for, and where such files lie; a study file is a job as well."""


def shipped_root() -> Path:
    """The folder that holds `search_spaces` and `jobs`: the package in a wheel, the root of a checkout."""
    package = Path(__file__).parents[1]
    return package if (package / "search_spaces").is_dir() else package.parent


def shipped(kind: str) -> dict[str, Path]:
    """The files of a `kind`, by what is enough to name each."""
    root = shipped_root()
    return {file.stem: file for pattern in KINDS[kind] for file in sorted(root.glob(pattern))}


def find_shipped(name: str, kind: str) -> Path | None:
    """The `kind` of file of that name that comes along: `alpha`, `sensitivity/alpha` and `jobs/sensitivity/alpha.yaml`
    name the same study."""
    path = Path(name)
    file = shipped(kind).get(path.stem)
    if file is None or path.suffix not in ("", ".yaml"):
        return None
    named = path.parent.parts
    folders = file.parent.relative_to(shipped_root()).parts
    return file if folders[len(folders) - len(named) :] == named else None


def find_file(name: str, kind: str, beside: Path | None = None) -> Path:
    """A `kind` of file by its path, from here or from the folder `beside`, or by the name of one that comes along.

    Raises:
        SpecError: there is none.
    """
    for path in (name, *([] if beside is None else [beside / name])):
        if os.path.isfile(path):  # unlike the method, false for what can be no path
            return Path(path)
    file = find_shipped(name, kind)
    if file is not None:
        return file
    if os.path.isdir(name):
        raise SpecError(f"{name}: is a directory; give a {kind}")
    stem = Path(name).stem
    if stem in shipped(kind):
        raise SpecError(f"{name}: no such file; the {kind} that comes along is named {stem}")
    raise SpecError(f"{name}: no such file; {unknown(kind, stem, shipped(kind))}")
