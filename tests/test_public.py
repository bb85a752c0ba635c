"""The public names."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import automixsearch

PUBLIC = (
    "automixsearch",
    "automixsearch.mixers",
    "automixsearch.losses",
    "automixsearch.algorithms",
    "automixsearch.evaluation",
    "automixsearch.config.knobs",
    "automixsearch.testing",
    "automixsearch.errors",
)
"""The modules whose `__all__` is the public API; docs/api.md shows them."""
VALUES = {"Pictures", "Subject", "Batch", "Clock", "Images", "Needs", "Part", "Setup", "Term"}
"""What an algorithm or an evaluation is given and gives: the examples of those use them."""


def _public():
    for module in map(importlib.import_module, PUBLIC):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield pytest.param(module, value, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize(("module", "value"), list(_public()))
def test_every_public_name_is_documented_with_an_example_that_runs(module, value, tmp_path, monkeypatch):
    """The example finds torch and the public names of its module imported, and nothing else."""
    import torch

    monkeypatch.chdir(tmp_path)
    names = {name: getattr(module, name) for name in module.__all__} | {"torch": torch}
    assert value.__doc__, "has no docstring"
    assert "Example:\n" not in value.__doc__, "call the section Examples: then the pages show it as code"
    if inspect.isclass(value):
        bare = [name for name, member in vars(value).items() if name[0] != "_" and inspect.isfunction(member)
                and not inspect.getdoc(getattr(value, name))]  # fmt: skip
        assert not bare, "these methods have no docstring"
    examples = doctest.DocTestFinder(recurse=False).find(value, module=False, globs=names)
    runner, said = doctest.DocTestRunner(verbose=False), []
    for example in examples:
        runner.run(example, out=said.append)
    assert not runner.failures, "".join(said)
    plain = inspect.isclass(value) and issubclass(value, Exception)
    assert runner.tries or plain or value.__name__ in VALUES, "has no example"


@pytest.mark.parametrize("name", automixsearch.__all__)
def test_every_name_of_the_package_is_there_whatever_was_imported_before(name):
    # A subpackage must not hide a public name.
    import automixsearch.search.driver

    assert getattr(automixsearch, name) is not None
    assert not isinstance(getattr(automixsearch, name), ModuleType)


def test_every_method_and_loss_is_a_public_name():
    for module, kinds in (("mixers", "MIXERS"), ("losses", "LOSSES")):
        public = importlib.import_module(f"automixsearch.{module}")
        assert {kind.__name__ for kind in getattr(public, kinds).values()} <= set(public.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        _ = automixsearch.serach


def test_a_search_runs_from_python(tmp_path):
    code = f"""
from automixsearch import SearchSpace, run_search, open_study
space = SearchSpace(name="s", knobs={{"method": "mixup", "width": 4, "batch_size": 64}},
                    budget={{"trials": 1, "epochs": 1}})
result = run_search(space, {str(tmp_path)!r})
assert (result.finished, result.interrupted) == (1, False)
print(open_study(result.place).top(n=1).trial_id[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "t00000"), done.stderr
