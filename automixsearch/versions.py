"""The versions of what decides results: this package and others."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path

import automixsearch

PINNED = ("torch", "torchvision", "ray", "optuna", "pandas", "pyarrow", "duckdb", "pydantic", "numpy", "scipy", "numba",
          "statsmodels", "scikit-learn", "pillow", "timm", "safetensors", "nvidia-ml-py", "jinja2", "rich",
          "pyyaml")  # fmt: skip
"""The dependencies of the package, whose versions decide results; those of a checkout need not be what is installed."""


def versions() -> dict[str, str]:
    """The versions of the packages that decide results, without local labels such as +cpu."""
    found = {}
    for name in PINNED:
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:  # doctor tells of what is missing
            continue
    return found


@cache
def code_version() -> str:
    """Version and hash of this package's source, and the versions of Python and torch that ran it."""
    root = Path(automixsearch.__file__).parent
    digest = sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    torch = sys.modules.get("torch")
    parts = [f"{automixsearch.__version__}+{digest.hexdigest()[:12]}", f"python-{platform.python_version()}"]
    return " ".join(parts + ([f"torch-{torch.__version__}"] if torch else []))
