"""The public names."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import automixsearch


@pytest.mark.parametrize("name", automixsearch.__all__)
def test_every_public_name_is_there_whatever_was_imported_before(name):
    # A subpackage must not hide a public name.
    import automixsearch.search.driver

    assert getattr(automixsearch, name) is not None
    assert not isinstance(getattr(automixsearch, name), ModuleType)


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
print(open_study(result.place).best(n=1).trial_id[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "t00000"), done.stderr
