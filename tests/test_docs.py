"""What the documents say is what the code does. `python tests/test_docs.py` rewrites the generated parts."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from automixsearch.cli import parse
from automixsearch.commands.report import EXAMPLE
from automixsearch.results.schema import render_columns
from automixsearch.results.study import open_study
from automixsearch.show import knob_table_markdown, method_table_markdown

ROOT = Path(__file__).parents[1]
GENERATED = {
    ("README.md", "mixers"): lambda: method_table_markdown(),
    ("automixsearch/mixers/README.md", "knobs"): lambda: knob_table_markdown(),
    ("automixsearch/results/README.md", "trials"): lambda: render_columns("trials").strip(),
    ("automixsearch/results/README.md", "epochs"): lambda: render_columns("epochs").strip(),
    ("automixsearch/results/README.md", "outcomes"): lambda: render_columns("outcomes").strip(),
}


def with_part(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert pattern.search(text), f"the marks of {name} are missing"
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


@pytest.mark.parametrize(("file", "name"), list(GENERATED))
def test_generated_tables_are_up_to_date(file, name):
    text = (ROOT / file).read_text()
    assert text == with_part(text, name, GENERATED[file, name]()), "run: python tests/test_docs.py"


PLACES = (
    "[A-Z]*.md",
    "docs/*.md",
    "[a-z]*/README.md",
    "automixsearch/*/README.md",
    "jobs/*/README.md",
    "tests/*/README.md",
)
DOCUMENTS = sorted({path.relative_to(ROOT).as_posix() for place in PLACES for path in ROOT.glob(place)})


@pytest.mark.parametrize("file", DOCUMENTS)
def test_relative_links_lead_somewhere(file):
    for link in re.findall(r"\]\(([^)#:=]+)(?:#[^)]*)?\)", (ROOT / file).read_text()):
        assert ((ROOT / file).parent / link).exists(), f"{file} links to {link}"


@pytest.mark.parametrize("file", DOCUMENTS)
def test_the_commands_that_documents_show_are_understood(file):
    """Whatever stands in brackets may be left out, and is tried."""
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / file).read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.strip(), comments=True) if line.strip().startswith("automixsearch ") else []
            if words:
                parse([word.strip("[]") if word[0] == "[" or word[-1] == "]" else word for word in words[1:]])


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
    "pytest",
    "hypothesis",
)
LAYERS = {
    "automixsearch": (),
    "automixsearch.errors": (),
    "automixsearch.config.knobs": (),
    "automixsearch.mixers": (),
    "automixsearch.losses": (),
    "automixsearch.algorithms": (),
    "automixsearch.config.recipe": (),
    "automixsearch.config.trial": (),
    "automixsearch.config.files": (),
    "automixsearch.studies.file": (),
    "automixsearch.studies.design": (),
    "automixsearch.studies.factorial": (),
    "automixsearch.studies.plan": (),
    "automixsearch.cluster.jobs": (),
    "automixsearch.cluster.room": (),
    "automixsearch.cluster.session": (),
    "automixsearch.config.space": (),
    "automixsearch.config.points": (),
    "automixsearch.cli": (),  # and with it all commands
    "automixsearch.show": (),
    "automixsearch.doctor": (),
    "automixsearch.data": (),
    "automixsearch.analysis.estimate": (),
    "automixsearch.analysis.verdict": (),
    "automixsearch.analysis.power": (),
    "automixsearch.analysis.selection": (),
    "automixsearch.analysis.baseline_gate": (),
    "automixsearch.analysis.best": (),
    "automixsearch.analysis.units": (),
    "automixsearch.analysis.failures": ("scipy",),
    "automixsearch.analysis.seed_noise": ("scipy",),
    "automixsearch.analysis.robustness": ("scipy",),
    "automixsearch.analysis.compare": ("scipy",),
    "automixsearch.analysis.sensitivity": ("scipy",),
    "automixsearch.analysis.importance": ("scipy",),
    "automixsearch.analysis.ablation": ("scipy",),
    "automixsearch.analysis.contrasts": (),
    "automixsearch.analysis.cross_task": ("scipy",),
    "automixsearch.analysis.fidelity": ("scipy",),
    "automixsearch.results.schema": (),
    "automixsearch.results.store": (),
    "automixsearch.results.study": (),
    "automixsearch.results.exports": (),
    "automixsearch.report.charts": (),
    "automixsearch.report.page": (),
    "automixsearch.report.sections": (),
    "automixsearch.training.run": ("torch",),
    "automixsearch.evaluation.classification": ("torch",),
    "automixsearch.testing": ("torch",),
    "automixsearch.models": (),
    "automixsearch.models.registry": (),
    "automixsearch.search.driver": (),
    "automixsearch.cluster.switches": (),
    "automixsearch.search.task": (),
    "automixsearch.reproduce.registry": (),
    "automixsearch.reproduce.settings": (),
    "automixsearch.reproduce.studies": (),
    "automixsearch.reproduce.outcome": (),
    "automixsearch.reproduce.parameters": ("torch",),
    "automixsearch.search.proposers.designs": (),
}


@pytest.mark.parametrize("module", list(LAYERS))
def test_heavy_packages_stay_out_of_modules_that_do_not_need_them(module):
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(found) <= set(LAYERS[module])


def test_the_readme_of_the_example_says_what_its_rows_say():
    said, rows = (EXAMPLE / "README.md").read_text(), open_study(EXAMPLE).trials()
    seconds = rows.groupby("method").device_s.mean().sort_values()
    purposes = rows.purpose.value_counts()
    for fact in (
        f"| device | {rows.device.unique().item()}, one thread",
        f"{rows.started_at.min():%H:%M:%S} to {rows.ended_at.max():%H:%M:%S} UTC",
        f"| {rows.device_s.sum():,.0f} s; for one run {seconds.iloc[0]:.1f} s ({seconds.index[0]}, the mean) to "
        f"{seconds.iloc[-1]:.1f} s ({seconds.index[-1]})",
        rows.code_version.unique().item().partition(" ")[0],
        f"fingerprint {rows.data_fingerprint.unique().item()}",
        f"{rows.val_images.unique().item()} validation and {rows.test_images.unique().item()} test images",
        f"{rows.parameters.min():,} to {rows.parameters.max():,} parameters",
        f"{len(rows)} complete, none failed: {purposes['study']} of the design, {purposes['replicate']} further seeds, "
        f"{purposes['confirm']} of the confirmation",
    ):
        assert fact in said, fact
    assert set(rows.threads) == {1}
    assert set(rows.state) == {"complete"}


if __name__ == "__main__":
    for (file, name), content in GENERATED.items():
        path = ROOT / file
        path.write_text(with_part(path.read_text(), name, content()))
