"""The JSON documents of a study: read through one function that checks them, written with a digest of their content.

A document that is damaged, of another shape or of a later version ends in an error that names file, key and rule.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn, Protocol, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from automixsearch.config.outside import Plugins
from automixsearch.config.upgrade import SCHEMA_VERSION, NewerVersion, upgrade
from automixsearch.errors import DamagedError, StudyError, brief_repr, unknown
from automixsearch.registry import Plugin
from automixsearch.results.names import PATTERN, ROW_FILE

if TYPE_CHECKING:
    from automixsearch.config.trial import TrialConfig

LARGEST = 32_000_000
"""Bytes of a document: the list of a study's runs is the longest, about 350 for each run."""
LONGEST_NUMBER = 25
"""Digits of a whole number; ours have 19 at most."""
DIGEST = "sha256"
"""The key that holds the digest of all other keys; documents of earlier versions have none."""

T = TypeVar("T")
Name = Annotated[str, StringConstraints(pattern=PATTERN)]
"""A string that may become the name of a file; see `names`."""


STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
"""How documents are validated; a dataclass names it as `__pydantic_config__`."""


class Files(Protocol):
    """What documents are read from and written to; names are relative to its root."""

    def place(self, name: str) -> str: ...

    def read(self, name: str, most: int | None = None) -> bytes | None: ...

    def replace(self, name: str, data: bytes) -> None: ...


class Document(BaseModel):
    """Base of what documents hold: no unknown keys, no conversions, numbers finite.

    `remedy` says what to do about a damaged one.
    """

    model_config = STRICT
    remedy: ClassVar[str] = "restore it from a copy, or remove it"


def read_document(files: Files, name: str, kind: type[T]) -> T | None:
    """The content of one document as `kind`, a model or a dataclass; None where there is no such file.

    Raises:
        DamagedError: it is no such document, or was changed since it was written.
        StudyError: it is of a later version, or the storage fails.
    """
    data = files.read(name, LARGEST + 1)
    return None if data is None else decode_document(data, files.place(name), kind)


def write_document(files: Files, name: str, content: Any) -> None:
    """Write a document whole, with its digest; `content` is a model, a dataclass or plain data."""
    files.replace(name, encode_document(content))


def encode_document(content: Any) -> bytes:
    """A document as bytes: plain data (models and dataclasses are turned into it) and its digest."""
    plain = json.loads(canonical(_adapter(type(content)).dump_python(content, mode="json")))
    plain.pop(DIGEST, None)
    return json.dumps({**plain, DIGEST: digest(canonical(plain))}, indent=1).encode()


def decode_document(data: bytes, where: str, kind: type[T]) -> T:
    """Check the bytes of a document and return its content; `where` names it. Raises: as `read_document`."""
    remedy = getattr(kind, "remedy", Document.remedy)
    content = parse(data, where, remedy)
    if not isinstance(content, dict):
        _refuse(where, f"must hold a mapping of keys to values, not a {_kind(content)}", remedy)
    written = content.pop(DIGEST, None)
    text = canonical(content)
    if written is not None and written != digest(text):
        _refuse(where, f"was changed since it was written: its content does not fit its {DIGEST}", remedy)
    if "schema_version" in _fields(kind):
        try:
            text = canonical(upgrade(content))
        except NewerVersion as error:
            raise StudyError(f"{where}: {error}") from None
        except ValueError as error:
            _refuse(where, str(error), remedy)
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        _refuse(where, "; ".join(dict.fromkeys(_explain(kind, one) for one in error.errors()[:3])), remedy)


def parse(data: bytes, where: str, remedy: str = Document.remedy) -> Any:
    """JSON as plain data: stricter than the standard library, which takes NaN and forgets keys that stand twice.

    Raises:
        DamagedError: it is no JSON, is not UTF-8, is too large or too deep, holds a key twice or a number that is none.
    """
    if len(data) > LARGEST:
        _refuse(where, f"is larger than {LARGEST:,} bytes", remedy)
    if not data.strip(b"\0 \t\r\n"):
        _refuse(where, "is empty", remedy)
    try:
        text = data.decode("utf-8-sig")
        return json.loads(
            text, object_pairs_hook=_pairs, parse_constant=_no_number, parse_float=_real, parse_int=_whole
        )
    except UnicodeDecodeError as error:
        _refuse(where, f"is not UTF-8 text: byte {data[error.start]:#04x} at {error.start}", remedy)
    except json.JSONDecodeError as error:
        _refuse(where, f"is no JSON: {error.msg} in line {error.lineno}, column {error.colno}", remedy)
    except RecursionError:
        _refuse(where, "is nested too deeply", remedy)
    except ValueError as error:  # of the hooks below
        _refuse(where, str(error), remedy)


def parse_config(text: str, where: str) -> dict[str, Any]:
    """The config that a row of the ledger holds, as plain data with at least `data` and `knobs`; `where` names the row.

    Raises:
        DamagedError: it is none.
    """
    where, remedy = f"{where}: config", "the row is damaged: restore its file from a copy"
    content = parse(text.encode("utf-8", "surrogatepass"), where, remedy)
    try:
        _adapter(ConfigEntry).validate_python(content)
    except ValidationError as error:
        _refuse(where, "; ".join(_explain(ConfigEntry, one) for one in error.errors()[:3]), remedy)
    return content


def stored_config(text: str, where: str) -> TrialConfig:
    """The same, checked in full. Raises: as `parse_config`."""
    from automixsearch.config.trial import TrialConfig

    try:
        return TrialConfig.model_validate(parse_config(text, where))
    except ValidationError as error:
        said = "; ".join(_explain(TrialConfig, one) for one in error.errors()[:3])
        raise DamagedError(f"{where}: config: {said}; restore the row's file from a copy, or upgrade") from None


def written_plugins(study: Mapping[str, Any], where: str = "study.json") -> tuple[Plugin, ...]:
    """What came from outside in a study, as its `study.json` says; none of it is imported.

    Raises:
        DamagedError: that cannot be read.
    """
    try:
        return _adapter(Plugins).validate_python((study.get("space") or {}).get("plugins") or ())
    except ValidationError as error:
        _refuse(where, f"plugins: {error.errors()[0]['msg']}", StudyDocument.remedy)


def canonical(content: Any) -> str:
    """Plain data as one text, however it was laid out."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse(where: str, problem: str, remedy: str) -> NoReturn:
    raise DamagedError(f"{where}: {problem}; {remedy}") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"holds the key {brief_repr(twice)} twice")
    return content


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"holds {word}, which is no number of JSON")


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"holds the number {brief_repr(text)}, which is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"holds a whole number of {len(text)} digits, which is too large")
    return int(text)


def _kind(content: Any) -> str:
    words = {list: "list", str: "string", bool: "truth value", int: "number", float: "number"}
    return words.get(type(content), "null")


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _fields(kind: type) -> Mapping[str, Any]:
    return getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})


def _explain(kind: type, detail: Any) -> str:
    """One fault of a document: its key, the rule, what arrived."""
    loc = [str(part) for part in detail["loc"]]
    key, rule = ".".join(loc), str(detail["msg"])
    if detail["type"] == "missing":
        return f"{key} is missing"
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return unknown("key", key[:80], _fields(kind)) if len(loc) == 1 else f"unknown key {brief_repr(key)}"
    rule = rule.replace("Input should be", "must be").replace("String should", "must").removeprefix("Value error, ")
    return f"{brief_repr(key)[1:-1]} = {brief_repr(detail['input'])} {rule[:300]}"


# What documents hold ----------------------------------------------------------------------------------------------


class SourceEntry(Document):
    """The data of a config, as far as analyses read them."""

    model_config = ConfigDict(extra="allow")
    source: str
    path: str | None = None


class ConfigEntry(Document):
    """The config of a row, likewise."""

    model_config = ConfigDict(extra="allow")
    data: SourceEntry
    knobs: dict[str, bool | int | float | str]


class RunEntry(Document):
    """One run of a design, as `Run.row` has it."""

    number: int = Field(ge=0)
    purpose: str
    arm: str
    replicate: int = Field(ge=0)
    seed: int = Field(ge=0)
    split_seed: int = Field(ge=0)
    stratum: str
    levels: dict[str, Any]
    of: int | None = Field(default=None, ge=0)
    rank: int | None = Field(default=None, ge=0)


class FactorEntry(Document):
    """One factor of a design."""

    off: dict[str, Any]
    on: dict[str, Any]
    needs: list[str] = []


class DesignEntry(Document):
    """The `design` of `study.json`: what `Design.content` says."""

    name: str
    runs: Annotated[list[RunEntry], FailFast()] = []
    question: str = ""
    about: str = ""
    metric: str = "val_top1"
    measured: str | None = None
    margin: float | None = Field(default=None, gt=0)
    delta: float | None = Field(default=None, gt=0)
    factors: dict[str, FactorEntry] = {}
    order: list[str] | None = None
    confirm: dict[str, Any] | None = None
    vary: list[str] = []
    methods: list[str] = []
    strata: list[str] = []
    against: dict[str, str] = {}
    aliases: dict[str, list[str]] = {}


class Named(Document):
    """A part of a space of which the name says what it is; its other keys are the space's own."""

    model_config = ConfigDict(extra="allow")
    name: str = ""
    rungs: str = "schedules"


class Anchors(Document):
    """The `fidelity` of a space."""

    model_config = ConfigDict(extra="allow")
    anchors: int = Field(default=0, ge=0)


class SpaceEntry(Document):
    """The `space` of `study.json`, as far as analyses read it; `SearchSpace` checks all of it where it is needed."""

    model_config = ConfigDict(extra="allow")
    name: Name | None = None
    about: str = ""
    knobs: dict[str, Any] = {}
    sampler: Named | None = None
    scheduler: Named | None = None
    fidelity: Anchors | None = None
    priors: Any = "none"


class EnvironmentEntry(Document):
    """The versions under which a driver ran."""

    hash: str
    automixsearch: str
    python: str
    packages: dict[str, str]
    plugins: list[str] = []


class HalvingEntry(Document):
    """What the anchors of a search said of its rungs."""

    stopped: bool
    why: str


class DataEntry(Document):
    """The data of a study: see `search.provenance`. splits: ids of the validation splits by their seeds."""

    fingerprint: str
    path: str | None = None
    train: int = Field(ge=0)
    test: int = Field(ge=0)
    classes: int = Field(ge=0)
    val: int = Field(ge=0)
    splits: dict[str, str]


class StudyDocument(Document):
    """`study.json`: what the driver knows of the study."""

    remedy: ClassVar[str] = (
        f"restore it from a copy; if you changed it by hand, undo that or remove its {DIGEST}; or remove the file: the "
        "rows stay, and the search that made it writes it anew"
    )
    schema_version: int = Field(default=SCHEMA_VERSION, ge=1)
    name: Name | None = None
    former_names: list[Name] = []
    space_id: str | None = None
    objective: list[str] = Field(default=[], min_length=1)
    total_trials: int | None = Field(default=None, ge=0)
    space: SpaceEntry | None = None
    data: DataEntry | None = None
    environments: list[EnvironmentEntry] = []
    design: DesignEntry | None = None
    halving: HalvingEntry | None = None

    @field_validator("objective")
    @classmethod
    def _names_each_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("names a metric twice")
        return names

    @property
    def content(self) -> dict[str, Any]:
        """All that the document says, as plain data."""
        return self.model_dump(mode="json", exclude_unset=True)


class MergeDocument(Document):
    """The journal of a merge: once the merged file is there, its parts are gone for readers, and then go."""

    remedy: ClassVar[str] = "remove it: its rows are in the files beside it"
    merged: Annotated[str, StringConstraints(pattern=r"^merged-[A-Za-z0-9._-]{1,80}\.parquet$")]
    parts: list[Annotated[str, StringConstraints(pattern=ROW_FILE)]]

    @model_validator(mode="after")
    def _is_no_part(self) -> Self:
        if self.merged in self.parts:
            raise ValueError(f"{self.merged} cannot be a part of itself")
        return self
