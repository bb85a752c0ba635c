"""Names that become names of files: of studies, trials and documents.

A name that was read from storage is data. It is checked here before any path is made of it.
"""

from __future__ import annotations

import re

from automixsearch.errors import StudyError, brief_repr

PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""One part of a path: no separator, no `..`, no hidden file, nothing that a terminal or a file system minds."""
ROW_FILE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(-e[0-9]{6,12})?\.parquet$"
"""A file of rows: of one trial, of one epoch of it, or merged."""
RULE = "1 to 100 of A-Z a-z 0-9 . _ -, the first a letter or digit"
_NAME = re.compile(PATTERN.removesuffix("$"))


def is_name(name: str) -> bool:
    """Whether `name` is safe as the name of a file."""
    return _NAME.fullmatch(name) is not None


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is safe as the name of a file.

    Raises:
        StudyError: it is not.
    """
    if not is_name(name):
        raise StudyError(f"{kind} {brief_repr(name)} is no legal name; use {RULE}")
    return name
