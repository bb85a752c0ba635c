"""The versions of the packages that decide results."""

from __future__ import annotations

import importlib.metadata

PINNED = ("torch", "torchvision", "ray", "optuna", "pandas", "pyarrow", "duckdb", "pydantic", "numpy", "scipy", "numba",
          "statsmodels", "scikit-learn", "pillow", "timm", "nvidia-ml-py", "jinja2", "rich", "pyyaml")  # fmt: skip
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
