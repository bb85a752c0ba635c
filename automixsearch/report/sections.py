"""What a study has to say, section by section: the ledger's own rows here, what follows from them in `answers`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from automixsearch.errors import StudyError
from automixsearch.report import charts
from automixsearch.report.parts import Column, Figure, Report, Section, Table, Verdict
from automixsearch.results.schema import EPOCH_SCORES, metric_directions
from automixsearch.results.study import Study
from automixsearch.show import brief, duration, error_of, policy_of, score, unresolved, varied, with_error

if TYPE_CHECKING:
    from pandas import DataFrame

CURVE_POINTS = 16
"""Epochs of a trial's small curve in the table of trials."""
MOST_CURVES = 20_000
"""Trials whose curves still fit into the page."""
GHOSTS = 24
"""Other trials of a method that stand faintly behind its best one."""
MOST_KNOBS = 8
"""Columns of knobs in the table of trials."""


class Snapshot(Study):
    """A study whose trials are read once: every answer of a report is about the same rows, also while it runs."""

    @cached_property
    def _frame(self) -> DataFrame:
        return super().trials()

    def trials(self) -> DataFrame:
        """Every ended trial, as of the first call."""
        return self._frame.copy()


def make_report(study: Study) -> Report:
    """Everything that can be said of a study, in the order in which it is read.

    Raises:
        StudyError: the study has no trials.
    """
    from automixsearch.report.answers import answers

    study = Snapshot(study.store)
    rows = study.store.trial_rows()
    if not rows:
        raise StudyError(f"study {study.name} has no ended trial yet; run it, then report it")
    design = study.info.get("design") or {}
    space = study.info.get("space") or {}
    verdicts, answered = answers(study, rows)
    sections = [
        *answered,
        learning(study, rows),
        trials(study, rows),
        cost(rows),
        provenance(study, rows),
    ]
    question = design.get("question") or space.get("about") or f"Which policy is best by {study.objective[0]}?"
    return Report(
        study=study.name,
        question=str(question),
        about=str(design.get("about") or (space.get("about") if design.get("question") else "") or ""),
        verdicts=verdicts or [Verdict("note", "No complete trial yet: nothing can be said.")],
        facts=facts(study, rows),
        sections=sections,
        trials=payload(study, rows),
    )


def facts(study: Study, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What was run, in a few numbers."""
    states = [row["state"] for row in rows]
    data = _configs(rows)
    images = sorted({row["val_images"] for row in rows if row.get("val_images")})
    epochs = sorted({row["epochs_total"] for row in rows if row.get("epochs_total")})
    seconds = sum(row["device_s"] or 0.0 for row in rows)
    total = study.info.get("total_trials")
    parts = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed") if state in states)
    found = [
        ("Trials", f"{len(rows)}" + (f" of {total}" if total and total != len(rows) else "")),
        ("Ended", parts),
        ("Methods", str(len({row["method"] for row in rows}))),
        ("Metric", ", ".join(study.objective)),
        ("Epochs", ", ".join(map(str, epochs)) or "-"),
        ("Data", ", ".join(sorted({_data_name(config["data"]) for config in data})) or "-"),
        ("Validation images", ", ".join(f"{n:,}" for n in images) or "-"),
        ("Splits", str(len({row["split_id"] or row["split_seed"] for row in rows}))),
        ("Seeds", str(len({row["seed"] for row in rows}))),
        ("Device time", duration(seconds)),
    ]
    return [fact for fact in found if fact[1]]


def _data_name(data: Mapping[str, Any]) -> str:
    """`cifar10`, or of folders and files the name of the place: `folder birds`."""
    own = data["source"] in ("folder", "parquet") and data.get("path")
    return f"{data['source']} {str(data['path']).rstrip('/').rpartition('/')[2]}" if own else str(data["source"])


def _configs(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The configs of the rows, one for each data set."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        if row.get("config") and row.get("data_fingerprint") not in found:
            found[row["data_fingerprint"]] = json.loads(row["config"])
    return list(found.values())


def text_of(name: str) -> Any:
    """A getter of a column's value, in words."""
    return lambda row: brief(row.get(name)) if isinstance(row.get(name), float) else str(row.get(name, ""))


# The best ----------------------------------------------------------------------------------------------------


def best(study: Study) -> Section:
    """The best trial of each method by the first objective, and which of them cannot be told apart."""
    metric = study.objective[0]
    rows = study.best_rows(1, per="method")
    if not rows:
        return Section("best", "Best trials", missing=["No trial is complete yet: the best are listed once one is."])
    close = unresolved(rows, metric)
    says = [
        f"Best by {metric}: {rows[0]['trial_id']}, {policy_of(rows[0])}, with {with_error(rows[0], metric)}"
        f"{' %' if metric.endswith(('top1', 'top5')) else ''}."
    ]
    if close:
        says.append(
            f"Unresolved: {', '.join(close)} cannot be told from it: ± is the 95 % error of the number of validation "
            "images alone, and each trial is one seed."
        )
    names = list(dict.fromkeys([*study.objective, "val_top1", "test_top1"]))
    columns = [
        Column("method", lambda row: str(row["method"])),
        Column("trial", lambda row: row["trial_id"]),
        Column("policy", policy_of),
        *(Column(_short(name), _getter(name), True) for name in varied(rows)[:4]),
        *(Column(_unit(name), _scored(name), True) for name in names),
        Column("device time", lambda row: "-" if row["device_s"] is None else duration(row["device_s"]), True),
    ]
    kept = ("trial_id", "number", "method", "config_id", "seed", *names, "val_images", "device_s")
    csv_rows = [{name: row[name] for name in kept} | {"policy": policy_of(row)} for row in rows]
    shown = {row["trial_id"]: row for row in rows}
    table = Table(
        "best",
        "The best trial of each method",
        csv_rows,
        [Column(c.label, _full(c.text, shown), c.numeric) for c in columns],
        note="A best of many trials is an optimistic figure: its score chose it. Test scores are read once, after the "
        "last epoch, and choose nothing.",
    )
    return Section("best", "Best trials", says, tables=[table])


def _full(text: Any, shown: Mapping[str, Any]) -> Any:
    return lambda row: text(shown[row["trial_id"]])


def _getter(name: str) -> Any:
    return lambda row: brief(row.get(name))


def _scored(name: str) -> Any:
    return lambda row: with_error(row, name)


def _short(name: str) -> str:
    return name.removeprefix("knob.")


def _unit(name: str) -> str:
    return f"{name} %" if name.endswith(("top1", "top5")) else name


def pareto(study: Study, rows: Sequence[Mapping[str, Any]]) -> Section | None:
    """The trials that no other beats in every objective; None where there is one objective."""
    if len(study.objective) < 2:
        return None
    first, second = study.objective[:2]
    front = study.pareto_rows()
    names = study.objective
    complete = [row for row in rows if row["state"] == "complete" and all(row.get(name) is not None for name in names)]
    inks = charts.inks(row["method"] for row in complete)
    on_front = {row["trial_id"] for row in front}
    clouds = [
        charts.Line(
            method,
            [row[second] for row in own],
            [row[first] for row in own],
            ink=ink if member else charts.Ink("var(--faint)"),
            joined=False,
            tips=[f"{row['trial_id']} {policy_of(row)}: {_values(row, names)}" for row in own],
        )
        for member in (False, True)
        for method, ink in inks.items()
        if (own := [r for r in complete if r["method"] == method and (r["trial_id"] in on_front) == member])
    ]
    steps = sorted((row[second], row[first]) for row in front)
    line = charts.Line(
        "front", [x for x, _ in steps], [y for _, y in steps], points=False, ink=charts.Ink("var(--base)")
    )
    svg = charts.lines("Pareto front", charts.Axis(_unit(second)), charts.Axis(_unit(first)), [line, *clouds])
    table = Table(
        "pareto",
        "On the front",
        [
            {"trial_id": row["trial_id"], "policy": policy_of(row)} | {name: row[name] for name in names}
            for row in front
        ],
        [
            Column("trial", lambda row: row["trial_id"]),
            Column("policy", lambda row: row["policy"]),
            *(Column(_unit(name), _score_of(name), True) for name in names),
        ],
    )
    used = {method: ink for method, ink in inks.items() if any(row["method"] == method for row in front)}
    figure = Figure("pareto", "Pareto front", svg, f"{_unit(first)} against {_unit(second)}; coloured: on the front.")
    return Section(
        "pareto",
        "Pareto front",
        [f"{len(front)} of {len(complete)} complete trials are beaten by no other in all of {', '.join(names)}."],
        figures=[figure],
        tables=[table],
        legend=charts.legend(used),
    )


def _values(row: Mapping[str, Any], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {score(name, row[name])}" for name in names)


def _score_of(name: str) -> Any:
    return lambda row: score(name, row[name])


# Learning curves ---------------------------------------------------------------------------------------------


def learning(study: Study, rows: Sequence[Mapping[str, Any]]) -> Section:
    """How the best trial of each method learned, and faintly how others of it did."""
    metric = study.objective[0] if study.objective[0] in EPOCH_SCORES else EPOCH_SCORES[0]
    epochs = study.store.read("epochs", ["trial_id", "epoch", metric])
    curves: dict[str, list[tuple[int, float]]] = {}
    for trial_id, epoch, value in zip(
        *(epochs[name].to_pylist() for name in ("trial_id", "epoch", metric)), strict=True
    ):
        if value is not None:
            curves.setdefault(trial_id, []).append((epoch, value))
    title = "Learning curves"
    if not curves:
        return Section(
            "learning",
            title,
            missing=["No epochs: the ledger of this study holds none; a search or a study writes one row for each."],
        )
    sign = 1 if metric_directions()[metric] == "max" else -1
    inks = charts.inks(row["method"] for row in rows)
    chosen: dict[str, tuple[Mapping[str, Any], list[Mapping[str, Any]]]] = {}
    for method in charts.in_order(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method and row["trial_id"] in curves]
        done = [row for row in own if row["state"] == "complete" and row.get(metric) is not None]
        if not done:
            continue
        done.sort(key=lambda row: -sign * row[metric])
        others = [row for row in own if row is not done[0]]
        others = others[:: max(1, math.ceil(len(others) / GHOSTS))]
        chosen[method] = (done[0], others)
    figures, numbers = [], []
    shown = [row["trial_id"] for first, others in chosen.values() for row in (first, *others)]
    reach = charts.limits(value for trial_id in shown for _, value in curves[trial_id])
    for method, (first, others) in chosen.items():
        drawn = [
            charts.Line(
                row["trial_id"],
                *_xy(curves[row["trial_id"]]),
                points=row is first,
                ghost=row is not first,
                ink=inks[method],
            )
            for row in (*others, first)
        ]
        longest = max(len(line.x) for line in drawn)
        drawn = [
            charts.Line(line.name, line.x, line.y, ink=line.ink, ghost=line.ghost, points=longest <= 30 and line.points)
            for line in drawn
        ]
        axis = charts.Axis(_unit(metric), low=reach[0], high=reach[1])
        svg = charts.lines(f"Learning curves of {method}", charts.Axis("epoch", whole=True), axis, drawn)
        faint = f"; faint: {len(others)} others" if others else ""
        figures.append(
            Figure(f"learning-{file_name(method)}", method, svg, f"{first['trial_id']}: {policy_of(first)}{faint}")
        )
        numbers += [
            {"method": method, "trial_id": line.name, "epoch": x, metric: y}
            for line in drawn
            for x, y in zip(line.x, line.y, strict=True)
        ]
    missing = [] if figures else ["No trial with epochs is complete yet: curves are drawn once one is."]
    return Section(
        "learning",
        title,
        about=f"{_unit(metric)} after every epoch: in colour the best complete trial of each method, faintly others of "
        "the same method; all axes alike.",
        figures=figures,
        numbers=[Table("learning-curves", "", numbers)] if numbers else [],
        missing=missing,
    )


def _xy(points: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    points = sorted(points)
    return [float(x) for x, _ in points], [y for _, y in points]


def file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in str(name))[:60]


# The table of trials -----------------------------------------------------------------------------------------


def trials(study: Study, rows: Sequence[Mapping[str, Any]]) -> Section:
    """Every ended trial; the page fills in the table from `payload`."""
    about = "Every ended trial. Click a head to sort; the filters act together; the CSV holds what they leave."
    failed: dict[str, int] = {}
    for row in rows:
        if row["state"] == "failed":
            failed[row["error_class"] or "unknown"] = failed.get(row["error_class"] or "unknown", 0) + 1
    says = [
        f"{sum(failed.values())} trials failed: " + ", ".join(f"{n} with {name}" for name, n in failed.items()) + "."
    ]
    return Section("trials", "Trials", says if failed else [], about)


def payload(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The trials as columns, for the page: words as codes, numbers rounded to what is read, a short curve of each."""
    metrics = list(dict.fromkeys([*study.objective, "val_top1", "test_top1"]))
    runs = {run["number"]: run for run in (study.info.get("design") or {}).get("runs", ())}
    columns: list[dict[str, Any]] = []

    def add(name: str, label: str, values: list[Any], kind: str = "text", **more: Any) -> None:
        if name in ("trial_id", *metrics[:1]) or any(value is not None for value in values):
            columns.append({"name": name, "label": label, "kind": kind, "values": values} | more)

    def words(name: str, label: str, values: list[Any], **more: Any) -> None:
        listed = sorted({str(value) for value in values if value is not None})
        codes = {word: code for code, word in enumerate(listed)}
        coded = [-1 if value is None else codes[str(value)] for value in values]
        if listed:
            add(name, label, coded, words=listed, **more)

    def numbers(name: str, label: str, values: list[Any], digits: int, **more: Any) -> None:
        add(
            name,
            label,
            [None if v is None else round(float(v), digits + 2) for v in values],
            "number",
            digits=digits,
            **more,
        )

    def of(name: str) -> list[Any]:
        return [row.get(name) for row in rows]

    add("trial_id", "trial", of("trial_id"))
    directions = metric_directions()
    for name in metrics:
        way = {"sorted": "down" if directions[name] == "max" else "up"} if name == metrics[0] else {}
        numbers(name, _unit(name), of(name), 2 if name.endswith(("top1", "top5")) else 4, **way)
        if name == metrics[0]:
            note = "95 % error of the number of validation images alone"
            numbers("error", "±", [error_of(row, name) for row in rows], 1, note=note)
    words("policy", "policy", [policy_of(row) for row in rows])
    for name in ("method", "state", "purpose"):
        words(name, name, of(name), filter=True, hidden=name == "method" or len(set(of(name))) == 1)
    if runs:
        words("arm", "arm", [runs.get(row["number"], {}).get("arm") for row in rows], filter=len(runs) < 2000)
        add("replicate", "replicate", [runs.get(row["number"], {}).get("replicate") for row in rows], "number")
    for name in varied(rows)[:MOST_KNOBS]:
        if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in of(name)):
            add(name, _short(name), [None if v is None else float(f"{v:.4g}") for v in of(name)], "number")
        else:
            words(name, _short(name), [None if value is None else brief(value) for value in of(name)])
    add("epochs_run", "epochs", of("epochs_run"), "number")
    numbers("device_s", "device s", of("device_s"), 1)
    if len(set(of("split_seed"))) > 1:
        add("split_seed", "split", [None if seed is None else str(seed) for seed in of("split_seed")])
    # Nineteen digits that nobody reads take the room of three columns; trials.csv has them.
    add("seed", "seed", [None if seed is None else str(seed) for seed in of("seed")], hidden=True)
    words("why", "why it ended", [_why(row) for row in rows], long=True)
    return {"count": len(rows), "columns": columns} | _curves(study, rows)


def _why(row: Mapping[str, Any]) -> str | None:
    if row["state"] == "failed":
        return f"{row['error_class'] or 'unknown'}: {(row['error_message'] or '').strip().partition(chr(10))[0][:300]}"
    return row["stop_reason"]


def _curves(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The course of each trial in a few points; nothing where there are no epochs, or too many trials for a page."""
    metric = study.objective[0] if study.objective[0] in EPOCH_SCORES else EPOCH_SCORES[0]
    epochs = study.store.read("epochs", ["trial_id", "epoch", metric]).sort_by("epoch")
    if not epochs.num_rows or len(rows) > MOST_CURVES:
        return {}
    found: dict[str, list[float]] = {}
    for trial_id, value in zip(epochs["trial_id"].to_pylist(), epochs[metric].to_pylist(), strict=True):
        if value is not None:
            found.setdefault(trial_id, []).append(value)
    longest = max(map(len, found.values()), default=1)
    step = max(1, math.ceil(longest / CURVE_POINTS))
    digits = 1 if metric.endswith(("top1", "top5")) else 3
    curves = [[round(value, digits) for value in found.get(row["trial_id"], [])[::step]] for row in rows]
    values = [value for curve in curves for value in curve]
    if not values:
        return {}
    return {
        "curves": curves,
        "curve_label": metric,
        "curve_range": [min(values), max(values)],
        "curve_points": max(2, max(map(len, curves))),
    }


# Cost and provenance -----------------------------------------------------------------------------------------


def cost(rows: Sequence[Mapping[str, Any]]) -> Section:
    """Device time by method: sums of the ledger's rows, complete and pruned and failed alike."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        own = found.setdefault(
            row["method"],
            {
                "method": row["method"],
                "trials": 0,
                "complete": 0,
                "pruned": 0,
                "failed": 0,
                "epochs": 0,
                "device_s": 0.0,
                "wall_s": 0.0,
                "energy_j": 0.0,
                "untold": 0,
            },
        )
        own["trials"] += 1
        own[row["state"]] += 1
        own["epochs"] += row["epochs_run"] or 0
        own["device_s"] += row["device_s"] or 0.0
        own["wall_s"] += row["wall_s"] or 0.0
        own["energy_j"] += row.get("energy_j") or 0.0
        own["untold"] += row.get("energy_j") is None
    methods = sorted(found.values(), key=lambda own: -own["device_s"])
    silent = 0
    for own in methods:
        own["device_h"] = own["device_s"] / 3600
        untold = own.pop("untold")
        own["energy_kwh"] = None if untold == own["trials"] else own["energy_j"] / 3.6e6
        silent += untold
        own["device_s_per_epoch"] = own["device_s"] / own["epochs"] if own["epochs"] else None
    total = sum(own["device_s"] for own in methods)
    told = silent < len(rows)
    devices = sorted({f"{row['device']}" for row in rows if row["device"]})
    inks = charts.inks(found)
    drawn = [
        charts.Bar(
            own["method"], own["device_h"], ink=inks[own["method"]], tip=f"{own['method']}: {duration(own['device_s'])}"
        )
        for own in methods
    ]
    columns = [
        Column("method", lambda row: str(row["method"])),
        *(Column(name, _whole(name), True) for name in ("trials", "complete", "pruned", "failed", "epochs")),
        Column("device-hours", lambda row: f"{row['device_h']:.4g}", True),
        Column("share", lambda row: f"{100 * row['device_s'] / total:.1f} %" if total else "-", True),
        Column("device-s per epoch", lambda row: brief(row["device_s_per_epoch"]), True),
        *([Column("energy, kWh", lambda row: brief(row["energy_kwh"]), True)] if told else []),
    ]
    says = [
        f"{duration(total)} of device time ({total / 3600:.3g} device-hours) on "
        f"{', '.join(devices) or 'unnamed devices'}: training and validation; the start of processes is left out."
    ]
    missing = []
    if told:
        says.append(f"Energy of the devices in that time: {sum(own['energy_j'] for own in methods) / 3.6e6:.3g} kWh.")
    if silent:
        which = "" if silent == len(rows) else f" in {silent} of {len(rows)} trials"
        missing.append(
            f"Energy: the devices did not tell{which} (NVIDIA's do, and Intel's where /sys/class/powercap may be read)."
        )
    return Section(
        "cost",
        "Cost",
        says,
        figures=[
            Figure(
                "cost",
                "Device-hours by method",
                charts.bars("Device-hours by method", charts.Axis("device-hours"), drawn),
            )
        ],
        tables=[Table("cost", "", methods, columns)],
        missing=missing,
    )


def _whole(name: str) -> Any:
    return lambda row: f"{row[name]:,}"


def provenance(study: Study, rows: Sequence[Mapping[str, Any]]) -> Section:
    """What it was made with: hashes of configs, code, data, splits, and when and where it ran."""

    def all_of(name: str) -> str:
        values = sorted({str(row[name]) for row in rows if row.get(name) is not None})
        more = f" and {len(values) - 6} more" if len(values) > 6 else ""
        return ", ".join(values[:6]) + more or "-"

    def images(name: str) -> str:
        return ", ".join(f"{n:,}" for n in sorted({row[name] for row in rows if row.get(name)})) or "-"

    moments = sorted(row[name] for row in rows for name in ("started_at", "ended_at") if row.get(name) is not None)
    content = [
        ("Study", study.name, "name"),
        ("Space", str(study.info.get("space_id") or all_of("space_id")), "hash of the search space or the study file"),
        (
            "Configs",
            f"{len({row['config_id'] for row in rows})} different",
            "config_id of each trial: hash of knobs, seeds, data",
        ),
        ("Code", f"AutoMixSearch {all_of('code_version')}", "version that trained"),
        ("Data", all_of("data_fingerprint"), "hash of the decoded images and labels"),
        ("Splits", all_of("split_id"), "hash of the indices of the validation split"),
        ("Split seeds", all_of("split_seed"), "seed of the validation split"),
        ("Study seed", all_of("study_seed"), "from which sampling follows"),
        (
            "Images",
            f"{images('val_images')} validation, {images('test_images')} test",
            "of which selection sees the first only",
        ),
        ("Left-out images", all_of("skipped_images"), "that could not be decoded"),
        ("Parameters", images("parameters"), "trainable scalars of the network"),
        ("Devices", all_of("device"), "on which was trained"),
        ("Workers", f"{all_of('workers')} of {all_of('threads')} CPU threads", "of each trial"),
        ("Machines", all_of("host"), "first worker of each trial"),
        ("From", f"{moments[0]:%Y-%m-%d %H:%M} UTC" if moments else "-", "the first trial was proposed"),
        ("To", f"{moments[-1]:%Y-%m-%d %H:%M} UTC" if moments else "-", "the last trial ended"),
    ]
    missing = []
    environments = study.info.get("environments") or []
    for environment in environments:
        packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
        content.append(("Environment", environment["hash"], f"hash of: Python {environment['python']}, {packages}"))
    if not environments:
        missing.append("Environment: this study was run before the packages' versions were written down.")
    table = Table(
        "provenance",
        "",
        [{"what": what, "value": value, "meaning": meaning} for what, value, meaning in content],
        [Column("what", text_of("what")), Column("value", text_of("value")), Column("meaning", text_of("meaning"))],
    )
    about = "Any row of the ledger holds its whole config: automixsearch best --export, show and train run one again."
    return Section("provenance", "Provenance", about=about, tables=[table], missing=missing)
