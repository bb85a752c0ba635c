"""What commands print: on streams of every encoding, and advice that works when it is followed."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from automixsearch.cli import main
from automixsearch.commands.terminal import PLAIN
from automixsearch.data import load
from automixsearch.errors import DataError
from automixsearch.report.sections import make_report
from automixsearch.results.schema import encode, to_arrow
from automixsearch.results.study import open_study
from automixsearch.search.driver import SearchResult
from tests.data.test_detection import voc
from tests.ledgers import write_study

EXAMPLE = str(Path(__file__).parents[1] / "automixsearch" / "example")
QUICK = ["search", "quickstart", "--debug", "epochs=1", "width=8", "scheduler=fifo", "warmup_epochs=0"]


# Encodings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "sign"), [("ascii", "+/-"), ("cp1252", "±"), ("latin-1", "±"), ("utf-8", "±"), ("utf-16", "±")]
)
def test_a_table_is_readable_on_a_stream_of_any_encoding(encoding, sign):
    done = subprocess.run(
        [sys.executable, "-m", "automixsearch", "best", EXAMPLE, "-n", "2"],
        env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode(encoding).splitlines()
    assert f"97.39 {sign}1.3" in lines[4]
    assert len({len(line.rstrip()) for line in lines[4:6]}) == 1  # columns stand below one another


def test_an_error_about_what_no_encoding_has_is_printed():
    arguments = [sys.executable, "-m", "automixsearch", "best", os.fsdecode(b"\xff\xc3\xa9") + "→"]
    for encoding in ("ascii", "utf-8"):
        env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
        done = subprocess.run(arguments, env=env, capture_output=True, check=False)
        assert done.returncode == 2
        assert rb"\udcff" in done.stderr
        assert b"Traceback" not in done.stderr


def test_every_character_has_something_that_stands_for_it():
    text = "".join(map(chr, [*range(1, 0x3000), 0x1F642, 0xDCFF]))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=PLAIN)
    stream.write(text)
    stream.flush()
    assert "±…─→é🙂".encode("ascii", PLAIN) == b"+/-.-->\\xe9\\U0001f642"


# Advice --------------------------------------------------------------------------------------------------------


def commands_in(text: str) -> list[list[str]]:
    """The commands that an output names."""
    return [shlex.split(re.split(r"\n| {4}|;", command)[0]) for command in text.split("automixsearch ")[1:]]


def test_every_command_that_a_search_names_works_where_the_results_lie_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "my results"
    assert main([*QUICK, "trials=1", "method=vanilla", "--name", "a", "--results", str(place)]) == 0
    printed = capsys.readouterr().out
    named = commands_in(printed[printed.index("Next:") :])
    assert [words[0] for words in named] == ["best", "best", "train", "query"], printed
    for words in named:
        assert main(words) == 0, words
    assert main(["ls", "--results", str(place)]) == 0


def test_a_search_that_is_to_be_started_puts_its_results_where_was_looked(tmp_path, capsys):
    (tmp_path / "my results").mkdir()
    assert main(["ls", "--results", str(tmp_path / "my results")]) == 0
    (words,) = commands_in(capsys.readouterr().out)
    assert words == ["search", "quickstart", "--results", str(tmp_path / "my results")]


def test_what_to_ask_instead_names_a_study_elsewhere_by_its_place(tmp_path, capsys):
    design = {"name": "curve", "vary": ["mixup.alpha"], "runs": []}
    rows = [{"knobs": {"method": "mixup", "mixup.alpha": alpha}, "score": 90.0 + alpha, "seed": seed}
            for alpha in (0.2, 1.0) for seed in range(3)]  # fmt: skip
    write_study(tmp_path, "a", rows, design=design)
    assert main(["robustness", "a", "--results", str(tmp_path)]) == 2
    named = re.findall(r"automixsearch (\w+ \S+(?: --knob \w+)?)", capsys.readouterr().err)
    assert named[0] == f"sensitivity {tmp_path}/a --knob alpha"
    assert main(shlex.split(named[0])) == 0


def test_a_knob_groups_by_its_own_name(capsys):
    assert main(["best", EXAMPLE, "--per", "loss", "-n", "1", "--json"]) == 0
    by_short = capsys.readouterr().out
    assert main(["best", EXAMPLE, "--per", "knob.loss", "-n", "1", "--json"]) == 0
    assert by_short.replace('"per": "loss"', '"per": "knob.loss"') == capsys.readouterr().out
    assert main(["compare", EXAMPLE, "--by", "loss", "--against", "mce", "--json"]) == 0
    assert '"b": "mce"' in capsys.readouterr().out


def test_a_direction_is_told_to_follow_from_the_metric(capsys):
    assert main(["search", "quickstart", "direction=minimize"]) == 2
    assert (
        "the metric says it: val_top1, val_top5, val_balanced_accuracy, val_macro_f1, val_auroc are maximised; val_loss"
        in capsys.readouterr().err
    )
    assert main(["search", "quickstart", "objective={val_loss: minimize}"]) == 2
    assert "must be the name of a metric, or a list of names; each has its direction" in capsys.readouterr().err


def test_an_accuracy_that_guessing_reaches_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    unequal = {"val_images": 50, "val_majority": 96.0, "val_rarest": 2, "test_majority": 90.0, "test_rarest": 30}
    rows = [{"knobs": {"method": name}, "score": score, "test_top1": 99.0, "test_images": 300} | unequal
            for name, score in (("mixup", 96.0), ("cutmix", 10.0), ("vanilla", 94.0))]  # fmt: skip
    study = write_study(tmp_path, "a", rows)
    few = "fewer than 10 images (2 in the validation split)"
    for words in (["best", study.store.uri, "-n", "1"], ["show", study.store.uri, "0"]):
        assert main(words) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert said.count("(majority 9") == 1
        assert "96.00 ±6.2 (majority 96.00)" in said
        assert "An accuracy of t00000 is no better, for all that its images tell, than" in said
        assert few in said
    report = make_report(study)
    assert any(few in verdict.sentence for verdict in report.verdicts)
    (column,) = (column for column in report.trials["columns"] if column["name"] == "majority")
    assert column["values"] == [96.0] * 3
    clear = write_study(tmp_path, "b", [{"knobs": {"method": "mixup"}, "score": 96.0, "val_majority": 80.0}])
    assert main(["best", clear.store.uri]) == 0
    assert "majority" not in capsys.readouterr().out


def test_a_study_that_minimises_names_its_smallest_best_and_exports_it(tmp_path, capsys):
    rows = [{"knobs": {"method": method}, "score": score, "val_top1": None}
            for method, score in (("mixup", 0.7), ("cutmix", 0.3), ("vanilla", 0.5))]  # fmt: skip
    write_study(tmp_path, "a", rows, objective="val_loss")
    assert main(["best", str(tmp_path / "a"), "-n", "1", "--export", str(tmp_path / "best.yaml")]) == 0
    assert "cutmix" in capsys.readouterr().out
    assert "# Trial t00001 of study a: val_loss 0.3, one run.\n" in (tmp_path / "best.yaml").read_text()


def test_what_data_says_to_do_works(tmp_path, capsys):
    scenes = voc(2007)(tmp_path / "my scenes").data
    with pytest.raises(DataError) as refused:
        load(scenes)
    (words,) = commands_in(str(refused.value).rpartition(", and train")[0])
    assert main(words) == 0
    root = tmp_path / "my images"
    for number in range(16):
        folder = root / ("train", "test")[number % 2] / "ab"[number // 8]
        folder.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 4 else 1
        Image.new("RGB", (9 + number, 8), (number, 0, 0)).save(folder / f"{number}.png", exif=exif)
    (root / "train" / "a" / "bad.png").write_bytes(b"no image")
    words, printed = ["data", "folder", f"data.path={root}"], ""
    for key in ("size", "on_bad_image", "orientation"):  # in the order in which they are asked for
        status = main(words)
        printed = "".join(capsys.readouterr())
        (advice,) = set(re.findall(rf"data\.{key}=\w+", printed))
        assert status == (0 if key == "orientation" else 2), printed
        words.append(advice)
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "bad images left out: 1" in printed
    assert "EXIF" not in printed


def test_what_reproduce_says_to_do_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce"]) == 2
    (words,) = commands_in(capsys.readouterr().err.replace(" says more", ""))
    assert main(words) == 0
    assert "--list TABLE" in " ".join(capsys.readouterr().out.split())
    assert main(["reproduce", "automix_small_scale:CIFAR-100/Tiny-ImageNet"]) == 2
    (words,) = commands_in(capsys.readouterr().err.replace(" lists the cells", ""))
    assert main(words) == 0
    capsys.readouterr()
    assert main(["reproduce", "automix_small_scale:CIFAR-100/ResNet-18/Vanilla", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    (words,) = commands_in(" ".join(printed.splitlines()[-2:]))
    assert words == ["train", "FILE"]
    config = printed.partition("\n# ")[2].partition("\n")[2].partition("---\n")[0]
    (tmp_path / "FILE").write_text(config)
    assert main([*words, "epochs=1", "width=2"]) == 0


def test_what_doctor_says_to_do_works(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUTOMIXSEARCH_CACHE", str(tmp_path / "file" / "cache"))
    words = ["doctor", "--no-ray", "--json", "--results"]
    assert main([*words, str(tmp_path / "file" / "results")]) == 1
    told = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert (told["cache"]["ok"], told["write access"]["ok"]) == (False, False)
    (variable,) = re.findall("set ([A-Z_]+) to a directory", told["cache"]["remedy"])
    assert told["write access"]["remedy"].startswith("use --results")
    monkeypatch.setenv(variable, str(tmp_path / "cache"))
    assert main([*words, str(tmp_path / "results")]) == 0
    told = {check["name"]: check["ok"] for check in json.loads(capsys.readouterr().out)}
    assert told["cache"]
    assert told["write access"]
    assert list((tmp_path / "results").iterdir()) == []


# Totals and nothing to do --------------------------------------------------------------------------------------


def test_a_lowered_total_leaves_what_has_happened(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*QUICK, "method=vanilla", "--name", "a"]
    assert main([*words, "trials=2"]) == 0
    capsys.readouterr()
    assert main([*words, "trials=1"]) == 0
    printed = capsys.readouterr()
    assert "2 trials have begun, more than the 1 asked for: no others will" in printed.err
    assert "2 of 2 trials (2 complete)" in printed.out
    assert open_study("a").info["total_trials"] == 2
    assert main(["ls"]) == 0
    assert "2/2" in capsys.readouterr().out


JOB = "search: quickstart\nresults: results\noverrides: {trials: 2, epochs: 2, method: vanilla}\nenvironment: {}\n"


@pytest.mark.parametrize(
    ("command", "states", "said"),
    [
        (["resume"], ["complete", "failed"], "its 2 trials have ended, 1 failed"),
        (["retry", "--failed"], ["complete", "complete"], "no trial has failed"),
        (["retry", "--failed"], ["complete"], "no trial has failed"),
        (["retry", "--failed"], ["failed", "failed"], "all 2 that failed have done so 3 times of one cause; --force"),
    ],
)
def test_going_on_with_a_job_that_has_nothing_to_do_starts_nothing(
    tmp_path, monkeypatch, capsys, command, states, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(JOB)
    more = {"attempts": 3, "error_class": "DataError"}
    rows = [{"knobs": {"method": "vanilla"}, "state": state, **(more if state == "failed" else {})} for state in states]
    write_study("results", "a", rows)
    monkeypatch.setattr("automixsearch.cluster.jobs.run_local", lambda job: pytest.fail("it was started"))
    assert main([*command, "a.yaml", "--address", "local"]) == 0
    assert f"a in {tmp_path}/results: nothing to do: {said}" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["submit"], ["resume"], ["retry", "--failed"]])
def test_a_job_says_how_to_go_on_with_it_and_not_with_the_folder_that_was_sent(tmp_path, monkeypatch, capfd, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(JOB)
    write_study("results", "a", [{"knobs": {"method": "vanilla"}, "state": "failed", "error_class": "ValueError"}])
    read = [sys.executable, "-c", "import os; print(os.environ['AUTOMIXSEARCH_AGAIN'])"]
    monkeypatch.setattr("automixsearch.cluster.jobs.Prepared.command", lambda job, here: read)
    words = [*command, "a.yaml", "--address", "local"]
    assert main(words) == 0
    assert capfd.readouterr().out.splitlines()[-1] == shlex.join(["automixsearch", *words])


def test_a_search_in_a_job_prints_the_command_of_the_job(tmp_path, monkeypatch, capsys):
    write_study(tmp_path, "a", [{"knobs": {"method": "vanilla"}, "score": 90.0}])
    result = SearchResult("a", str(tmp_path / "a"), 1, 2, True)
    monkeypatch.setenv("AUTOMIXSEARCH_AGAIN", "automixsearch submit a.yaml --address local")
    monkeypatch.setattr("automixsearch.search.driver.run_search", lambda *_, **__: result)
    space = tmp_path / "a.yaml"
    space.write_text("name: a\nknobs: {method: vanilla}\n")
    assert main(["search", str(space), "--results", str(tmp_path)]) == 130
    assert capsys.readouterr().out.endswith("To go on: automixsearch submit a.yaml --address local\n")


# Damaged rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{", "", "[1]", "null"])
def test_a_trial_whose_config_is_damaged_is_shown(tmp_path, capsys, text):
    study = write_study(tmp_path, "a", [{"knobs": {"method": "mixup"}, "score": 90.0}])
    row = study.store.trial_row("t00000", copied=True) | {"config": text, "method": None}
    for file in (tmp_path / "a" / "trials").glob("*.parquet"):
        file.write_bytes(encode(to_arrow("trials", [row])))
    assert main(["show", str(tmp_path / "a"), "0"]) == 0
    assert "t00000: complete" in capsys.readouterr().out
