"""What the documents say is what the code does. `python tests/test_docs.py` rewrites the generated parts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from automixsearch.cli import parser
from automixsearch.results.schema import render_columns
from automixsearch.show import knob_table_markdown, method_table_markdown

ROOT = Path(__file__).parents[1]
GENERATED = {
    ("README.md", "mixers"): lambda: method_table_markdown(),
    ("automixsearch/mixers/README.md", "knobs"): lambda: knob_table_markdown(),
    ("automixsearch/results/README.md", "trials"): lambda: render_columns("trials").strip(),
    ("automixsearch/results/README.md", "epochs"): lambda: render_columns("epochs").strip(),
}


def with_part(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert pattern.search(text), f"the marks of {name} are missing"
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


@pytest.mark.parametrize(("file", "name"), list(GENERATED))
def test_generated_tables_are_up_to_date(file, name):
    text = (ROOT / file).read_text()
    assert text == with_part(text, name, GENERATED[file, name]()), "run: python tests/test_docs.py"


@pytest.mark.parametrize("file", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("[A-Z]*.md")))
def test_relative_links_lead_somewhere(file):
    for link in re.findall(r"\]\(([^)#:=]+)\)", (ROOT / file).read_text()):
        assert (ROOT / link).exists(), f"{file} links to {link}"


def test_commands_that_documents_name_exist():
    help_text = parser().format_help().split()
    for path in [ROOT / "README.md", *ROOT.glob("*/README.md")]:
        for command in re.findall(r"^\s*automixsearch ([a-z]+)", path.read_text(), re.MULTILINE):
            assert command in help_text, f"{path.name} names the command {command}"


HEAVY = (
    "torch",
    "ray",
    "optuna",
    "pandas",
    "pyarrow",
    "sklearn",
    "scipy",
    "statsmodels",
    "numba",
    "duckdb",
    "rich",
    "jinja2",
    "torchvision",
    "timm",
)
LAYERS = {
    "automixsearch": (),
    "automixsearch.errors": (),
    "automixsearch.knobs": (),
    "automixsearch.mixers": (),
    "automixsearch.losses": (),
    "automixsearch.recipe": (),
    "automixsearch.spec": (),
    "automixsearch.reading": (),
    "automixsearch.studyfile": (),
    "automixsearch.designs": (),
    "automixsearch.factorials": (),
    "automixsearch.plan": (),
    "automixsearch.jobs": (),
    "automixsearch.space": (),
    "automixsearch.cli": (),  # and with it all commands
    "automixsearch.show": (),
    "automixsearch.doctor": (),
    "automixsearch.data": (),
    "automixsearch.analysis.estimate": (),
    "automixsearch.analysis.verdict": (),
    "automixsearch.analysis.power": (),
    "automixsearch.analysis.sample": (),
    "automixsearch.analysis.gate": (),
    "automixsearch.analysis.noise": ("scipy",),
    "automixsearch.analysis.robustness": ("scipy",),
    "automixsearch.analysis.compare": ("scipy",),
    "automixsearch.analysis.sensitivity": ("scipy",),
    "automixsearch.analysis.importance": ("scipy",),
    "automixsearch.analysis.ablation": ("scipy",),
    "automixsearch.analysis.arms": (),
    "automixsearch.analysis.fidelity": ("scipy",),
    "automixsearch.results.schema": (),
    "automixsearch.results.store": (),
    "automixsearch.results.study": (),
    "automixsearch.results.exports": (),
    "automixsearch.report.charts": (),
    "automixsearch.report.page": (),
    "automixsearch.report.sections": (),
    "automixsearch.training.loop": ("torch",),
    "automixsearch.evaluation.classification": ("torch",),
    "automixsearch.models": ("torch",),
    "automixsearch.search.driver": (),
    "automixsearch.search.environment": (),
    "automixsearch.search.task": (),
    "automixsearch.reproduce.registry": (),
    "automixsearch.reproduce.settings": (),
    "automixsearch.reproduce.studies": (),
    "automixsearch.reproduce.outcome": (),
    "automixsearch.reproduce.parameters": ("torch",),
    "automixsearch.search.designed": (),
}


@pytest.mark.parametrize("module", list(LAYERS))
def test_heavy_packages_stay_out_of_modules_that_do_not_need_them(module):
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(found) <= set(LAYERS[module])


if __name__ == "__main__":
    for (file, name), content in GENERATED.items():
        path = ROOT / file
        path.write_text(with_part(path.read_text(), name, content()))
