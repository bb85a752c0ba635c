"""Which file imports which: no circles, and nothing inside a function that could stand at the top of its file."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "automixsearch"
LAZY = {
    ("automixsearch.mixers.trivialmix", "automixsearch.mixers"),  # draws from the list that it stands in
    (
        "automixsearch.config.identity",
        "automixsearch.config.trial",
    ),  # the ids of that model
}
"""Imports inside functions that close a circle."""
ON_DEMAND = "automixsearch.commands."
"""A command loads what it needs when it runs: all commands are declared at every start."""


@dataclass
class File:
    """The imports of a file: own modules and packages of others, at its top, and own modules inside functions."""

    top: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    inner: dict[str, int] = field(default_factory=dict)


def _name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


PATHS = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """All imports below a node but those for type checkers, and whether each stands inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside
        yield from _imports(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def _targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules that an import names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif node.module:
        yield from (full if (full := f"{node.module}.{alias.name}") in PATHS else node.module for alias in node.names)


@cache
def _files() -> dict[str, File]:
    files = {}
    for name, path in PATHS.items():
        files[name] = file = File()
        for node, inside in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            for target in _targets(node):
                if target not in PATHS:
                    if not inside and target.partition(".")[0] not in sys.stdlib_module_names:
                        file.packages.add(target.partition(".")[0])
                elif inside:
                    file.inner[target] = node.lineno
                else:
                    file.top.add(target)
    return files


def _loaded(name: str, files: dict[str, File]) -> set[str]:
    """Every own module that importing one loads, itself and the packages above it included."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module in seen or module not in files:
            continue
        seen.add(module)
        waiting += [*files[module].top, module.rpartition(".")[0]]
    return seen


def _packages(name: str, files: dict[str, File]) -> set[str]:
    """The packages of others that importing a module loads."""
    return {package for module in _loaded(name, files) for package in files[module].packages}


def test_no_files_import_one_another() -> None:
    files = _files()
    for name, file in files.items():
        for target in {*file.top, *file.inner} - {name}:
            if (name, target) not in LAZY:
                seen, waiting = set(), [target]
                while waiting:
                    module = waiting.pop()
                    if module not in seen:
                        seen.add(module)
                        waiting += [t for t in {*files[module].top, *files[module].inner} if (module, t) not in LAZY]
                assert name not in seen, f"{name} imports {target}, which leads back to it"


def test_an_import_inside_a_function_spares_a_package_or_a_circle() -> None:
    files = _files()
    needless = [
        f"{name}:{line} imports {target}"
        for name, file in files.items()
        for target, line in file.inner.items()
        if not name.startswith(ON_DEMAND)
        and (name, target) not in LAZY
        and not _packages(target, files) - _packages(name, files)
    ]
    assert not needless, "these load nothing that their file does not: put them at its top"
