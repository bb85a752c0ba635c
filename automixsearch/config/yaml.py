"""YAML as people mean it: the plain scalars of YAML 1.2, and no number in a spelling that has two readings.

Words such as yes, no, on and off stay text, as do dates; what is true or false takes these four words for it.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml._yaml import CParser
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.resolver import BaseResolver

from automixsearch.errors import SpecError, brief_repr, shortened

DEEPEST, MOST = 40, 20_000
"""Levels and values of a document that people write. A small file can stand for billions of values by aliases."""
LONGEST = 100
"""Digits of a whole number."""

PLAIN = re.compile(
    r"""(?P<null>~|null|Null|NULL|)
    |(?P<bool>true|True|TRUE|false|False|FALSE)
    |(?P<int>[-+]?(?:0|[1-9][0-9]*))
    |(?P<float>[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))
    |(?P<ambiguous>[-+]?(?:0[xXoObB][0-9a-fA-F_]+|[0-9][0-9_]*(?::[0-9_]+)*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9_]+)?))
    |(?P<merge><<)""",
    re.VERBOSE,
)
"""What a scalar without quotes is; all others are text."""
_TAG = "tag:yaml.org,2002:"


def _kind(text: str) -> str:
    """The tag of a scalar without quotes."""
    found = PLAIN.fullmatch(text)
    return _TAG + ((found and found.lastgroup) or "str")


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that is not read here."""

    def __init__(self, problem: str, node: Any) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Loader(Composer, CParser, SafeConstructor, BaseResolver):
    """libyaml's parser; composed here, as nothing may be built before it has been looked at."""

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        BaseResolver.__init__(self)
        self._depth = 0

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        return _kind(value) if kind is ScalarNode and implicit[0] else super().resolve(kind, value, implicit)

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Any = self.peek_event()
        self._depth += 1
        if self._depth > DEEPEST:  # before the rest is read: time and memory grow with the square of the depth
            raise _Refused(f"nested more than {DEEPEST} levels deep; nothing here needs that", event)
        if getattr(event, "tag", None) not in (None, "!"):
            raise _Refused(f"tag {shortened(event.tag)} is not read; write the value without it", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> Node | None:
        node = super().get_single_node()
        if node is not None:
            _examine(node, "", {})
        return node

    def flatten_mapping(self, node: MappingNode) -> None:
        """Put in what << merges: what a mapping says itself wins, then what is merged first."""
        pairs = {key.value: (key, value) for key, value in node.value if key.tag != _TAG + "merge"}
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                for source in value.value if isinstance(value, SequenceNode) else [value]:
                    if not isinstance(source, MappingNode):
                        raise _Refused("<< takes a mapping, or a list of mappings", source)
                    self.flatten_mapping(source)
                    pairs = {**{name.value: (name, inner) for name, inner in source.value}, **pairs}
        node.value = list(pairs.values())


def _examine(node: Node, path: str, sizes: dict[int, int]) -> int:
    """Refuse what has two readings; return how many values a node stands for, aliases written out."""
    if id(node) not in sizes:
        sizes[id(node)] = 0
        parts: list[tuple[Node, str]] = []
        if isinstance(node, MappingNode):
            _check_keys(node, path)
            parts = [(value, f"{path}.{key.value}" if path else str(key.value)) for key, value in node.value]
        elif isinstance(node, ScalarNode):
            _check_number(node, path)
        else:
            parts = [(value, f"{path}[{i}]") for i, value in enumerate(node.value)]
        sizes[id(node)] = 1 + sum(_examine(part, name, sizes) for part, name in parts)
    size = sizes[id(node)]
    if size == 0 or size > MOST:
        problem = f"stands for more than {MOST} values by its aliases" if size else "holds itself by an alias"
        raise _Refused(f"{problem}; write it without", node)
    return size


def _check_keys(node: MappingNode, path: str) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, ScalarNode) or key.tag not in (_TAG + "str", _TAG + "merge"):
            word = shortened(key.value) if isinstance(key, ScalarNode) else "a list or mapping"
            raise _Refused(f"key {word} must be a word; put it in quotes", key)
        if key.value in seen and key.tag != _TAG + "merge":
            where = f" in {shortened(path)}" if path else ""
            raise _Refused(f"key {brief_repr(key.value)} stands here twice{where}; keep one", key)
        seen.add(key.value)


def _check_number(node: ScalarNode, path: str) -> None:
    text, where = str(node.value), f"{shortened(path)}: " if path else ""
    if node.tag == _TAG + "int" and len(text) > LONGEST:
        raise _Refused(f"{where}{shortened(text)} is a number of {len(text)} digits; nothing here is that large", node)
    if node.tag == _TAG + "ambiguous":
        problem = "is one number to some readers of YAML and another, or text, to others"
        raise _Refused(f"{where}{shortened(text)} {problem}; write it in plain decimal digits, or in quotes", node)


def read_yaml(text: str, where: str, *, inline: bool = False) -> Any:
    """Parse YAML text.

    Args:
        where: the file, or what else errors name.
        inline: the text is one value, so that errors give no line and column.

    Raises:
        SpecError: bad syntax, a duplicate key, a key that is no word, a tag, or a number with two readings.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = where if inline or mark is None else f"{where}:{_position(mark, text)}"
        kind = "" if isinstance(error, _Refused) else "not valid YAML: "
        raise SpecError(f"{place}: {kind}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a lone surrogate, which is no text
        raise SpecError(f"{where}: not valid YAML: {shortened(' '.join(str(error).split()), 200)}") from None


def _position(mark: yaml.Mark, text: str) -> str:
    lines = text.splitlines() or [""]
    if mark.line >= len(lines):  # libyaml's end of a text lies below its last line
        return f"{len(lines)}:{len(lines[-1]) + 1}"
    return f"{mark.line + 1}:{mark.column + 1}"


def read_value(key: str, text: str) -> Any:
    """The value of an override `key=text`.

    Raises:
        SpecError: as `read_yaml`.
    """
    return read_yaml(text, f"override {shortened(f'{key}={text}')}", inline=True)


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what is not text to `read_yaml`, or to readers of YAML 1.1."""

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        tag = _kind(value) if kind is ScalarNode and implicit[0] else _TAG + "str"
        return tag if tag != _TAG + "str" else super().resolve(kind, value, implicit)


def write_yaml(content: object) -> str:
    """Plain data as YAML that `read_yaml` reads back as it is."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
