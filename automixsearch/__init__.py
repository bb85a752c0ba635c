"""AutoMixSearch: which mixup policy should I train with, how much does it matter, and how sure are we?

The public names load on first use, so `import automixsearch` costs nothing; `open_study` needs neither torch
nor ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "MixingPolicy",
    "SearchSpace",
    "Study",
    "TrialConfig",
    "__version__",
    "best",
    "load_model",
    "load_policy",
    "open_study",
    "run_search",
    "train",
]

if TYPE_CHECKING:
    from automixsearch.analysis.best import best
    from automixsearch.config.space import SearchSpace
    from automixsearch.config.trial import TrialConfig
    from automixsearch.deploy.model import load_model
    from automixsearch.deploy.policy import MixingPolicy, load_policy
    from automixsearch.results.study import Study, open_study
    from automixsearch.search.driver import run_search
    from automixsearch.training.run import train

_HOMES = {
    "SearchSpace": "automixsearch.config.space",
    "TrialConfig": "automixsearch.config.trial",
    "MixingPolicy": "automixsearch.deploy.policy",
    "best": "automixsearch.analysis.best",
    "load_policy": "automixsearch.deploy.policy",
    "load_model": "automixsearch.deploy.model",
    "Study": "automixsearch.results.study",
    "open_study": "automixsearch.results.study",
    "run_search": "automixsearch.search.driver",
    "train": "automixsearch.training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'automixsearch' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
