"""What every trained network of a search or a study is asked beside its accuracy, as it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from automixsearch.config.knobs import Knob, Scalar, knobs_of
from automixsearch.errors import SpecError, brief_repr, unknown
from automixsearch.registry import Plugin


def questions(written: object, plugins: Iterable[Plugin] = ()) -> dict[str, dict[str, Scalar]]:
    """The evaluations by name, each with all of its settings.

    Args:
        written: a name, a mapping from names to settings, or a list of both.

    Raises:
        ValueError: a name is unknown or occurs twice, or a setting is illegal.
    """
    if not written:
        return {}
    from automixsearch.evaluation import EVALUATIONS  # NumPy only where something is asked

    known: dict[str, Mapping[str, Knob]] = {name: knobs_of(kind) for name, kind in EVALUATIONS.items()}
    known |= {plugin.value: plugin.declared for plugin in plugins if plugin.kind == "evaluations"}
    asked: dict[str, dict[str, Scalar]] = {}
    for one in written if isinstance(written, list | tuple) else [written]:
        if not isinstance(one, str | dict):
            raise ValueError(
                f"{brief_repr(one)} must be a name, or a name with settings: {{corruption: {{severity: 3}}}}"
            )
        for name, settings in {one: {}}.items() if isinstance(one, str) else one.items():
            if name not in known:
                raise ValueError(unknown("evaluation", name, known))
            if name in asked:
                raise ValueError(f"{name} is asked twice; once is enough")
            asked[name] = _complete(name, settings, known[name])
    return asked


def _complete(name: str, settings: object, knobs: Mapping[str, Knob]) -> dict[str, Scalar]:
    if not isinstance(settings, dict):
        raise ValueError(f"{name}: {brief_repr(settings)} must be a mapping of settings, e.g. {name}: {{}}")
    for key in settings:
        if key not in knobs:
            raise ValueError(f"{name}: {unknown('setting', key, knobs)}")
    try:
        return {key: knob.check(settings.get(key, knob.default), f"{name}.{key}") for key, knob in knobs.items()}
    except SpecError as error:
        raise ValueError(str(error)) from None
