"""What a study was made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from automixsearch.report.parts import Column, Section, Table
from automixsearch.report.wording import text_of
from automixsearch.results.study import Study


def section(study: Study, rows: Sequence[Mapping[str, Any]]) -> Section:
    """Hashes of configs, code, data and splits, and when and where it ran."""

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
