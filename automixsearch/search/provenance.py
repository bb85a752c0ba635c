"""What a study knows of its data: that later runs of it train and validate on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automixsearch.data.base import ImageSet, Split
    from automixsearch.results.store import Store

ENTRY = "data"
"""Where it stands in `study.json`."""
COUNTS = {"train": "training images", "test": "test images", "classes": "classes", "val": "validation images"}


def described(images: ImageSet, splits: Mapping[int, Split], path: str | None) -> dict[str, Any]:
    """The data of a study, as `study.json` holds them; splits: by seed."""
    return {
        "fingerprint": images.fingerprint,
        "path": path,
        "train": len(images.train),
        "test": len(images.test),
        "classes": len(images.classes),
        "val": len(next(iter(splits.values())).val),
        "splits": {str(seed): split.split_id for seed, split in splits.items()},
    }


def other_data(store: Store, here: Mapping[str, Any]) -> str:
    """Why a study cannot go on with the data that are `described` here, where it was begun, or has rows, on others;
    else nothing."""
    there = store.info().get(ENTRY)
    for old in [there] if there else _of_rows(store):  # earlier versions did not write it down
        study = f"study {store.study!r} in {store.uri}"
        if old["fingerprint"] != here["fingerprint"]:
            return (
                f"{study} was begun on data with fingerprint {old['fingerprint']}, and now they have "
                f"{here['fingerprint']}: {_difference(old, here)}; restore the data, or give this one a name of "
                "its own with --name"
            )
        for seed in sorted(old["splits"].keys() & here["splits"].keys()):
            if old["splits"][seed] != here["splits"][seed]:
                return (
                    f"{study} was validated on split {old['splits'][seed]}, and seed {seed} of the same data gives "
                    f"{here['splits'][seed]} now; go on with the version that began it (study.json, environments), or "
                    "give this one a name of its own with --name"
                )
    return ""


def _of_rows(store: Store) -> Sequence[dict[str, Any]]:
    """What the rows of a study tell of its data, one entry for each data set and seed of a split."""
    columns = ["data_fingerprint", "split_seed", "split_id", "val_images", "test_images"]
    found = {
        (row["data_fingerprint"], row["split_seed"]): row
        for row in store.trial_rows(columns)
        if row["data_fingerprint"] and row["split_id"]
    }
    return [
        {
            "fingerprint": data,
            "splits": {str(seed): row["split_id"]},
            "val": row["val_images"],
            "test": row["test_images"],
        }
        for (data, seed), row in found.items()
    ]


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In what two data sets differ, as far as both tell."""
    parts = [f"{old[name]:,} {word} then and {new[name]:,} now"
             for name, word in COUNTS.items() if old.get(name) is not None and old[name] != new[name]]  # fmt: skip
    parts = parts or ["as many images and classes, but other pixels, labels or another order"]
    if old.get("path") != new["path"] and "path" in old:
        parts.append(f"path {old['path']} then and {new['path']} now")
    return ", ".join(parts)
