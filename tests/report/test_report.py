"""A report holds what the ledger and the analysis say, in HTML that nothing in a ledger can break, and in Markdown."""

from __future__ import annotations

import csv
import io
import json
import re
import urllib.parse
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from ledgers import write_study

from automixsearch.cli import main
from automixsearch.errors import StudyError
from automixsearch.report import charts
from automixsearch.report.page import alone, to_html, to_markdown, write_report
from automixsearch.report.parts import Report, Section
from automixsearch.report.sections import make_report
from automixsearch.results.evaluations import EvaluationDocument, place_of
from automixsearch.results.study import Study, open_study

VOID = {"meta", "link", "input", "br", "line", "path", "circle", "rect"}


class Page(HTMLParser):
    """The tags, texts and links of a page; refuses tags that are closed in another order than opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts = 0
        self.links: list[str] = []
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.scripts += tag == "script"
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [found["href"]] if found.get("href") else []
        self.sources += [found["src"]] if found.get("src") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def section(report: Report, key: str) -> Section:
    return next(found for found in report.sections if found.key == key)


@pytest.fixture(scope="module")
def sobol_report(sobol: Study) -> Report:
    return make_report(sobol)


@pytest.fixture(scope="module")
def search_report(search: Study) -> Report:
    return make_report(search)


def test_evaluations_are_means_of_what_was_asked(tmp_path):
    rows = [{"knobs": {"method": method, "epochs": 4}, "score": 60.0} for method in ("mixup", "cutmix", "mixup")]
    study = write_study(tmp_path, "asked", [*rows, {**rows[0], "state": "failed"}])
    assert "evaluations" not in {found.key for found in make_report(study).sections}

    def answer(trial: int, suite: str, scores: dict[tuple[str, str], float], **settings: int) -> None:
        entries = [
            {"name": name, "setting": setting, "value": value, "images": 10}
            for (name, setting), value in scores.items()
        ]
        content = {"trial_id": f"t{trial:05d}", "suite": suite, "settings": settings, "seed": 0, "code": "1"}
        document = EvaluationDocument.model_validate(content | {"scores": entries})
        study.store.put_document(place_of(document.trial_id, suite, settings), document)

    for trial, (error, images) in enumerate(((0.1, 1.0), (0.15, 4.0), (0.3, 3.0), (0.9, 9.0))):
        bins = {("bin_images", "bin=2/2"): images, ("bin_confidence", "bin=2/2"): 0.6 + 0.1 * trial,
                ("bin_accuracy", "bin=2/2"): 0.5 + 0.2 * trial}  # fmt: skip
        answer(trial, "calibration", {("ece", ""): error, ("ece_scaled", ""): 0.05 - error / 10, **bins}, bins=2)
    answer(0, "calibration", {("ece", ""): 0.99}, bins=3)
    noise = {("top1", f"corruption=fog severity={severity}"): 10.0 * severity for severity in (1, 2)}
    answer(1, "corruption", noise | {("mean_top1", "corruptions=15"): 15.0}, severity=0)
    answer(2, "mine", {("anything", ""): 1.0})
    found = section(make_report(Study(study.store)), "evaluations")
    (said,) = found.says
    assert said.startswith("Expected calibration error: cutmix 0.150, mixup 0.200.")
    assert "changes the order of these means: mixup 0.030, cutmix 0.035" in said
    assert "2 of mixup and 1 of cutmix (calibration)" in found.about
    diagram = next(figure for figure in found.figures if figure.name == "reliability")
    assert "mixup: 0.75 → 0.8" in diagram.svg  # of 1 image at 0.6 and 3 at 0.8, right in 0.5 and 0.9 of the cases
    heat = next(figure for figure in found.figures if figure.name == "corruption-1")
    assert "fog" in heat.svg
    assert ">15.00</text>" in heat.svg
    (table,) = found.tables
    assert [row["method"] for row in table.rows] == ["mixup", "cutmix"]
    assert table.columns[1].text(table.rows[0]) == "0.200 ± 0.141"
    assert table.columns[1].text(table.rows[1]) == "0.150"
    assert {row["trial_id"] for row in found.numbers[0].rows} == {"t00000", "t00001", "t00002"}


def test_calibration_is_compared_with_vanilla_as_it_is_and_scaled(tmp_path):
    errors = {"vanilla": [(0.10, 0.020), (0.12, 0.024)], "mixup": [(0.30, 0.021), (0.32, 0.025)]}
    rows = [{"knobs": {"method": method, "epochs": 4}, "score": 60.0} for method, each in errors.items() for _ in each]
    study = write_study(tmp_path, "asked", rows)
    for trial, (plain, scaled) in enumerate([*errors["vanilla"], *errors["mixup"]]):
        scores = [{"name": name, "value": value, "images": 10} for name, value in
                  (("ece", plain), ("ece_scaled", scaled))]  # fmt: skip
        content = {"trial_id": f"t{trial:05d}", "suite": "calibration", "settings": {}, "seed": 0, "code": "1"}
        document = EvaluationDocument.model_validate(content | {"scores": scores})
        study.store.put_document(place_of(document.trial_id, "calibration", {}), document)
    found = section(make_report(Study(study.store)), "evaluations")
    assert found.says[1] == "Of 1 method 1 differs from vanilla in it (95 %), and 0 after scaling."
    drawn = next(figure for figure in found.figures if figure.name == "calibration-vanilla")
    # Student's 12.706 of one degree of freedom times the standard errors of both means, 0.01 (0.002), added in squares.
    tips = re.findall(r'data-tip="(mixup[^"]*: [^"]*)"', drawn.svg)
    assert tips == ["mixup: 0.20 [0.02, 0.38]", "mixup, scaled: 0.001 [-0.035, 0.037]"]


@pytest.fixture(scope="module")
def factorial_report(factorial: Study) -> Report:
    return make_report(factorial)


def test_a_study_report_has_every_section_and_says_what_is_missing(sobol_report):
    keys = [
        "robustness",
        "comparison",
        "tuning",
        "sensitivity",
        "importance",
        "ablation",
        "fidelity",
        "best",
        "gate",
        "learning",
        "trials",
        "cost",
        "provenance",
    ]
    assert [found.key for found in sobol_report.sections] == keys
    assert sobol_report.question == "How sensitive are mixup and cutmix to alpha and lr?"
    for found in sobol_report.sections:
        assert found.figures or found.tables or found.missing or found.key == "trials", found.key
    assert section(sobol_report, "ablation").missing[0].startswith("It switches no parts on or off")
    assert "epochs" in section(sobol_report, "fidelity").missing[0]


def test_the_planted_difference_is_the_first_verdict(sobol_report):
    first = sobol_report.verdicts[0]
    assert first.kind == "better", first
    assert re.match(r"cutmix is better than mixup by 1\.[3-7]\d \[", first.sentence)


def test_the_tables_are_the_rows_of_the_analysis(sobol, sobol_report):
    from automixsearch.analysis.compare import compare
    from automixsearch.analysis.robustness import scorecards

    tables = {table.name: table for table in sobol_report.tables}
    found = [row for card in scorecards(sobol) for row in card.rows()]
    assert repr(list(tables["scorecard"].rows)) == repr(found)  # NaN equals nothing
    assert list(tables["comparisons"].rows) == [row for one in compare(sobol) for row in one.rows()]
    read = list(csv.DictReader(io.StringIO(tables["scorecard"].csv)))
    assert [row["method"] for row in read] == ["mixup", "cutmix"]
    assert float(read[0]["mean"]) == tables["scorecard"].rows[0]["mean"]


def test_an_ablation_report_leads_with_the_effects(factorial_report):
    kinds = {verdict.sentence.split()[0]: verdict.kind for verdict in factorial_report.verdicts}
    assert kinds["attention"] == "helps"
    assert kinds["ema"] in ("equivalent", "unresolved")
    found = section(factorial_report, "ablation")
    assert factorial_report.sections[0] is found
    assert {table.name for table in found.tables} >= {"ablation", "interactions", "shapley", "path"}
    assert "no draws from a prior" in section(factorial_report, "robustness").missing[0]


def test_a_search_report_leads_with_the_best_and_refuses_what_adaptive_trials_cannot_say(search, search_report):
    best = search.top_rows(1)[0]
    assert search_report.verdicts[0].kind == "best"
    assert best["trial_id"] in search_report.verdicts[0].sentence
    assert [found.key for found in search_report.sections[:2]] == ["best", "gate"]
    assert "no sample of the search space" in section(search_report, "robustness").missing[0]
    assert section(search_report, "gate").says or section(search_report, "gate").missing
    assert any("trivialmix" in verdict.sentence for verdict in search_report.verdicts)


def test_several_objectives_have_a_front(search, tmp_path):
    from ledgers import write_study

    rows = [
        {"knobs": {"method": "mixup"}, "score": 60.0 + i, "device_s": 10.0 + i, "purpose": "search"} for i in range(4)
    ]
    rows.append({"knobs": {"method": "cutmix"}, "score": 60.5, "device_s": 20.0, "purpose": "search"})
    study = write_study(tmp_path, "two", rows, space={"sampler": {"name": "nsga2"}})
    study.store.put("study.json", json.dumps(study.info | {"objective": ["val_top1", "device_s"]}).encode())
    found = section(make_report(study), "pareto")
    assert found.says[0].startswith("4 of 5 complete trials")
    assert [row["trial_id"] for row in found.tables[0].rows] == ["t00003", "t00002", "t00001", "t00000"]


@pytest.mark.parametrize("name", ["search", "sobol", "factorial"])
def test_a_page_is_whole_and_asks_for_nothing_outside(name, request):
    report = request.getfixturevalue(f"{name}_report")
    text = to_html(report)
    page = Page(text)
    assert page.scripts == 2  # the data and our own
    assert not page.sources
    for link in page.links:
        assert link.startswith(("#", "data:", "csv/")), link
        assert not link.startswith("#") or link[1:] in page.ids
    assert not re.search(r"@import|url\((?!data:)", text)
    assert len(page.ids) == len(set(page.ids))


def test_nothing_in_a_ledger_can_break_the_page(search_report):
    text = to_html(search_report)
    assert "<script>window" not in text
    assert "<b>simulated</b>" not in text
    assert "<b>below</b>" not in text
    assert "Which policy, on &lt;b&gt;simulated&lt;/b&gt; images?" in text
    payload = re.search(r'id="payload">(.*?)</script>', text, re.DOTALL)
    assert payload
    columns = {column["name"]: column for column in json.loads(payload[1])["columns"]}
    assert "NonFiniteLoss: <script>window.hacked = 1</script>" in columns["why"]["words"]
    assert "<script>" not in to_markdown(search_report)


def test_a_figure_escapes_its_names():
    drawn = charts.bars("<b>", charts.Axis("<i>"), [charts.Bar('<script>"', 1.0, tip="<u>")])
    assert not re.search(r"<(b|i|u|script)>", drawn)
    assert 'aria-label="&lt;b&gt;"' in drawn


def test_data_links_hold_the_whole_table(sobol_report):
    page = Page(to_html(sobol_report))
    found = [link for link in page.links if link.startswith("data:text/csv")]
    tables = {table.csv for table in sobol_report.tables}
    assert len(found) >= 5
    for link in found:
        assert urllib.parse.unquote(link.partition(",")[2]) in tables


def test_every_number_is_a_file_beside_the_page(factorial, tmp_path):
    page = write_report(make_report(factorial), factorial, tmp_path)
    text = (tmp_path / "report.md").read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (tmp_path / link).is_file(), link
    assert page == tmp_path / "report.html"
    with (tmp_path / "csv" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial_id"] for row in rows] == factorial.trials()["trial_id"].tolist()
    assert float(rows[5]["val_top1"]) == factorial.trials()["val_top1"][5]
    assert "attention helps: " in text


def test_a_picture_stands_alone():
    drawn = charts.lines("a", charts.Axis("x"), charts.Axis("y"), [charts.Line("a", [1, 2], [3, 4])])
    text = alone(drawn)
    assert text.startswith('<svg width="320" height="206" xmlns')
    for name in set(re.findall(r"var\((--\w+)\)", text)):
        assert f"{name}:" in text, name


def test_the_trials_of_the_page_are_those_of_the_ledger(search, search_report):
    columns = {column["name"]: column for column in search_report.trials["columns"]}
    frame = search.trials()
    assert columns["trial_id"]["values"] == frame["trial_id"].tolist()
    words = columns["state"]["words"]
    assert [words[code] for code in columns["state"]["values"]] == frame["state"].tolist()
    shown = columns["val_top1"]["values"]
    for value, true in zip(shown, frame["val_top1"], strict=True):
        assert (value is None) == (true != true)
        assert value is None or value == pytest.approx(true, abs=1e-4)
    assert len(search_report.trials["curves"]) == len(frame)


def test_a_study_without_trials_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "study.json").write_text("{}")
    with pytest.raises(StudyError, match="study empty has no ended trial yet"):
        make_report(open_study(tmp_path / "empty"))


def test_a_study_of_failures_is_reported(tmp_path):
    from ledgers import write_study

    rows = [{"knobs": {"method": "mixup"}, "state": "failed", "error_class": "OSError", "purpose": "search"}] * 3
    report = make_report(write_study(tmp_path, "bad", rows))
    assert "3 trials failed: 3 with OSError." in section(report, "trials").says
    assert "No trial is complete yet" in section(report, "best").missing[0]
    Page(to_html(report))


def test_colours_are_the_methods_own():
    alone_, together = charts.inks(["cutmix"]), charts.inks(["cutmix", "mixup+cutmix", "automix"])
    assert alone_["cutmix"] == together["cutmix"]
    assert len({(ink.colour, ink.dash) for ink in together.values()}) == len(together)


@pytest.mark.parametrize(
    ("low", "high", "log", "found"),
    [
        (0, 10, False, [0, 2, 4, 6, 8, 10]),
        (94.2, 95.9, False, [94.5, 95.0, 95.5]),
        (0.1, 8, True, [0.1, 0.2, 0.5, 1, 2, 5]),
        (1e-5, 10, True, [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10]),
    ],
)
def test_ticks_are_round_and_inside(low, high, log, found):
    ticks = charts.ticks(low, high, 6 if log else 5, log)
    assert ticks == pytest.approx(found)


def test_the_command_writes_beside_the_study_and_names_the_page(search, capsys):
    place = Path(search.store.results) / "search"
    assert main(["report", str(place)]) == 0
    assert f"report: {place}/report/report.html" in capsys.readouterr().out
    assert (place / "report" / "csv" / "best.csv").is_file()


def test_the_demo_reports_a_ledger_that_cannot_be_written_to(folder, factorial, tmp_path, monkeypatch, capsys):
    from automixsearch.commands import report as commands

    monkeypatch.setattr(commands, "EXAMPLE", folder / "factorial")
    monkeypatch.chdir(tmp_path)
    before = sorted((folder / "factorial").rglob("*"))
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert "attention helps" in " ".join(out.split())
    assert "report: demo-report/report.html" in out
    assert (tmp_path / "demo-report" / "report.html").is_file()
    assert sorted((folder / "factorial").rglob("*")) == before


def test_a_demo_without_its_ledger_says_so(tmp_path, monkeypatch, capsys):
    from automixsearch.commands import report as commands

    monkeypatch.setattr(commands, "EXAMPLE", tmp_path)
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert "the example study is not there; install AutoMixSearch again" in capsys.readouterr().err


def test_the_report_of_a_curve_says_for_whom_the_knob_matters(tmp_path):
    rng, rows, runs = np.random.default_rng(0), [], []
    for method, replicate in product(("mixup", "cutmix"), range(4)):
        for alpha in (1.0, 0.2, 4.0):
            score = 70 + 3 * replicate - 2 * (alpha == 4.0 and method == "cutmix") + float(rng.normal(0, 0.2))
            arm = "incumbent" if alpha == 1.0 else f"alpha={alpha:g}"
            runs.append(
                {"number": len(rows), "purpose": "study", "arm": arm, "stratum": method, "replicate": replicate}
                | {"levels": {} if alpha == 1.0 else {f"{method}.alpha": alpha}, "seed": replicate, "split_seed": 0}
            )
            rows.append({"knobs": {"method": method, f"{method}.alpha": alpha}, "score": score, "seed": replicate})
    design = {"name": "curve", "question": "Does alpha matter?", "metric": "val_top1", "margin": 0.3, "factors": {}}
    design |= {"vary": ["mixup.alpha", "cutmix.alpha"], "methods": ["mixup", "cutmix"], "runs": runs}
    report = make_report(write_study(tmp_path, "curve", rows, design=design))
    said = [(verdict.kind, verdict.sentence) for verdict in report.verdicts]
    assert any(kind == "note" and text.startswith("alpha matters for cutmix (2.") for kind, text in said)
    assert ("unresolved", "Whether alpha matters for mixup cannot be told.") in said
    assert any(kind == "hurts" and text.startswith("alpha=4 in cutmix hurts: -2.") for kind, text in said)
    found = section(report, "ablation")
    assert found.title == "Values against the centre"
    assert [figure.title for figure in found.figures] == [f"{found.title}, {name}" for name in ("mixup", "cutmix")]
    arms = next(table for table in found.tables if table.name == "path").rows
    assert [(row["stratum"], row["arm"]) for row in arms][:2] == [("mixup", "alpha=1 (centre)"), ("mixup", "alpha=0.2")]
    columns = {column["name"]: column for column in report.trials["columns"]}
    assert columns["seed"]["hidden"]
    assert "why" not in columns


def test_what_cannot_be_said_for_one_reason_stands_together_at_the_end(search_report):
    page, text = to_html(search_report), to_markdown(search_report)
    titles = next(
        [section.title for section in sections]
        for sections, reason in search_report.unanswered
        if "no sample of the search space" in reason
    )
    assert {"Robustness", "Methods compared", "Sensitivity"} <= set(titles)
    assert page.count("are no sample of the search space: ") < len(titles)
    assert page.index('id="provenance"') < page.index('id="unanswered"') < page.index('<strong id="robustness">')
    assert f"* **{', '.join(titles)}**: Its trials are no sample" in text
    assert not any(verdict.sentence.startswith("Unresolved") for verdict in search_report.verdicts)


def test_a_search_that_halves_without_anchors_says_nothing_of_its_rungs(tmp_path):
    rows = [{"knobs": {"method": "mixup", "epochs": epochs}, "score": 50.0 + epochs} for epochs in (3, 12)]
    space = {"scheduler": {"name": "asha", "rungs": "schedules"}, "sampler": {"name": "tpe"}}
    report = make_report(write_study(tmp_path, "halved", rows, space=space))
    assert "give the search fidelity: {anchors: 12}" in section(report, "fidelity").missing[0]


def test_what_was_guessed_of_images_without_labels_has_a_section_of_its_own(tmp_path):
    rows = [
        {"knobs": {"algorithm": name, "method": "vanilla"}, "score": score}
        for name, score in (("fixmatch", 60.0), ("fixmatch", 70.0), ("supervised", 90.0))
    ]
    told = [(1, 0.0, 0.0, 20.0), (2, 0.5, 0.1, 60.0)]
    epochs = [
        {"number": number, "epoch": epoch, "val_top1": 50.0, "used": used, "misled": misled, "guess_top1": guessed}
        for number in (0, 1)
        for epoch, used, misled, guessed in told
    ]
    epochs += [{"number": 2, "epoch": 1, "val_top1": 50.0}]
    found = section(make_report(write_study(tmp_path, "semi", rows, epochs=epochs)), "guesses")
    assert [figure.title for figure in found.figures][:3] == [
        "Validation accuracy",
        "Images used",
        "Accuracy of what is used",
    ]
    numbers = found.numbers[0].rows
    assert [(row["trial_id"], row["right"]) for row in numbers] == [("t00001", None), ("t00001", 80.0)]
    assert "fixmatch: t00001 (vanilla)" in found.about
