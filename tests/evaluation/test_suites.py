"""Evaluations of trained networks against numbers of others, and through the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from automixsearch.cli import main
from automixsearch.config.files import load_space
from automixsearch.errors import SpecError
from automixsearch.evaluation import EVALUATIONS, calibration
from automixsearch.evaluation.attack import fgsm, pgd
from automixsearch.evaluation.occlusion import occluded, patch_of
from automixsearch.evaluation.run import evaluations_of
from automixsearch.results.study import open_study
from automixsearch.studies.file import load_study_file

GOLDEN = Path(__file__).parents[1] / "golden"


def test_calibration_is_that_of_the_authors():
    file, seen = np.load(GOLDEN / "calibration.npz"), 0
    for case in sorted({name.partition("_")[0] for name in file if name.endswith("_logits")}):
        logits, labels = file[f"{case}_logits"].astype(np.float64), file[f"{case}_labels"]
        p = calibration.softmax(logits)
        for name in ("ece", "adaptive_ece", "classwise_ece", "mce"):
            for key in (key for key in file if key.startswith(f"{case}_{name}_") and key.rpartition("_")[2].isdigit()):
                value = getattr(calibration, name)(p, labels, int(key.rpartition("_")[2]))
                assert value == pytest.approx(float(file[key]), abs=2e-6), key
                seen += 1
        assert calibration.nll(logits, labels) == pytest.approx(float(file[f"{case}_nll"]), abs=1e-6)
        assert calibration.brier(p, labels) == pytest.approx(float(file[f"{case}_brier"]), abs=1e-6)
        scale = calibration.temperature(logits, labels)
        assert scale == pytest.approx(float(file[f"{case}_temperature_optimum"]), rel=1e-3)
        assert calibration.nll(logits / scale, labels) == pytest.approx(float(file[f"{case}_nll_at_optimum"]), abs=1e-6)
    assert seen >= 12


def attacked() -> tuple[np.lib.npyio.NpzFile, nn.Module]:
    """The authors' network, which normalises inside."""
    file = np.load(GOLDEN / "attacks_occlusion.npz")
    state = {name.removeprefix("net."): torch.from_numpy(file[name]) for name in file if name.startswith("net.")}
    mean, std = (torch.from_numpy(file[name]).float()[:, None, None] for name in ("mean", "std"))
    width, classes = state["conv.weight"].shape[0], state["fc.weight"].shape[0]

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, width, 3, padding=1, bias="conv.bias" in state), nn.BatchNorm2d(width)
            self.fc = nn.Linear(4 * width, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = torch.tanh(self.bn(self.conv((x - mean) / std)))
            return self.fc(nn.functional.adaptive_avg_pool2d(hidden, 2).flatten(1))

    network = Network().eval()
    network.load_state_dict(state)
    return file, network


def test_attacks_are_those_of_torchattacks():
    file, network = attacked()
    x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])
    np.testing.assert_allclose(network(x).detach().numpy(), file["logits_clean"], atol=1e-5)
    for epsilon in (4, 8):
        made = fgsm(network, x, y, epsilon / 255)
        np.testing.assert_allclose(made.numpy(), file[f"fgsm{epsilon}_adv"], atol=1e-6)
    for steps, size in ((10, 2), (3, 4)):
        made = pgd(network, x, y, 8 / 255, size / 255, steps)
        np.testing.assert_allclose(made.numpy(), file[f"pgd{steps}_adv"], atol=1e-6)
        start = torch.from_numpy(file[f"pgd{steps}_start"])
        made = pgd(network, x, y, 8 / 255, size / 255, steps, start)
        np.testing.assert_allclose(made.numpy(), file[f"pgd{steps}_random_adv"], atol=1e-6)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_as_many_patches_are_missing_as_in_the_release():
    file = np.load(GOLDEN / "attacks_occlusion.npz")
    rank = torch.rand(3, 196).argsort(1).argsort(1).unflatten(1, (14, 14))
    for number, ratio in enumerate(file["occ_ratio"]):
        left = occluded(torch.ones(3, 2, 224, 224), rank, float(ratio))
        cells = left[:, 0, ::16, ::16]
        assert torch.equal(left, cells[:, None].repeat_interleave(16, 2).repeat_interleave(16, 3).expand(3, 2, -1, -1))
        missing = len(file[f"occ{number}_patches"])
        assert ((cells == 0).sum((1, 2)) == missing).all()
        assert bool((cells[0] != cells[1]).any()) == (0 < missing < 196)  # each image loses patches of its own
    assert [patch_of(side, side, 0) for side in (224, 32, 96, 8)] == [16, 4, 6, 4]
    with pytest.raises(
        SpecError, match=r"occlusion\.patch = 5 does not divide images of 32 x 32 pixels; use one of 1, 2"
    ):
        patch_of(32, 32, 5)


MINE = '''
from dataclasses import dataclass
from automixsearch.config.knobs import knob
from automixsearch.evaluation import Evaluation, Score

@dataclass(frozen=True)
class Darkness(Evaluation):
    """Accuracy on images that are darker."""

    name = "darkness"
    factor: float = knob(0.5, "of the brightness", low=0, high=1)

    def scores(self, subject, generator):
        hits = sum((subject.logits(x * self.factor).argmax(1) == y).sum().item() for x, y in subject.test.batches())
        yield Score("top1", 100 * hits / len(subject.test), len(subject.test), f"factor={self.factor:g}")
'''


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    space = folder / "tiny.yaml"
    space.write_text(
        "data: {source: digits, val_fraction: 0.3}\nrecipe: digits\nbudget: {epochs: 2}\n"
        "knobs: {method: [vanilla, mixup], width: 4}\nresources: {checkpoints: {best: 2}}\n"
    )
    assert (
        main(["search", str(space), "--trials", "2", "--debug", "--lines", "--results", str(folder / "results")]) == 0
    )
    (folder / "mine.py").write_text(MINE)
    return folder


def asked(study: Path, *words: str) -> list[dict]:
    assert main(["evaluate", *words, "--results", str(study / "results"), "--json"]) == 0
    return []


def test_what_is_asked_of_a_trial_is_in_the_ledger_and_is_not_asked_again(study, capsys, monkeypatch):
    suites = f"calibration,attack,occlusion,corruption,{study / 'mine.py'}:Darkness"
    words = ["tiny:0", "--suite", suites, "attack.steps=2", "darkness.factor=1", "occlusion.steps=2",
             "corruption.severity=1"]  # fmt: skip
    asked(study, *words)
    said = capsys.readouterr()
    rows = json.loads(said.out)["evaluations"]
    assert "calibration of t00000: about 2 passes over 359 images\n" in said.err
    trial = open_study(study / "results" / "tiny").show(0)["row"]
    by_name = {(row["suite"], row["name"], row["setting"]): row for row in rows}
    assert by_name["calibration", "ece", ""]["value"] == pytest.approx(trial["test_ece"], abs=1e-6)
    assert by_name["calibration", "nll", ""]["value"] == pytest.approx(trial["test_loss"], rel=1e-5)
    assert by_name["attack", "clean_top1", ""]["value"] == pytest.approx(trial["test_top1"])
    assert by_name["occlusion", "top1", "ratio=0"]["value"] == pytest.approx(trial["test_top1"])
    assert by_name["darkness", "top1", "factor=1"]["value"] == pytest.approx(trial["test_top1"])
    assert by_name["attack", "fgsm_top1", "epsilon=8/255"]["value"] <= trial["test_top1"]
    assert by_name["corruption", "clean_top1", ""]["value"] == pytest.approx(trial["test_top1"])
    assert by_name["corruption", "mean_top1", "corruptions=15"]["images"] == 15 * trial["test_images"]
    assert {row["images"] for row in rows if not row["name"].startswith(("bin", "temp", "mean"))} == {
        trial["test_images"]
    }
    monkeypatch.setattr("automixsearch.evaluation.run.TrainingRun", None)  # nothing is built again
    asked(study, *words)
    again = capsys.readouterr()
    assert json.loads(again.out)["evaluations"] == rows
    assert "calibration of t00000: is in the ledger" in again.err
    frame = open_study(study / "results" / "tiny").evaluations()
    assert len(frame) == len(rows)
    assert set(frame.suite) == {"calibration", "attack", "occlusion", "corruption", "darkness"}
    assert "darkness@file+" in frame[frame.suite == "darkness"].code.iloc[0]


def test_a_search_asks_every_trial_at_its_end(study, capsys):
    """Beside the command's answers, which are the same; what cannot be asked is told, and costs nothing else."""
    space = (study / "tiny.yaml").read_text() + (
        "name: asked\nevaluate:\n  - calibration\n  - {occlusion: {patch: 3}}\n  - {corruption: {severity: 3}}\n"
        f"  - {{{study / 'mine.py'}:Darkness: {{factor: 1}}}}\n"
    )
    (study / "asked.yaml").write_text(space)
    results = str(study / "results")
    assert main(["search", str(study / "asked.yaml"), "--trials", "2", "--debug", "--lines", "--results", results]) == 0
    said = capsys.readouterr()
    assert "t00001 was not asked occlusion: occlusion.patch = 3 does not divide images" in said.out + said.err
    ledger = open_study(study / "results" / "asked")
    frame = ledger.evaluations()
    assert {*zip(frame.trial_id, frame.suite, strict=True)} == {
        (trial, suite) for trial in ("t00000", "t00001") for suite in ("calibration", "corruption", "darkness")
    }
    rows = ledger.trials().set_index("trial_id")
    for suite, name in (("darkness", "top1"), ("corruption", "clean_top1")):
        found = frame[(frame.suite == suite) & (frame.name == name)].set_index("trial_id").value
        assert found.to_dict() == rows.test_top1.to_dict()
    before = frame[(frame.suite == "corruption") & (frame.trial_id == "t00000")].to_dict("records")
    words = ["evaluate", "asked:0", "--suite", "corruption", "corruption.severity=3", "--results", results, "--json"]
    assert main(words) == 0
    again = capsys.readouterr()
    assert "is in the ledger" in again.err
    assert json.loads(again.out)["evaluations"] == before


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("calibrate", "unknown evaluation 'calibrate'; did you mean 'calibration'?"),
        ("[calibration, calibration]", "calibration is asked twice"),
        ("[{corruption: {severity: 6}}]", "corruption.severity = 6 must be 0 to 5"),
        ("{corruption: {severty: 3}}", "corruption: unknown setting 'severty'; did you mean 'severity'?"),
        ("[{corruption: 3}]", "corruption: 3 must be a mapping of settings"),
        ("[3]", "3 must be a name, or a name with settings"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["space", "study"])
def test_what_cannot_be_asked_is_refused_before_anything_runs(tmp_path, written, message, kind):
    file = tmp_path / "file.yaml"
    design = "question: Why?\ndesign: curve\nvary: {lr: [0.1, 0.2]}\n" if kind == "study" else ""
    file.write_text(f"data: {{source: digits}}\nknobs: {{method: vanilla}}\n{design}evaluate: {written}\n")
    with pytest.raises(SpecError, match=re.escape(message)) as raised:
        (load_study_file if kind == "study" else load_space)(file)
    assert "evaluate" in str(raised.value)


def test_questions_change_no_id(tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text("data: {source: digits}\nknobs: {method: vanilla}\n")
    plain, asked = load_space(file), load_space(file, ["evaluate=calibration"])
    assert asked.evaluate == {"calibration": {"bins": 15}}
    assert plain.space_id == asked.space_id


def test_the_best_are_asked_and_a_table_is_printed(study, capsys):
    words = ["evaluate", "tiny", "--best", "2", "--suite", "calibration", "calibration.bins=5", "--results",
             str(study / "results")]  # fmt: skip
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "ece_scaled" in out
    assert "t00000" in out
    assert "t00001" in out
    assert "bin_accuracy" not in out


def test_a_file_of_weights_is_asked(study, capsys):
    results, config, weights = str(study / "results"), str(study / "best.yaml"), str(study / "best.pt")
    assert main(["best", "tiny", "--export", config, "--weights", weights, "--results", results]) == 0
    capsys.readouterr()
    assert main(["evaluate", config, "--weights", weights, "--suite", "occlusion", "occlusion.steps=1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["evaluations"]
    assert (row["name"], row["setting"], row["images"]) == ("top1", "ratio=0", 359)


def test_a_damaged_answer_is_left_out_by_name(study, capsys):
    folder = study / "results" / "tiny" / "evaluations"
    file = next(iter(sorted(folder.glob("*.json"))))
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"value":', b'"valeu":', 1))
    ledger = open_study(study / "results" / "tiny")
    ledger.evaluations()
    assert any(file.name in problem for problem in ledger.corrupt)
    file.write_bytes(whole)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny:0", "--suite", "calibrate"], "unknown evaluation 'calibrate'; did you mean 'calibration'?"),
        (["tiny:0", "--suite", "attack,attack"], "names attack twice"),
        (["tiny:0", "--suite", "attack", "calibration.bins=3"], "unknown setting 'calibration.bins'"),
        (["tiny:0", "calibration.bins=1"], "calibration.bins = 1 must be 2 to 1000"),
        (["tiny:7"], "unknown trial '7'"),
        (["tiny:0", "--best", "2"], "names a trial; --best and --per choose some"),
        (["tiny:0", "--device", "tpu9"], "--device 'tpu9' cannot be used"),
    ],
    ids=str,
)
def test_mistakes_are_refused(study, words, message, capsys):
    assert main(["evaluate", *words, "--results", str(study / "results")]) == 2
    assert message in capsys.readouterr().err


def test_settings_go_to_their_evaluations():
    ((attack, code), (whole, _)) = evaluations_of(["attack", "calibration"], {"attack.steps": 3})
    assert attack.settings() == {"epsilon": 8.0, "steps": 3, "step_size": 2.0, "random_start": False}
    assert whole == EVALUATIONS["calibration"]()
    assert code
