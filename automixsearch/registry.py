"""What comes from outside: methods, losses, networks and the like that are named `module:Name` or `path/file.py:Name`.

The lists of this package come first, then the entry points of installed packages (groups `automixsearch.mixers`,
`.losses`, `.algorithms`, ...), then what is named by its place. `resolve` runs the code once and writes down what must
be known of it, as a `Plugin`: plain data, which spaces, configs and ledgers hold, so that they are read without it.
`load` gives the class itself to whoever trains.

The text of a file goes along with a search: the driver hands it to every worker (`texts`, `receive`), and its SHA-256
is its name. A module has to be installed wherever a trial can run.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast, get_args

from pydantic import Field

from automixsearch.config.frozen import Frozen
from automixsearch.config.knobs import Knob, knobs_of
from automixsearch.errors import ResourceError, SpecError, brief_repr, unknown

Kind = Literal["mixers", "losses", "algorithms", "backbones", "data", "metrics", "evaluations"]
"""What can come from outside; also the last word of the group of entry points."""
KINDS: tuple[Kind, ...] = get_args(Kind)
REF = re.compile(r"(.+\.py|[A-Za-z_][\w.]*):[A-Za-z_][\w.]*")
"""A file or a module, and a name in it."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""A name becomes a value of a knob and part of the names of columns."""
LARGEST = 200_000
"""Bytes of a file, which goes to every worker."""
SECTIONS = (
    "about", "budget", "data", "design", "driver_cpus", "environment", "evaluate", "factors", "family", "fidelity",
    "knobs", "name", "objective", "plugins", "priors", "purpose", "recipe", "resources", "results", "sampler",
    "scheduler", "seeds", "vary",
)  # fmt: skip
"""Words before the dot of an override that mean no owner of knobs."""


@dataclass(frozen=True)
class Source:
    """Where a kind of thing is found in this package, and what one from outside has to be.

    word: for messages. keys: of a space or config, at any depth, whose values name one. listed: the list of this
    package, as MODULE:NAME. base: the class it derives from, likewise; empty where it is called instead. knobs: the
    attribute whose dataclass has its knobs; empty: its own; None: it has none. facts: what of the class is written
    down. called: the arguments by which it is called, by name. offered: those it gets where it takes them, which are
    written down as `takes`. before: what precedes its name where it is a value.
    """

    word: str
    keys: tuple[str, ...]
    listed: str
    base: str = ""
    knobs: str | None = None
    facts: tuple[str, ...] = ()
    called: tuple[str, ...] = ()
    offered: tuple[str, ...] = ()
    before: str = ""


SOURCES: Mapping[Kind, Source] = {
    "mixers": Source(
        "mixing method",
        ("method",),
        "automixsearch.mixers:MIXERS",
        "automixsearch.mixers:Mixer",
        knobs="",
        facts=("mixes", "algorithm", "whole", "attends", "crosses", "published", "source"),
    ),
    "losses": Source(
        "loss",
        ("loss",),
        "automixsearch.losses:LOSSES",
        "automixsearch.losses:Loss",
        knobs="",
        facts=("published",),
    ),
    "algorithms": Source(
        "algorithm",
        ("algorithm",),
        "automixsearch.algorithms:ALGORITHMS",
        "automixsearch.algorithms:Algorithm",
        knobs="knobs",
        facts=("columns", "crosses", "pretrained"),
    ),
    "backbones": Source(
        "backbone",
        ("backbone",),
        "automixsearch.models.registry:BACKBONES",
        called=("in_channels", "num_classes"),
        offered=("side", "width", "drop_path"),
        before="own/",
    ),
    "data": Source("data set", ("source",), "automixsearch.config.data:SOURCES", called=("data",)),
    "metrics": Source(
        "metric",
        ("objective", "metric"),
        "automixsearch.config.catalogue:METRICS",
        "automixsearch.evaluation.metric:Metric",
        facts=("goal",),
        before="val_",
    ),
    "evaluations": Source(
        "evaluation",
        ("evaluate",),
        "automixsearch.evaluation:EVALUATIONS",
        "automixsearch.evaluation.suite:Evaluation",
        knobs="",
        facts=("source",),
    ),
}
KEYS: Mapping[str, Kind] = {key: kind for kind, source in SOURCES.items() for key in source.keys}
"""The keys, at any depth, whose values name something."""


class Plugin(Frozen):
    """What is known of something from outside without its code.

    Args:
        ref: where it was found: `module:Name`, or the absolute path of a file and the name in it.
        digest: SHA-256 of the file, or of all Python files of the package that the module belongs to.
        version: the installed distribution and its version, e.g. `extra-mixers 1.2`; empty for a file.
        about: the first line of its docstring.
        knobs: its declared hyperparameters by name, each as the arguments of `Knob`.
        facts: what else is asked of its kind, e.g. whether a method mixes labels.
    """

    kind: Kind
    name: str = Field(pattern=rf"^{NAME.pattern}$")
    ref: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    version: str = ""
    about: str = ""
    knobs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    facts: dict[str, Any] = Field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.kind, self.name, self.digest))

    @property
    def file(self) -> Path | None:
        """The file that it came from; None for a module."""
        place = self.ref.rpartition(":")[0]
        return Path(place) if _is_path(place) else None

    @cached_property
    def declared(self) -> dict[str, Knob]:
        """Its knobs.

        Raises:
            SpecError: what was written down are none.
        """
        try:
            return {name: _knob(name, content) for name, content in self.knobs.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"{self.kind[:-1]} {self.name}: its written knobs cannot be read: {error!r}") from None

    @property
    def value(self) -> str:
        """What stands for it in a space or a config."""
        return SOURCES[self.kind].before + self.name

    @property
    def origin(self) -> str:
        """Name, version and digest in a few letters, as rows of the ledger name it."""
        return f"{self.name}@{self.version.replace(' ', '-') or 'file'}+{self.digest[:12]}"


COLUMNS = ("val_images", "val_class_accuracy", "val_majority", "val_rarest")
"""Of the ledger, which no metric from outside may have."""
TYPES: Mapping[str, type] = {"bool": bool, "int": int, "float": float, "str": str}


def _knob(name: str, content: Mapping[str, Any]) -> Knob:
    tuples = {key: tuple(value) for key in ("choices", "search") if (value := content.get(key)) is not None}
    return Knob(**{**content, **tuples, "name": name, "kind": TYPES[content["kind"]]})


def _written(knob: Knob) -> dict[str, Any]:
    """A knob as plain data, without what is as always."""
    values = {field.name: getattr(knob, field.name) for field in fields(knob) if field.name != "name"}
    unlike = {field.name for field in fields(knob) if values.get(field.name) != field.default}
    values["kind"] = knob.kind.__name__
    return {name: _plain(value) for name, value in values.items() if name in unlike}


# Looking up -----------------------------------------------------------------------------------------------------


def listed(kind: Kind) -> Mapping[str, Any]:
    """What this package brings along of a kind, by name."""
    return _imported(SOURCES[kind].listed)


def installed(kind: Kind) -> dict[str, importlib.metadata.EntryPoint]:
    """What installed packages offer of a kind by their entry points; none of it is imported."""
    return {point.name: point for point in importlib.metadata.entry_points(group=f"automixsearch.{kind}")}


def is_ref(value: object) -> bool:
    """Whether a value names something by its place, or is a class or function itself."""
    named = isinstance(value, str) and REF.fullmatch(value) is not None
    return named or inspect.isclass(value) or inspect.isfunction(value)


def placed(plugin: Plugin, beside: Path) -> Plugin:
    """The same where its file is written as a path from the folder `beside` on, as in the package of a job."""
    if plugin.file is None or plugin.file.is_absolute():
        return plugin
    return plugin.model_copy(update={"ref": f"{os.path.abspath(beside / plugin.file)}:{plugin.ref.rpartition(':')[2]}"})


def resolve(kind: Kind, ref: object, beside: Path | None = None) -> Plugin:
    """Find something from outside, check it, and write down what must be known of it.

    Args:
        ref: `module:Name`, `path/file.py:Name`, the name of an entry point, or the class or function itself.
        beside: a folder in which files are looked for that do not lie below the current one.

    Raises:
        SpecError: it is not there, cannot be imported, is not of that kind, or has the name of one of ours.

    Examples:
        >>> resolve("mixers", "my_mix.py:MyMix").name  # doctest: +SKIP
        'mymix'
    """
    source = SOURCES[kind]
    version, point = "", None
    if not isinstance(ref, str):
        ref = _place_of(ref, source.word)
    elif ":" not in ref:
        offered = installed(kind)
        if ref not in offered:
            raise SpecError(unknown(source.word, ref, [*listed(kind), *offered]))
        point = offered[ref]
        ref = point.value
        version = f"{point.dist.name} {point.dist.version}" if point.dist else ""
    place, _, name = ref.rpartition(":")
    if _is_path(place):
        path = _file(place, name, beside)
        text = _text(path)
        ref, digest = f"{path}:{name}", keep(text)
        module = _module_of(digest, path)
    else:
        module = _installed_module(place, name, source.word)
        digest = _digest_of(module)
        version = version or _version_of(module)
    value = _named(module, ref, name)
    _check(kind, value, ref)
    own = _name_of(value)
    if point is not None and point.name != own:
        raise SpecError(
            f"entry point {point.name} = {point.value} of {version or 'an installed package'} has a class of the name "
            f"{own!r}; give both the same name"
        )
    _refuse_taken(kind, own, ref)
    knobs = _knobs_of(kind, value)
    return Plugin(
        kind=kind,
        name=own,
        ref=ref,
        digest=digest,
        version=version,
        about=(inspect.getdoc(value) or "").partition("\n")[0],
        knobs={name: _written(knob) for name, knob in knobs.items()},
        facts=_facts_of(source, value),
    )


def load(plugin: Plugin) -> Any:
    """The class or function behind what was written down, in the very version that was.

    Raises:
        ResourceError: it is not on this machine, or not as it was; the message says what to do.
    """
    try:
        return _loaded(plugin)
    except SpecError as error:
        raise ResourceError(str(error)) from error


def _loaded(plugin: Plugin) -> Any:
    place, _, name = plugin.ref.rpartition(":")
    word = SOURCES[plugin.kind].word
    if plugin.file is None:
        module = _installed_module(place, name, word)
        if (digest := _digest_of(module)) != plugin.digest:
            here = _version_of(module) or digest[:12]
            raise SpecError(
                f"{word} {plugin.name}: {place} is not what this was made with: {plugin.version or plugin.digest[:12]} "
                f"then and {here} here (source {plugin.digest[:12]} and {digest[:12]}); install the same version "
                "wherever trials run"
            )
    else:
        text_of(plugin)
        module = _module_of(plugin.digest, plugin.file)
    value = _named(module, plugin.ref, name)
    _check(plugin.kind, value, plugin.ref)
    return value


def look_up(kind: Kind, name: str, plugins: Iterable[Plugin] = ()) -> Any:
    """The entry of our list, or else the class among `plugins`, by name.

    Raises:
        SpecError: there is none.
    """
    ours = listed(kind)
    if name in ours:
        return ours[name]
    for plugin in plugins:
        if (plugin.kind, plugin.value) == (kind, name):
            return load(plugin)
    raise SpecError(unknown(SOURCES[kind].word, name, ours))


# Texts of files -------------------------------------------------------------------------------------------------

_texts: dict[str, str] = {}
"""By digest: what was read here, or came from the driver. A text is never another one under the same digest."""


def keep(text: str) -> str:
    """Remember the text of a file, and return its digest."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    _texts[digest] = text
    return digest


def texts(plugins: Iterable[Plugin]) -> dict[str, str]:
    """The texts behind those of `plugins` that came from files, by digest: what workers are given."""
    return {plugin.digest: text_of(plugin) for plugin in plugins if plugin.file is not None}


def receive(given: Mapping[str, str]) -> None:
    """Take the texts that the driver hands out."""
    for text in given.values():
        keep(text)


def text_of(plugin: Plugin) -> str:
    """The text behind a plug-in that came from a file: as it was read, or from the file if that is still what it was.

    Raises:
        SpecError: the file is gone or has changed.
    """
    if plugin.digest in _texts:
        return _texts[plugin.digest]
    path, word = cast(Path, plugin.file), SOURCES[plugin.kind].word
    if not path.is_file():
        raise SpecError(
            f"{word} {plugin.name}: its file {path} is not here; bring it back, or name the file where it lies now, as "
            f"PATH:{plugin.ref.rpartition(':')[2]}"
        )
    text = _text(path)
    if keep(text) != plugin.digest:
        raise SpecError(
            f"{word} {plugin.name}: {path} has changed since this was made (source {plugin.digest[:12]} then, "
            f"{hashlib.sha256(text.encode()).hexdigest()[:12]} now); undo the change, or name it anew as "
            f"{plugin.ref}"
        )
    return text


# Importing ------------------------------------------------------------------------------------------------------


def _is_path(place: str) -> bool:
    return place.endswith(".py")


def _file(place: str, name: str, beside: Path | None) -> Path:
    path = Path(os.path.expanduser(place))
    for candidate in (path, *([beside / path] if beside is not None else ())):
        if candidate.is_file():
            return Path(os.path.abspath(candidate))
    where = f" or {os.path.abspath(beside)}" if beside is not None and not path.is_absolute() else ""
    raise SpecError(f"{place}:{name}: there is no file {place} in {os.getcwd()}{where}; check the path")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpecError(f"{path}: cannot be read: {reason}; a plug-in is a Python file") from None
    if len(data) > LARGEST:
        raise SpecError(f"{path}: is larger than {LARGEST:,} bytes and would go to every worker; make it a package")
    return text


def _module_of(digest: str, path: Path) -> ModuleType:
    """The module that a text makes, run once for each `path` in a process; tracebacks and messages name that."""
    name = f"automixsearch_plugin_{hashlib.sha256(f'{digest} {path}'.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look their module up while they are made
    try:
        exec(compile(_texts[digest], str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise SpecError(_said(error, path, _texts[digest])) from error
    return module


def _said(error: BaseException, path: Path, text: str) -> str:
    """An error inside a file, with the line of it that raised."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        number, cause = error.lineno or 1, error.msg
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        number, cause = (frames[-1].lineno or 1) if frames else 1, str(error)
    lines = text.splitlines()
    line = lines[number - 1].strip() if number <= len(lines) else ""
    remedy = "mend the file"
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        remedy = f"install {missing} wherever trials run"
        if (path.parent / f"{missing}.py").exists() or (path.parent / missing).is_dir():
            remedy = (
                f"a file goes to the workers alone, without {missing} beside it: put what it needs into the file, or "
                "make both an installed package"
            )
    return f"{path}, line {number}: {line}: {type(error).__name__}: {cause}; {remedy}"


def _installed_module(place: str, name: str, word: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not (place == error.name or place.startswith(f"{error.name}.")):
            raise SpecError(f"{place}:{name}: {error}; install it wherever trials run") from error
        raise SpecError(
            f"{place}:{name}: there is no module {error.name} on {os.uname().nodename}; install the package of this "
            f"{word} wherever trials run, or name its file, as path/file.py:{name}"
        ) from None
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise SpecError(
            f"{place}:{name}: {frame.filename}, line {frame.lineno}: {frame.line}: {type(error).__name__}: {error}; "
            "mend the module"
        ) from error


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _named(module: ModuleType, ref: str, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            inside = [key for key, inner in vars(value).items() if getattr(inner, "__module__", "") == module.__name__]
            raise SpecError(f"{ref}: {unknown('name', part, inside)}")
        value = getattr(value, part)
    return value


def _place_of(value: object, word: str) -> str:
    """`module:Name` or `path/file.py:Name` of a class or function that was handed over."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        raise SpecError(f"{word} {brief_repr(value)} must be a name, module:Name, path/file.py:Name or a class")
    module, name = value.__module__, value.__qualname__
    if "<locals>" in name:
        raise SpecError(f"{word} {name} is defined inside a function, where workers cannot find it; move it to the top")
    if module.startswith("automixsearch_plugin_") or module == "__main__" or _is_single_file(module):
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is None:
            raise SpecError(
                f"{word} {name} was typed into an interpreter, and workers need a file; save it as FILE.py and give "
                f"FILE.py:{name}"
            )
        return f"{os.path.abspath(file)}:{name}"
    return f"{module}:{name}"


def _is_single_file(module: str) -> bool:
    """Whether a module is one file that no distribution has installed."""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return "." not in module and not file.endswith("__init__.py") and "site-packages" not in file


def _digest_of(module: ModuleType) -> str:
    """Of all Python files of the package that a module belongs to, or of its only one."""
    root = sys.modules[module.__name__.partition(".")[0]]
    file = getattr(root, "__file__", None)
    if file is None or not file.endswith(".py"):
        return hashlib.sha256(_version_of(module).encode()).hexdigest()
    files = sorted(Path(file).parent.rglob("*.py")) if Path(file).name == "__init__.py" else [Path(file)]
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(Path(file).parent)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _version_of(module: ModuleType) -> str:
    top = module.__name__.partition(".")[0]
    for name in importlib.metadata.packages_distributions().get(top, ()):
        return f"{name} {importlib.metadata.version(name)}"
    return ""


# Contracts ------------------------------------------------------------------------------------------------------


def _name_of(value: Any) -> str:
    return str(getattr(value, "name", value.__name__.lower()))


def _check(kind: Kind, value: Any, ref: str) -> None:
    """Refuse what is not of its kind, before any trial meets it."""
    source = SOURCES[kind]
    if source.base:
        base = _imported(source.base)
        what = f"a class derived from {source.base.replace(':', '.')}"
        if not inspect.isclass(value):
            raise SpecError(f"{ref} is of type {type(value).__name__} and must be {what}; see CONTRIBUTING.md")
        if not issubclass(value, base):
            raise SpecError(f"{ref} must be {what}; its bases are {', '.join(b.__name__ for b in value.__bases__)}")
        missing = sorted(getattr(value, "__abstractmethods__", ()))
        if missing:
            raise SpecError(f"{ref} lacks {', '.join(missing)}, which every {source.word} has; define them")
        for fact in source.facts:
            if not hasattr(value, fact):
                raise SpecError(f"{ref} says nothing of its {fact}; see {source.base.replace(':', '.')}")
        if not isinstance(getattr(value, "name", None), str):
            raise SpecError(f"{ref} has no name; give the class a line such as name: ClassVar[str] = 'mymix'")
    else:
        _check_call(source, value, ref)
    if not NAME.fullmatch(_name_of(value)):
        raise SpecError(
            f"{ref}: name = {brief_repr(_name_of(value))} must be 1 to 40 small letters, digits and _, a letter first"
        )
    if source.knobs is None:
        return
    owner = getattr(value, source.knobs) if source.knobs else value
    if not is_dataclass(owner) or not owner.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise SpecError(f"{ref}: {owner.__name__} must be a frozen dataclass; put @dataclass(frozen=True) above it")
    bare = [field.name for field in fields(owner) if "knob" not in field.metadata]
    if bare:
        raise SpecError(f"{ref}: field {bare[0]} is no knob; declare it as {bare[0]}: ... = knob(DEFAULT, NOTE)")


def _check_call(source: Source, value: Any, ref: str) -> None:
    what = f"a class or function that is called as NAME({', '.join(f'{name}=...' for name in source.called)})"
    if not callable(value):
        raise SpecError(f"{ref} is of type {type(value).__name__} and must be {what}")
    try:
        inspect.signature(value).bind(**dict.fromkeys(source.called))
    except TypeError as error:
        raise SpecError(f"{ref} must be {what}: {error}") from None


def _facts_of(source: Source, value: Any) -> dict[str, Any]:
    facts = {fact: _plain(getattr(value, fact)) for fact in source.facts}
    if source.offered:
        taken = inspect.signature(value).parameters
        facts["takes"] = [name for name in source.offered if name in taken]
    return facts


def _knobs_of(kind: Kind, value: Any) -> dict[str, Knob]:
    where = SOURCES[kind].knobs
    return {} if where is None else knobs_of(getattr(value, where) if where else value)


def _refuse_taken(kind: Kind, name: str, ref: str) -> None:
    """Refuse the name of something of ours; methods, losses and ways of training share the names of their knobs."""
    shared: tuple[Kind, ...] = ("mixers", "losses", "algorithms")
    if kind in shared and name in SECTIONS:
        raise SpecError(f"{ref}: name = {name!r} is that of a section of a search space; choose another")
    ours = listed(kind)
    if kind == "metrics" and any(f"val_{name}_".startswith(f"{other}_") for other in (*ours, *COLUMNS)):
        raise SpecError(f"{ref}: name = {name!r} is that of a column of the ledger; choose another")
    for other in shared if kind in shared else (kind,):
        if name in listed(other):
            raise SpecError(
                f"{ref}: name = {name!r} is that of a {SOURCES[other].word} of this package; choose another"
            )


def _plain(value: Any) -> Any:
    """Plain data: mappings and sequences as dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(inner) for inner in value]
    if is_dataclass(value):  # a column of the ledger
        return {key.name: _plain(inner) for key in fields(value) if (inner := getattr(value, key.name)) != key.default}
    return value.__name__ if isinstance(value, type) else value
