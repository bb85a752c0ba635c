"""What knobs there are, when each is active, and what a whole set of values is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from automixsearch.algorithms import ALGORITHMS
from automixsearch.config.knobs import Knob, Scalar, knobs_of
from automixsearch.config.policy import WEIGHT, Policy, methods_of
from automixsearch.config.recipe import Recipe
from automixsearch.errors import SpecError, unknown
from automixsearch.losses import LOSSES
from automixsearch.mixers import MIXERS
from automixsearch.models.registry import network_of

CANONICAL = ("method", "alpha", "eta", "gamma", "layer")
"""Knobs with a ledger column of their own name; every other knob is `knob.<name>`."""

SUPERVISED = "supervised"
"""The way of training of methods that bring none of their own."""

BROUGHT = frozenset(mixer.algorithm for mixer in MIXERS.values()) - {SUPERVISED}
"""The ways of training that a method brings, and that go with it alone."""


@dataclass(frozen=True)
class Entry:
    """A knob and when it is active: only with `method` or only with `loss`; always where both are None.

    joint: only where several methods are joined. policy: only where there is anything to mix. algorithm: only with that
    one. free: only with methods that bring no algorithm of their own.
    """

    knob: Knob
    method: str | None = None
    loss: str | None = None
    joint: bool = False
    policy: bool = False
    algorithm: str | None = None
    free: bool = False


@cache
def catalogue() -> dict[str, Entry]:
    """Every knob by full name: `method`, `loss`, `<method>.<knob>`, `<loss>.<knob>`, `<policy or recipe knob>`."""
    names, losses = tuple(MIXERS), tuple(LOSSES)
    method = Knob("method", str, "mixup", "mixing method, or several", choices=names, search=names, several=True)
    found = {
        "method": Entry(method),
        "loss": Entry(Knob("loss", str, "mce", "loss of mixed samples", choices=losses, search=losses)),
    }
    free = tuple(name for name in ALGORITHMS if name not in BROUGHT)
    if len(free) > 1:
        found["algorithm"] = Entry(
            Knob("algorithm", str, SUPERVISED, "way of training", choices=free, search=free), free=True
        )
    for name, mixer in MIXERS.items():
        found |= {f"{name}.{k}": Entry(declared, method=name) for k, declared in knobs_of(mixer).items()}
        found[f"{name}.weight"] = Entry(WEIGHT, method=name, joint=True)
    for name, loss in LOSSES.items():
        found |= {f"{name}.{k}": Entry(declared, loss=name) for k, declared in knobs_of(loss).items()}
    for name, algorithm in ALGORITHMS.items():
        found |= {f"{name}.{k}": Entry(declared, algorithm=name) for k, declared in knobs_of(algorithm.knobs).items()}
    found |= {k: Entry(declared, policy=True) for k, declared in knobs_of(Policy).items()}
    return found | {k: Entry(declared) for k, declared in knobs_of(Recipe).items()}


def column_of(name: str) -> str:
    """The ledger column of a knob given by its full name (`mixup.alpha` -> `alpha`, `lr` -> `knob.lr`)."""
    short = name.rpartition(".")[2]
    return short if short in CANONICAL else f"knob.{short}"


def joint_column_of(name: str) -> str | None:
    """The ledger column of a knob of one of several joined methods; None: only the config holds it."""
    owner, _, short = name.rpartition(".")
    return f"knob.{name}" if owner in MIXERS and short in ("alpha", "weight") else None


def is_active(entry: Entry, values: Mapping[str, Scalar]) -> bool:
    """Whether a knob has an effect under the method and loss that `values` holds."""
    methods = methods_of(values["method"])
    if (entry.joint and len(methods) == 1) or (entry.policy and methods == ("vanilla",)):
        return False
    brings = MIXERS[methods[0]].algorithm in BROUGHT
    if (entry.free and brings) or entry.algorithm not in (None, algorithm_of(values)):
        return False
    return entry.method in (None, *methods) and entry.loss in (None, values["loss"])


@cache
def _active(method: str, loss: str, algorithm: str) -> dict[str, Knob]:
    values: dict[str, Scalar] = {"method": method, "loss": loss, "algorithm": algorithm}
    return {name: entry.knob for name, entry in catalogue().items() if is_active(entry, values)}


def algorithm_of(values: Mapping[str, Scalar]) -> str:
    """The way of training under the knobs that `values` holds: the method's own, or the one that is chosen."""
    own = MIXERS[methods_of(values["method"])[0]].algorithm
    return str(values.get("algorithm", SUPERVISED)) if own == SUPERVISED else own


def mixes(method: object) -> bool:
    """Whether a method, or any of several joined by +, changes labels."""
    return any(MIXERS[name].mixes for name in methods_of(method))


def complete(values: Mapping[str, object], where: str) -> dict[str, Scalar]:
    """Check knob `values` given by full name and write out every default of the active knobs.

    A method that does not mix has only one loss, `mce`.

    Raises:
        SpecError: a name is unknown, a value illegal, or a knob has no effect with this method and loss.
    """
    known = catalogue()
    for name in values:
        if name not in known:
            raise SpecError(f"{where}: {unknown('knob', name, known)}")
    chosen = {name: known[name].knob.check(values.get(name, known[name].knob.default), f"{where}: {name}")
              for name in ("method", "loss")}  # fmt: skip
    if not mixes(chosen["method"]) and chosen["loss"] != "mce":
        raise SpecError(f"{where}: loss {chosen['loss']} has no effect with method {chosen['method']}; use mce")
    wanted = dict(chosen)
    if "algorithm" in values:
        wanted["algorithm"] = known["algorithm"].knob.check(values["algorithm"], f"{where}: algorithm")
    algorithm = algorithm_of(wanted)
    active = _active(str(chosen["method"]), str(chosen["loss"]), algorithm)
    for name in values:
        if name not in active:
            beside = f"method {chosen['method']} and loss {chosen['loss']}"
            if known[name].algorithm or known[name].free:
                beside = f"method {chosen['method']} and algorithm {algorithm}"
            raise SpecError(f"{where}: {name} has no effect with {beside}; drop it")
    for name, knob in active.items():
        if name not in chosen:
            chosen[name] = knob.check(values[name], f"{where}: {name}") if name in values else knob.default
    _check_shares(chosen, where)
    check_backbone(chosen, where)
    if float(chosen["warmup_epochs"]) >= int(chosen["epochs"]):
        raise SpecError(
            f"{where}: warmup_epochs = {chosen['warmup_epochs']:g} must be below epochs = {chosen['epochs']}; lower it"
        )
    return chosen


def _check_shares(values: Mapping[str, Scalar], where: str) -> None:
    """Refuse part of a batch for a method that needs all of it, and weights that leave nothing to draw."""
    methods = methods_of(values["method"])
    led = [name for name in methods if MIXERS[name].algorithm != SUPERVISED]
    for name, plain in (("mix_prob", 1.0), ("repeats", 1), ("mix_until", 1.0)):
        if led and values[name] != plain:
            raise SpecError(f"{where}: {name} = {values[name]} does not go with {led[0]}; drop it")
    if led and len(methods) > 1:
        raise SpecError(f"{where}: {led[0]} trains in a way of its own and cannot be joined; use it alone")
    alone = [name for name in methods if MIXERS[name].whole and values.get("switch", "batch") != "batch"]
    if alone and (len(methods) > 1 or float(values["mix_prob"]) < 1):
        raise SpecError(
            f"{where}: switch = {values['switch']!r} gives {alone[0]} part of a batch, and it takes a whole one; "
            f"use switch: batch, or leave {alone[0]} out of method"
        )
    if len(methods) > 1 and not any(float(values[f"{name}.weight"]) > 0 for name in methods):
        raise SpecError(f"{where}: all weights of {values['method']} are 0; give one of them a positive weight")


def check_backbone(values: Mapping[str, Scalar], where: str) -> None:
    """Refuse knobs that the backbone cannot follow; a knob that `values` lacks has its default.

    Raises:
        SpecError: a width it cannot have, a stage that cannot be mixed, a knob without effect.
    """
    backbone = str(values["backbone"])
    network = network_of(backbone)
    for name, value in values.items():
        if name.endswith(".stages"):
            for stage in str(value).split("+"):
                if stage not in network.mixable:
                    raise SpecError(
                        f"{where}: {name} = {value} needs {stage}, and backbone {backbone} can mix at "
                        f"{', '.join(network.mixable)} only; leave {stage} out"
                    )
        elif name.endswith(".layer") and int(str(value)[1:]) > network.stages:
            raise SpecError(
                f"{where}: {name} = {value} needs stage {str(value)[1:]}, and backbone {backbone} has "
                f"{network.stages}; use l{network.stages} at most"
            )
        elif name == "width" and not network.wide and value != catalogue()[name].knob.default:
            raise SpecError(f"{where}: width = {value} has no effect with backbone {backbone}; drop it")
        elif name == "width" and int(value) % network.width:
            raise SpecError(
                f"{where}: width = {value} must be a multiple of {network.width} with backbone {backbone}; "
                "64 is the published network"
            )
        elif name in ("stem", "drop_path") and value != catalogue()[name].knob.default and not getattr(network, name):
            raise SpecError(f"{where}: {name} = {value} has no effect with backbone {backbone}; drop it")
