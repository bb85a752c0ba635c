"""Images in Parquet files, as Hugging Face stores them.

A directory, searched recursively, whose files say in their names which split they hold (`train-00000-of-2`,
`test`, `validation-...`) or lie in a folder that says it (`train/0.parquet`); or one file. Without a test
split, the validation split is the test part; if there are both, validation is left out, since validation
images are taken from the training part. One file by itself gets a fixed stratified 20 % as test part
(`base.hold_out`).

Images are encoded files in a column struct<bytes, path> or binary. Labels are integers (with class names in
the schema's `huggingface` metadata, or named by their number) or strings (classes in sorted order).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from automixsearch.data.base import HELD_OUT, ImageSet, Part, cut, hold_out
from automixsearch.data.build import once_or_streamed
from automixsearch.data.decode import Decoder
from automixsearch.data.files import Left, find, opened_file, walk
from automixsearch.data.labels import kept
from automixsearch.data.rows import place_of, told
from automixsearch.data.sink import Sink
from automixsearch.errors import DataError, unknown
from automixsearch.visible import visible

if TYPE_CHECKING:
    from automixsearch.config.data import Data

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
"""Which split a word in the name of a file or folder stands for."""

LABELS = ("label", "fine_label", "labels")
"""Names that make a column the label column, the first one first."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The files of both parts, in order; without test files a share of the training files is held out."""

    train: Sequence[Path]
    test: Sequence[Path]
    notes: tuple[str, ...]

    @property
    def files(self) -> list[Path]:
        """Every file that is read."""
        return [*self.train, *self.test]


def listed(data: Data) -> Chosen:
    """The files of both parts, through links; hidden ones and folders (such as .cache) are left out.

    Raises:
        DataError: splits are not clear, or a shard is missing.
    """
    root = find(data.path)
    if not root.is_dir():
        return Chosen([root], [], (HELD_OUT, *_lonely(root)))
    left = Left()
    found = []
    for path in map(Path, walk(root, left)):
        if path.suffix.lower() == ".parquet":
            found.append(path)
        else:
            left.add(path.suffix.lower() or "without suffix", path)
    train, test, notes = _parts(root, sorted(found))
    return Chosen(train, test, (*notes, *left.notes))


def load(data: Data, listing: Chosen, sink: Sink) -> ImageSet:
    """Decode the images, row group by row group, into one array; or stream them, for which the group of each is read.

    Raises:
        DataError: columns are not clear, a file is damaged, a label is out of range, an image bad.
    """
    root = find(data.path)
    train, test = listing.train, listing.test
    shards = [_open(path, data) for path in (*train, *test)]
    classes, labels = _labels(shards)
    name = root.stem if root.is_file() else root.name
    n = sum(shard.file.metadata.num_rows for shard in shards[: len(train)])
    parts = (np.arange(n), np.arange(n, len(labels))) if test else hold_out(labels, classes, str(root))
    chosen = parts[0][kept(labels[parts[0]], classes, data, name)]
    order = np.concatenate([chosen, parts[1]])

    def once() -> ImageSet:
        rows = np.zeros(len(labels), bool)
        rows[order] = True
        decoder, start = Decoder(len(order), data, sink), 0
        for shard in shards:
            stop = start + shard.file.metadata.num_rows
            _decode(shard, decoder, rows[start:stop])
            start = stop
        asked = np.flatnonzero(rows)
        images, rows = decoder.result(), asked[~decoder.bad]
        held = np.isin(rows, parts[1])
        if test:
            made = cut(images, labels[rows], len(rows) - int(held.sum()))
        else:
            made = (Part(images[~held], labels[rows[~held]]), Part(images[held], labels[rows[held]]))
        notes = decoder.notes + decoder.doubled(np.isin(asked, parts[1]), lambda i: told(places()[asked[i]]))
        return ImageSet(name, *made, classes, notes, decoder.skipped)

    @cache
    def places() -> list[str]:
        return [place for shard in shards for place in _places(shard)]

    def ordered() -> list[str]:
        return [places()[row] for row in order]

    return once_or_streamed(once, ordered, labels[order], len(chosen), data, (name, classes), sink)


# Splits -----------------------------------------------------------------------------------------------------


def _parts(root: Path, found: Sequence[Path]) -> tuple[list[Path], list[Path], tuple[str, ...]]:
    """The training files, the test files and what was decided."""
    splits: dict[str, list[Path]] = {}
    for path in found:
        splits.setdefault(_split_of(path.relative_to(root)), []).append(path)
    held = "test" if "test" in splits else "validation"
    if "train" not in splits or held not in splits:
        names = ", ".join(str(path.relative_to(root)) for path in found[:5]) + (", ..." if found[5:] else "")
        raise DataError(
            f"{root}: needs files of a split train and of a split test (or validation), by file or "
            f"folder name such as train-0.parquet; found {names or 'no Parquet file'}; rename them, or give one "
            "file as data.path to hold out a fixed 20 % of it for testing"
        )
    for name in ("train", held):
        folders = sorted({str(path.parent) for path in splits[name]})
        if len(folders) > 1:
            raise DataError(
                f"{root}: files of split {name} lie in several folders, which may be different data sets "
                f"({', '.join(folders)}); give one of them as data.path, or put the files together"
            )
        _check_whole(root, name, splits[name])
    notes = [] if held == "test" else ["test part: the validation split"]
    read = {*splits["train"], *splits[held]}
    left = [str(path.relative_to(root)) for path in found if path not in read]
    notes += [f"not read: {', '.join(left)}"] if left else []
    return splits["train"], splits[held], tuple(notes)


_SHARD = re.compile(r"(\d+)-of-(\d+)")


def _check_whole(root: Path, split: str, files: Sequence[Path]) -> None:
    """Refuse files that are not, by their names, all shards of one set.

    Raises:
        DataError: several sets, such as `test` and `test-hard`; or a shard is missing.
    """
    kinds: dict[str, Path] = {}
    totals: dict[int, dict[int, Path]] = {}
    for path in files:
        if _split_of(Path(path.name)):  # the file's own name says the split: what else it says tells sets apart
            words = re.split(r"[^a-z0-9]+", path.stem.lower())
            kinds.setdefault(" ".join(word for word in words if word.isalpha() and len(word) > 1), path)
        if shard := _SHARD.search(path.stem):
            totals.setdefault(int(shard[2]), {})[int(shard[1])] = path
    if len(kinds) > 1:
        names = ", ".join(visible(path.name) for path in kinds.values())
        raise DataError(
            f"{root}: files of split {split} have several names, which may be different data sets ({names}); move away "
            f"what does not belong, or name them alike, e.g. {split}-0.parquet and {split}-1.parquet, to read all"
        )
    if len(totals) > 1:
        names = ", ".join(visible(next(iter(shards.values())).name) for shards in totals.values())
        raise DataError(f"{root}: files of split {split} are of several exports ({names}); keep those of one")
    for total, shards in totals.items():
        first = 0 if 0 in shards or total not in shards else 1
        missing = [number for number in range(first, first + total) if number not in shards]
        if missing:
            raise DataError(
                f"{root}: split {split} lacks {len(missing)} of its {total} shards, e.g. "
                f"-{missing[0]:05d}-of-{total:05d}; fetch the data set again"
            )


def _lonely(path: Path) -> tuple[str, ...]:
    """A note where a file by itself is one of several shards."""
    shard = _SHARD.search(path.stem)
    return (f"only shard {shard[0]} is read",) if shard and int(shard[2]) > 1 else ()


def _split_of(path: Path) -> str:
    """The split that a file holds, by the words of its name or else of its folders; empty where unclear."""
    for text in (path.stem, *(folder.name for folder in path.parents)):
        named = {SPLITS[word] for word in re.split(r"[^a-z]+", text.lower()) if word in SPLITS}
        if len(named) == 1:
            return named.pop()
    return ""


# Columns ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shard:
    """An open file with the columns to read; `names`: its class names, None where it has none."""

    path: Path
    file: pq.ParquetFile
    image: str
    label: str
    names: tuple[str, ...] | None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: cannot be read as Parquet: {reason}; fetch the file again") from None


def _open(path: Path, data: Data) -> _Shard:
    with _reading(path):
        opened_file(path).close()  # a pipe would be waited for
        file = pq.ParquetFile(path, page_checksum_verification=True)
        schema = file.schema_arrow
    images = [field.name for field in schema if _is_image(field.type)]
    images = images or [field.name for field in schema if _is_binary(field.type)]
    image = _column(path, schema, images, data.image_column, "image")
    kind = schema.field(image).type
    if not _is_image(kind) and not _is_binary(kind):
        raise DataError(f"{path}: image column {image} is {kind}; needs struct<bytes: binary> or binary")
    labels = [name for name in LABELS if name in schema.names][:1]
    labels = labels or [field.name for field in schema if pa.types.is_integer(field.type)]
    label = _column(path, schema, labels, data.label_column, "label")
    kind = schema.field(label).type
    if not pa.types.is_integer(kind) and not _is_text(kind):
        raise DataError(f"{path}: label column {label} is {kind}; needs integers or strings")
    return _Shard(path, file, image, label, _class_names(schema, label))


def _column(path: Path, schema: pa.Schema, found: list[str], wanted: str | None, kind: str) -> str:
    """The column that is `wanted` by name, else the only one that was `found` to fit."""
    if wanted is not None:
        if wanted not in schema.names:
            raise DataError(f"{path}: {unknown(f'{kind} column', wanted, schema.names)}")
        return wanted
    if len(found) != 1:
        which = "several columns could be" if found else "no column looks like"
        fields = ", ".join(found) or ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise DataError(f"{path}: {which} the {kind} column; set data.{kind}_column to one of {fields}")
    return found[0]


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_image(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(f.name == "bytes" and _is_binary(f.type) for f in kind.fields)


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(value) or pa.types.is_large_string(value)


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    try:
        names: Any = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None  # not from Hugging Face, or plain integers
    return tuple(map(str, names)) if isinstance(names, list) and names else None


# Rows -------------------------------------------------------------------------------------------------------


def _labels(shards: Sequence[_Shard]) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes and labels, int64, of all rows; read before any image, so that a bad label is found at once."""
    columns = [_read_labels(shard) for shard in shards]
    named = next((shard for shard in shards if shard.names), shards[0])
    for shard, column in zip(shards, columns, strict=True):
        if column.dtype != columns[0].dtype:
            raise DataError(f"{shard.path}: {shard.label} has another type than in {shards[0].path}; must agree")
        if shard.names not in (None, named.names):
            raise DataError(f"{shard.path}: has other class names than {named.path}; must agree")
    values = np.concatenate(columns)
    if values.dtype == object:
        texts, labels = np.unique(values, return_inverse=True)
        return tuple(texts.tolist()), labels.astype(np.int64)
    limit = len(named.names or values)  # without names: no more classes than images
    for shard, column in zip(shards, columns, strict=True):
        for row in np.flatnonzero((column < 0) | (column >= limit))[:1]:
            hint = "; negative labels are hidden ones: use a split that has labels" if column[row] < 0 else ""
            raise DataError(f"{shard.path} row {row}: {shard.label} = {column[row]} must be 0 to {limit - 1}{hint}")
    return named.names or tuple(map(str, range(values.max(initial=-1) + 1))), values


def _read_labels(shard: _Shard) -> np.ndarray:
    """The label column, int64, or object where the labels are strings."""
    with _reading(shard.path):
        column = shard.file.read(columns=[shard.label]).column(0)
        column = column.cast(pa.int64() if pa.types.is_integer(column.type) else pa.string())
    _no_nulls(shard, shard.label, column, 0)
    return column.to_numpy()


def _leaf(shard: _Shard) -> str:
    """The column that holds the encoded images, within its struct if it is one."""
    kind = shard.file.schema_arrow.field(shard.image).type
    return f"{shard.image}.bytes" if pa.types.is_struct(kind) else shard.image


def _places(shard: _Shard) -> Iterator[str]:
    """Where the image of each row lies."""
    row, leaf = 0, _leaf(shard)
    for group in range(shard.file.num_row_groups):
        for inside in range(shard.file.metadata.row_group(group).num_rows):
            yield place_of(shard.path, leaf, group, inside, row)
            row += 1


def _decode(shard: _Shard, decoder: Decoder, wanted: np.ndarray) -> None:
    """Decode the rows that are `wanted`: bool, one for each row."""
    leaf, start = _leaf(shard), 0
    for group in range(shard.file.num_row_groups):
        count = shard.file.metadata.row_group(group).num_rows
        rows = start + np.flatnonzero(wanted[start : start + count])
        if len(rows):
            with _reading(shard.path):
                column = shard.file.read_row_group(group, columns=[leaf]).column(0)
                if leaf != shard.image:
                    (column,) = column.flatten()  # of a struct; a null struct gives null bytes
            encoded = column.take(pa.array(rows - start)) if len(rows) < count else column
            decoder.add(encoded.to_pylist(), lambda i, rows=rows: f"{shard.path} row {rows[i]}")
        start += count


def _no_nulls(shard: _Shard, name: str, column: pa.ChunkedArray, start: int) -> None:
    if column.null_count:
        row = start + int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"{shard.path} row {row}: {name} is null; fill it or remove the row")
