"""What knobs there are, when each is active, and what a whole set of values is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from automixsearch.algorithms import ALGORITHMS
from automixsearch.config.knobs import Knob, Scalar, knobs_of
from automixsearch.config.policy import WEIGHT, Policy, methods_of
from automixsearch.config.recipe import Recipe
from automixsearch.errors import SpecError, unknown
from automixsearch.losses import LOSSES
from automixsearch.mixers import MIXERS
from automixsearch.models.registry import NO_CLASS_TOKEN, network_of
from automixsearch.registry import SOURCES, Plugin

CANONICAL = ("method", "alpha", "eta", "gamma", "layer")
"""Knobs with a ledger column of their own name; every other knob is `knob.<name>`."""

METRICS = {
    "val_top1": "max",
    "val_top5": "max",
    "val_loss": "min",
    "val_ece": "min",
    "val_balanced_accuracy": "max",
    "val_macro_f1": "max",
    "val_auroc": "max",
    "train_loss": "min",
    "wall_s": "min",
    "device_s": "min",
}
"""What a search may optimise, and in which direction. Test scores are not among them, on purpose."""
PER_EPOCH = tuple(name for name in METRICS if not name.endswith("_s"))
"""Those that each epoch has a value of; of the others an epoch tells no more than how far a run is."""

SUPERVISED = "supervised"
"""The way of training of methods that bring none of their own."""


@dataclass(frozen=True)
class Entry:
    """A knob and when it is active: only with `method` or only with `loss`; always where both are None.

    joint: only where several methods are joined. policy: only where there is anything to mix. algorithm: only with that
    one. free: only with methods that bring no algorithm of their own. brought: the algorithms that methods bring, by
    method.
    """

    knob: Knob
    method: str | None = None
    loss: str | None = None
    joint: bool = False
    policy: bool = False
    algorithm: str | None = None
    free: bool = False
    brought: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def active(self, values: Mapping[str, Scalar]) -> bool:
        """Whether the knob has an effect under the method, loss and algorithm that `values` holds."""
        methods = methods_of(values["method"])
        if (self.joint and len(methods) == 1) or (self.policy and methods == ("vanilla",)):
            return False
        brought = self.brought.get(methods[0])
        algorithm = brought or values.get("algorithm", SUPERVISED)
        if (self.free and brought) or self.algorithm not in (None, algorithm):
            return False
        return self.method in (None, *methods) and self.loss in (None, values["loss"])


@dataclass(frozen=True)
class Method:
    """What is known of a mixing method without its code; see the attributes of `Mixer` of these names."""

    mixes: bool
    algorithm: str
    whole: bool
    published: Mapping[str, Mapping[str, Scalar]]
    attends: bool = False
    crosses: bool = True


class Catalogue(Mapping[str, Entry]):
    """Every knob by full name: `method`, `loss`, `<method>.<knob>`, `<loss>.<knob>`, `<policy or recipe knob>`.

    Args:
        plugins: what there is beside the lists of this package.

    Raises:
        SpecError: two plug-ins have one name, or a knob of one has the name of another kind's.
    """

    def __init__(self, plugins: tuple[Plugin, ...] = ()) -> None:
        plugins = tuple(plugin for plugin in plugins if plugin.kind != "evaluations")  # whose settings are no knobs
        self.plugins = plugins
        self.methods = {
            name: Method(**{fact: getattr(mixer, fact) for fact in Method.__dataclass_fields__})
            for name, mixer in MIXERS.items()
        } | {
            plugin.name: Method(**{k: v for k, v in plugin.facts.items() if k in Method.__dataclass_fields__})
            for plugin in plugins
            if plugin.kind == "mixers"
        }
        self.losses = self._by_name(LOSSES, "losses")
        self.algorithms = self._by_name({name: one.knobs for name, one in ALGORITHMS.items()}, "algorithms")
        self.crossing, self.starting = (
            {name for name, one in ALGORITHMS.items() if getattr(one, fact)}
            | {one.name for one in plugins if one.kind == "algorithms" and one.facts.get(fact)}
            for fact in ("crosses", "pretrained")
        )
        self.metrics = METRICS | {one.value: one.facts["goal"] for one in plugins if one.kind == "metrics"}
        self.brought = {name: one.algorithm for name, one in self.methods.items() if one.algorithm != SUPERVISED}
        self._entries = {name: replace(entry, brought=self.brought) for name, entry in self._made().items()}
        self._active: dict[tuple[str, str, str], dict[str, Knob]] = {}
        self._check_plugins()

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _by_name(self, ours: Mapping[str, type], kind: str) -> dict[str, dict[str, Knob]]:
        """The knobs of each of a kind, ours first."""
        found = {name: knobs_of(owner) for name, owner in ours.items()}
        return found | {plugin.name: plugin.declared for plugin in self.plugins if plugin.kind == kind}

    def _made(self) -> dict[str, Entry]:
        def one_of(name: str, default: str, note: str, ours: Iterable[str], all_of: Iterable[str], **more: Any) -> Knob:
            return Knob(name, str, default, note, choices=tuple(all_of), search=tuple(ours), **more)

        anywhere = [name for name, mixer in MIXERS.items() if not mixer.attends]
        found = {
            "method": Entry(
                one_of("method", "mixup", "mixing method, or several", anywhere, self.methods, several=True)
            ),
            "loss": Entry(one_of("loss", "mce", "loss of mixed samples", LOSSES, self.losses)),
        }
        free = [name for name in self.algorithms if name not in self.brought.values()]
        if len(free) > 1:
            ours = [name for name in free if name in ALGORITHMS]
            found["algorithm"] = Entry(one_of("algorithm", SUPERVISED, "way of training", ours, free), free=True)
        for name, knobs in self._by_name(MIXERS, "mixers").items():
            found |= {f"{name}.{k}": Entry(declared, method=name) for k, declared in knobs.items()}
            found[f"{name}.weight"] = Entry(WEIGHT, method=name, joint=True)
        for name, knobs in self.losses.items():
            found |= {f"{name}.{k}": Entry(declared, loss=name) for k, declared in knobs.items()}
        for name, knobs in self.algorithms.items():
            found |= {f"{name}.{k}": Entry(declared, algorithm=name) for k, declared in knobs.items()}
        found |= {k: Entry(declared, policy=True) for k, declared in knobs_of(Policy).items()}
        found |= {k: Entry(declared) for k, declared in knobs_of(Recipe).items()}
        backbone = found["backbone"].knob
        own = (plugin.value for plugin in self.plugins if plugin.kind == "backbones")
        packages = tuple(package for package in backbone.packages if package != "own")
        knob = replace(backbone, choices=(*(backbone.choices or ()), *own), packages=packages)
        return found | {"backbone": Entry(knob)}

    def _check_plugins(self) -> None:
        """Refuse what the ledger could not tell apart: knobs of one short name share a column."""
        seen: dict[tuple[str, str], Plugin] = {}
        for plugin in self.plugins:
            other = seen.setdefault((plugin.kind, plugin.name), plugin)
            if other is not plugin:
                raise SpecError(
                    f"{other.ref} and {plugin.ref} are both a {SOURCES[plugin.kind].word} {plugin.name}; rename one"
                )
            if plugin.kind == "mixers" and plugin.facts["algorithm"] not in self.algorithms:
                raise SpecError(
                    f"{plugin.ref}: {unknown('algorithm', plugin.facts['algorithm'], self.algorithms)}; name it in the "
                    "space too, as algorithm: module:Name"
                )
            for short, knob in plugin.declared.items():
                mine = self[f"{plugin.name}.{short}"]
                for name, entry in self.items():
                    if name.rpartition(".")[2] != short or entry is mine:
                        continue
                    group, others = ((e.method is None, e.loss is None, e.algorithm is None) for e in (mine, entry))
                    if group != others or entry.joint:
                        raise SpecError(
                            f"{plugin.ref}: its knob {short} and {name} would share a column of the ledger; rename it"
                        )
                    if entry.knob.kind is not knob.kind:
                        raise SpecError(
                            f"{plugin.ref}: its knob {short} is {knob.kind.__name__}, and that of {name}, with which "
                            f"it shares a column of the ledger, {entry.knob.kind.__name__}; rename it, or make it "
                            f"{entry.knob.kind.__name__}"
                        )

    def published(self, owner: str | None) -> Mapping[str, Any]:
        """The settings of published tables that a method or a loss brings along."""
        if owner in self.methods:
            return self.methods[owner].published
        if owner in LOSSES:
            return LOSSES[owner].published
        facts = (one.facts for one in self.plugins if (one.kind, one.name) == ("losses", owner))
        return next((fact["published"] for fact in facts), {})

    # What values are ------------------------------------------------------------------------------------------

    def joint_column_of(self, name: str) -> str | None:
        """The ledger column of a knob of one of several joined methods; None: only the config holds it."""
        owner, _, short = name.rpartition(".")
        return f"knob.{name}" if owner in self.methods and short in ("alpha", "weight") else None

    def algorithm_of(self, values: Mapping[str, Scalar]) -> str:
        """The way of training under the knobs that `values` holds: the method's own, or the one that is chosen."""
        own = self.methods[methods_of(values["method"])[0]].algorithm
        return str(values.get("algorithm", SUPERVISED)) if own == SUPERVISED else own

    def mixes(self, method: object) -> bool:
        """Whether a method, or any of several joined by +, changes labels."""
        return any(self.methods[name].mixes for name in methods_of(method))

    def active(self, method: str, loss: str, algorithm: str) -> dict[str, Knob]:
        """The knobs that have an effect."""
        key = (method, loss, algorithm)
        if key not in self._active:
            values: dict[str, Scalar] = {"method": method, "loss": loss, "algorithm": algorithm}
            self._active[key] = {name: entry.knob for name, entry in self.items() if entry.active(values)}
        return self._active[key]

    def complete(self, values: Mapping[str, object], where: str) -> dict[str, Scalar]:
        """Check knob `values` given by full name and write out every default of the active knobs.

        A method that does not mix has only one loss, `mce`.

        Raises:
            SpecError: a name is unknown, a value illegal, or a knob has no effect with this method and loss.
        """
        for name in values:
            if name not in self:
                raise SpecError(f"{where}: {unknown('knob', name, self)}")
        chosen = {name: self[name].knob.check(values.get(name, self[name].knob.default), f"{where}: {name}")
                  for name in ("method", "loss")}  # fmt: skip
        if not self.mixes(chosen["method"]) and chosen["loss"] != "mce":
            raise SpecError(f"{where}: loss {chosen['loss']} has no effect with method {chosen['method']}; use mce")
        wanted = dict(chosen)
        if "algorithm" in values:
            wanted["algorithm"] = self["algorithm"].knob.check(values["algorithm"], f"{where}: algorithm")
        algorithm = self.algorithm_of(wanted)
        active = self.active(str(chosen["method"]), str(chosen["loss"]), algorithm)
        for name in values:
            if name not in active:
                beside = f"method {chosen['method']} and loss {chosen['loss']}"
                if self[name].algorithm or self[name].free:
                    beside = f"method {chosen['method']} and algorithm {algorithm}"
                raise SpecError(f"{where}: {name} has no effect with {beside}; drop it")
        for name, knob in active.items():
            if name not in chosen:
                chosen[name] = knob.check(values[name], f"{where}: {name}") if name in values else knob.default
        self._check_shares(chosen, where)
        if algorithm in self.starting and not chosen["weights"]:
            raise SpecError(
                f"{where}: algorithm {algorithm} starts from pretrained weights; give weights: FILE, or library"
            )
        if algorithm in self.crossing:
            self._check_crossing(chosen, algorithm, where)
        self.check_backbone(chosen, where)
        if float(chosen["warmup_epochs"]) >= int(chosen["epochs"]):
            raise SpecError(
                f"{where}: warmup_epochs = {chosen['warmup_epochs']:g} must be below epochs = {chosen['epochs']}; "
                "lower it"
            )
        return chosen

    def _check_shares(self, values: Mapping[str, Scalar], where: str) -> None:
        """Refuse part of a batch for a method that needs all of it, and weights that leave nothing to draw."""
        methods = methods_of(values["method"])
        led = [name for name in methods if name in self.brought]
        for name, plain in (("mix_prob", 1.0), ("repeats", 1), ("mix_until", 1.0)):
            if led and values[name] != plain:
                raise SpecError(f"{where}: {name} = {values[name]} does not go with {led[0]}; drop it")
        if led and len(methods) > 1:
            raise SpecError(f"{where}: {led[0]} trains in a way of its own and cannot be joined; use it alone")
        alone = [name for name in methods if self.methods[name].whole and values.get("switch", "batch") != "batch"]
        if alone and (len(methods) > 1 or float(values["mix_prob"]) < 1):
            raise SpecError(
                f"{where}: switch = {values['switch']!r} gives {alone[0]} part of a batch, and it takes a whole one; "
                f"use switch: batch, or leave {alone[0]} out of method"
            )
        if len(methods) > 1 and not any(float(values[f"{name}.weight"]) > 0 for name in methods):
            raise SpecError(f"{where}: all weights of {values['method']} are 0; give one of them a positive weight")

    def _check_crossing(self, values: Mapping[str, Scalar], algorithm: str, where: str) -> None:
        """Refuse what cannot mix labelled images with unlabelled ones."""
        for name in methods_of(values["method"]):
            if not self.methods[name].crosses:
                able = [other for other, method in self.methods.items() if method.crosses]
                raise SpecError(
                    f"{where}: method {name} does not go with algorithm {algorithm}, which mixes labelled images with "
                    f"unlabelled ones; use one of {', '.join(able)}"
                )
        for name, plain in (("switch", "batch"), ("repeats", 1), ("trivialmix.pool", "cheap")):
            if values.get(name, plain) != plain:
                raise SpecError(
                    f"{where}: {name} = {values[name]} does not go with algorithm {algorithm}; use {name}={plain}"
                )

    def check_backbone(self, values: Mapping[str, Scalar], where: str) -> None:
        """Refuse knobs that the backbone cannot follow; a knob that `values` lacks has its default.

        Raises:
            SpecError: a width it cannot have, a stage that cannot be mixed, a knob without effect.
        """
        backbone = str(values["backbone"])
        network = network_of(backbone, self.plugins)
        for name, value in values.items():
            if name == "method":
                for method in methods_of(value):
                    if self.methods[method].attends and not network.attends:
                        raise SpecError(f"{where}: method {method} needs another backbone: {backbone} {NO_CLASS_TOKEN}")
            elif name.endswith(".stages"):
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
            elif name == "width" and not network.wide and value != self[name].knob.default:
                raise SpecError(f"{where}: width = {value} has no effect with backbone {backbone}; drop it")
            elif name == "width" and int(value) % network.width:
                raise SpecError(
                    f"{where}: width = {value} must be a multiple of {network.width} with backbone {backbone}; "
                    "64 is the published network"
                )
            elif name in ("stem", "drop_path") and value != self[name].knob.default and not getattr(network, name):
                raise SpecError(f"{where}: {name} = {value} has no effect with backbone {backbone}; drop it")


@lru_cache(maxsize=64)
def catalogue(plugins: tuple[Plugin, ...] = ()) -> Catalogue:
    """Every knob there is beside what `plugins` bring along."""
    return Catalogue(plugins)


def column_of(name: str) -> str:
    """The ledger column of a knob given by its full name (`mixup.alpha` -> `alpha`, `lr` -> `knob.lr`)."""
    short = name.rpartition(".")[2]
    return short if short in CANONICAL else f"knob.{short}"
