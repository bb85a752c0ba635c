"""What evaluations say of the networks of each method beside their accuracy."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from automixsearch.analysis.estimate import Estimate
from automixsearch.report import charts
from automixsearch.report.parts import Column, Figure, Section, Table
from automixsearch.report.wording import file_name, listed
from automixsearch.results.evaluations import evaluations
from automixsearch.results.study import Study

SHORT = {"elastic_transform": "elastic", "jpeg_compression": "jpeg", "impulse_noise": "impulse noise"}
"""Names of corruptions that are too long for a panel."""
AT_ONCE = 3
"""Methods whose names stand beside each other under a panel of cells."""
HEADLINES = (
    ("ECE", "calibration", "ece", ""),
    ("ECE scaled", "calibration", "ece_scaled", ""),
    ("temperature", "calibration", "temperature", ""),
    ("corrupted %", "corruption", "mean_top1", "corruptions=15"),
    ("FGSM %", "attack", "fgsm_top1", ""),
    ("PGD %", "attack", "pgd_top1", ""),
    ("both of a CutMix %", "mixed", "top2", "method=cutmix lam=0.5"),
    ("MaxBoxAcc %", "localisation", "maxboxacc", "iou=0.5"),
)
"""Columns of the table: label, evaluation, score and setting; without a setting the last that there is."""

Scores = dict[tuple[str, str], dict[str, list[float]]]
"""By name and setting of a score, and by method: the values of its trials."""


def section(study: Study, rows: Sequence[Mapping[str, Any]]) -> Section | None:
    """Reliability, corruptions, attacks, occlusion and mixed images by method; None where nothing was asked."""
    method_of = {row["trial_id"]: row["method"] for row in rows if row["state"] == "complete"}
    found = [one for one in evaluations(study.store, method_of) if one.scores]
    if not found:
        return None
    asked = Counter((one.suite, _words(one.settings)) for one in found)
    usual = {suite: settings for (suite, settings), _ in reversed(asked.most_common())}
    by_suite: dict[str, Scores] = {}
    trials: dict[str, Counter[str]] = defaultdict(Counter)
    for one in found:
        if _words(one.settings) != usual[one.suite]:
            continue
        trials[one.suite][method_of[one.trial_id]] += 1
        scores = by_suite.setdefault(one.suite, {})
        for score in one.scores:
            if score.value is not None:
                values = scores.setdefault((score.name, score.setting), {})
                values.setdefault(method_of[one.trial_id], []).append(score.value)
    methods = charts.in_order({method for counts in trials.values() for method in counts})
    inks = charts.inks(methods)
    figures: list[Figure] = []
    for suite, draw in DRAWN.items():
        if suite in by_suite:
            figures += draw(by_suite[suite], methods, inks)
    counted: dict[str, list[str]] = {}
    for suite, counts in trials.items():
        number = listed(f"{counts[method]} of {method}" for method in methods if counts[method])
        counted.setdefault(number, []).append(suite)
    return Section(
        "evaluations",
        "Beside accuracy",
        _says(by_suite.get("calibration", {}), methods),
        "Means over the networks of each method, on test images; they choose nothing. Asked were "
        + "; ".join(f"{number} ({', '.join(suites)})" for number, suites in counted.items())
        + ". Of questions with several settings those that most were asked are shown; the CSV has all.",
        figures=figures,
        tables=[_table(by_suite, methods)],
        numbers=[Table("evaluations", "", [row for one in found for row in one.rows])],
        legend=charts.legend({method: inks[method] for method in methods}),
    )


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _says(calibration: Scores, methods: Sequence[str]) -> list[str]:
    """Whether temperature scaling changes which method is better calibrated."""
    means = [
        {method: fmean(calibration[name, ""][method]) for method in methods if method in calibration[name, ""]}
        for name in ("ece", "ece_scaled")
        if (name, "") in calibration
    ]
    if len(means) < 2 or len(means[0]) < 2:
        return []
    before, after = (sorted(mean, key=mean.__getitem__) for mean in means)
    orders = [", ".join(f"{method} {mean[method]:.3f}" for method in order) for order, mean in
              zip((before, after), means, strict=True)]  # fmt: skip
    kept = "keeps" if before == after else "changes"
    says = [
        f"Expected calibration error: {orders[0]}. Temperature scaling {kept} the order of these means: {orders[1]}."
    ]
    found = _against_vanilla(calibration, methods)
    if found:
        before, after = (sum(one.low > 0 or one.high < 0 for one in end.values()) for end in found)
        of = f"{len(found[0])} method{'s' * (len(found[0]) > 1)}"
        verb = "differs" if before == 1 else "differ"
        says.append(f"Of {of} {before} {verb} from vanilla in it (95 %), and {after} after scaling.")
    return says


def _against_vanilla(calibration: Scores, methods: Sequence[str]) -> list[dict[str, Estimate]]:
    """How much larger the calibration error of each method is than vanilla's, as it is and scaled; empty where there
    are not two networks of vanilla and of another."""
    import numpy as np

    from automixsearch.analysis.intervals import difference, t_interval

    found = []
    for name in ("ece", "ece_scaled"):
        values = {method: np.array(each) for method, each in calibration.get((name, ""), {}).items() if len(each) > 1}
        if "vanilla" not in values or len(values) < 2:
            return []
        means = {method: t_interval(values[method]) for method in methods if method in values}
        base = means.pop("vanilla")
        found.append({method: difference(mean, base) for method, mean in means.items()})
    return found


def _table(by_suite: Mapping[str, Scores], methods: Sequence[str]) -> Table:
    columns = [Column("method", lambda row: str(row["method"]))]
    content: list[dict[str, Any]] = [{"method": method} for method in methods]
    for label, suite, name, setting in HEADLINES:
        scores = by_suite.get(suite, {})
        settings = [setting] if setting else [one for known, one in scores if known == name]
        values = scores.get((name, settings[-1]), {}) if settings else {}
        if not values:
            continue
        for row in content:
            own = values.get(row["method"], [])
            row[label] = fmean(own) if own else None
            row[f"{label} sd"] = stdev(own) if len(own) > 1 else None
        columns.append(Column(label, _with_spread(label), True))
    note = "± standard deviation over networks. Scaled: by a temperature that was fitted on the validation split."
    return Table("evaluations-by-method", "By method", content, columns, note=note)


def _with_spread(label: str) -> Callable[[Mapping[str, Any]], str]:
    def text(row: Mapping[str, Any]) -> str:
        digits = 1 if label.endswith("%") else 3
        value, spread = row[label], row[f"{label} sd"]
        if value is None:
            return "-"
        return f"{value:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")

    return text


def _means(scores: Scores, name: str, methods: Iterable[str]) -> dict[str, dict[str, float]]:
    """The mean of a score by method and setting."""
    return {
        method: {
            setting: fmean(values[method])
            for (known, setting), values in scores.items()
            if known == name and method in values
        }
        for method in methods
    }


def _after(setting: str, key: str) -> str:
    """`0.3` of `method=cutmix lam=0.3` and `lam`; empty where it is not there."""
    return next((word.partition("=")[2] for word in setting.split() if word.startswith(f"{key}=")), "")


def _reliability(scores: Scores, methods: Sequence[str], inks: Mapping[str, charts.Ink]) -> Iterable[Figure]:
    """Accuracy over confidence, of the bins of all networks of a method together."""
    diagonal = charts.Line("as right as sure", [0, 1], [0, 1], ghost=True)
    for end, title in (("", "Reliability"), ("_scaled", "Reliability, scaled")):
        drawn = [diagonal]
        for method in methods:
            bins: dict[int, tuple[float, float]] = {}
            for (name, setting), values in scores.items():
                if name == f"bin_images{end}" and method in values:
                    images = values[method]
                    sure, right = (
                        sum(n * value for n, value in zip(images, scores[each, setting][method], strict=True))
                        for each in (f"bin_confidence{end}", f"bin_accuracy{end}")
                    )
                    bins[int(_after(setting, "bin").partition("/")[0])] = sure / sum(images), right / sum(images)
            points = [bins[place] for place in sorted(bins)]
            if points:
                drawn.append(charts.Line(method, [x for x, _ in points], [y for _, y in points], ink=inks[method]))
        if len(drawn) > 1:
            svg = charts.lines(title, charts.Axis("confidence"), charts.Axis("accuracy", low=0, high=1), drawn)
            caption = "Accuracy in each bin of confidence; faint: as often right as sure, and below it too sure."
            yield Figure(f"reliability{end.replace('_', '-')}", title, svg, caption)


def _calibration(scores: Scores, methods: Sequence[str], inks: Mapping[str, charts.Ink]) -> Iterable[Figure]:
    yield from _reliability(scores, methods, inks)
    bars = []
    for pair in zip(*(each.items() for each in _against_vanilla(scores, methods)), strict=True):
        for end, (method, one) in zip(("", ", scaled"), pair, strict=True):
            tip, name = f"{method}{end}: {one}", method + end
            bars.append(charts.Bar(name, one.value, one.low, one.high, ink=inks[method], faint=bool(end), tip=tip))
    if bars:
        svg = charts.intervals("Calibration error against vanilla", charts.Axis("difference of ECE"), bars)
        caption = "Differences of means with 95 % intervals, as they are and (hollow) after temperature scaling."
        yield Figure("calibration-vanilla", "Against vanilla", svg, caption)


def _corruptions(scores: Scores, methods: Sequence[str], inks: Mapping[str, charts.Ink]) -> Iterable[Figure]:
    """Accuracy by corruption and method, over the severities that were asked."""
    means = _means(scores, "top1", methods)
    names = list(dict.fromkeys(_after(setting, "corruption") for values in means.values() for setting in values))
    cells = {
        method: [
            fmean(own) if (own := [v for s, v in values.items() if _after(s, "corruption") == name]) else math.nan
            for name in names
        ]
        for method, values in means.items()
        if values
    }
    known = charts.finite(value for column in cells.values() for value in column)
    labels = tuple(SHORT.get(name, name).replace("_", " ") for name in reversed(names))
    panels = -(-len(cells) // AT_ONCE)
    for panel in range(panels):
        shown = list(cells)[panel * len(cells) // panels : (panel + 1) * len(cells) // panels]
        svg = charts.heat(
            "Accuracy under corruptions",
            charts.Axis("", names=tuple(shown)),
            charts.Axis("corruption", names=labels),
            [[cells[method][place] for method in shown] for place in reversed(range(len(names)))],
            "accuracy %",
            span=(min(known), max(known)),
        )
        caption = "Mean over the severities that were asked, in percent; one scale for all methods."
        yield Figure(f"corruption-{panel + 1}", "Corruptions", svg, caption)


def _attacks(scores: Scores, methods: Sequence[str], inks: Mapping[str, charts.Ink]) -> Iterable[Figure]:
    """Accuracy as images are, and after each attack."""
    kinds = [key for key in scores if key[0] in ("clean_top1", "fgsm_top1", "pgd_top1")]
    words = [
        {"clean_top1": "clean", "pgd_top1": "PGD"}.get(name, f"FGSM {_after(setting, 'epsilon').partition('/')[0]}")
        for name, setting in kinds
    ]
    drawn = [
        charts.Line(
            method,
            list(range(len(kinds))),
            [fmean(scores[kind][method]) if method in scores[kind] else math.nan for kind in kinds],
            ink=inks[method],
        )
        for method in methods
    ]
    axis = charts.Axis("accuracy %", low=0)
    svg = charts.lines("Accuracy under attack", charts.Axis("", names=tuple(words)), axis, drawn)
    yield Figure("attack", "Attacks", svg, "Images changed against the network; FGSM by so many 255ths of the range.")


def _curve(
    scores: Scores,
    methods: Iterable[str],
    inks: Mapping[str, charts.Ink],
    name: str,
    key: str,
    only: str = "",
) -> list[charts.Line]:
    """A score over a number in its setting, a line for each method."""
    drawn = []
    for method, values in _means(scores, name, methods).items():
        points = sorted((float(_after(s, key)), v) for s, v in values.items() if only in s.split() or not only)
        if points:
            drawn.append(charts.Line(method, [x for x, _ in points], [y for _, y in points], ink=inks[method]))
    return drawn


def _occlusion(scores: Scores, methods: Sequence[str], inks: Mapping[str, charts.Ink]) -> Iterable[Figure]:
    drawn = _curve(scores, methods, inks, "top1", "ratio")
    axes = charts.Axis("share of patches that is missing"), charts.Axis("accuracy %", low=0)
    yield Figure("occlusion", "Occlusion", charts.lines("Occlusion", *axes, drawn), "Accuracy with patches missing.")


def _mixed(scores: Scores, methods: Sequence[str], inks: Mapping[str, charts.Ink]) -> Iterable[Figure]:
    """How sure of the own class each network is, over its share, by the method that mixes the images."""
    ways = dict.fromkeys(_after(setting, "method") for _, setting in scores if _after(setting, "lam"))
    for way in ways:
        drawn = _curve(scores, methods, inks, "own_confidence", "lam", f"method={way}")
        title = f"Images mixed by {way}"
        axes = charts.Axis("share of the own image"), charts.Axis("confidence in its class", low=0, high=1)
        caption = "Mean probability of the own class in images mixed of two; trained by the methods in colour."
        yield Figure(f"mixed-{file_name(way)}", title, charts.lines(title, *axes, drawn), caption)


DRAWN: dict[str, Callable[..., Iterable[Figure]]] = {
    "calibration": _calibration,
    "corruption": _corruptions,
    "attack": _attacks,
    "occlusion": _occlusion,
    "mixed": _mixed,
}
