"""What each part of a method contributes, with what the runs can and cannot tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import factorial, isfinite, nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from automixsearch.analysis.compare import adjusted, student
from automixsearch.analysis.contrasts import LEAST_REPLICATES, Arms
from automixsearch.analysis.estimate import Estimate, p_text
from automixsearch.analysis.power import detectable_at
from automixsearch.analysis.selection import CENTRE, Frame, Sample, take_sample
from automixsearch.analysis.units import TOLERANCE, image_error
from automixsearch.analysis.verdict import Verdict, judge, margin_of
from automixsearch.config.catalogue import column_of
from automixsearch.errors import StudyError
from automixsearch.show import brief

if TYPE_CHECKING:
    from automixsearch.results.study import Study

MOST_SHAPLEY = 5
"""Factors up to which all orders are looked at."""
WORDS = {Verdict.BETTER: "helps", Verdict.WORSE: "hurts"}


@dataclass(frozen=True)
class Effect:
    """What a part does: the score with it minus the score without it.

    name: a factor, or two joined by `:`, whose effect is half of what the one adds to the effect of the other.
    runs, device_h: behind it. mde: the smallest effect that they find with 80 % power. against: the arms compared,
    where there are two. aliases: effects that it cannot be told from.
    """

    name: str
    stratum: str
    effect: Estimate
    p: float
    p_holm: float
    p_equivalent: float
    mde: float
    runs: int
    device_h: float
    verdict: Verdict
    against: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The verdict: helps, hurts, equivalent or unresolved."""
        return WORDS.get(self.verdict, str(self.verdict))

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        where = f" in {self.stratum}" if self.stratum else ""
        found = f"{self.effect} points, {self.runs} runs"
        if self.verdict in WORDS:
            return f"{self.name} {self.word}{where} ({found}, Holm {p_text(self.p_holm)})."
        if self.verdict is Verdict.EQUIVALENT:
            return f"{self.name} makes no difference that matters{where} ({found})."
        more = f"; these runs find {self.mde:.2f} with 80 % power" if isfinite(self.mde) else ""
        return f"Unresolved: {self.name}{where} ({found}{more})."

    def row(self) -> dict[str, Any]:
        """Plain values."""
        names = ("p", "p_holm", "p_equivalent", "mde", "runs", "device_h")
        return (
            {"factor": self.name, "stratum": self.stratum}
            | self.effect.row("effect")
            | {name: getattr(self, name) for name in names}
            | {"verdict": self.word, "against": self.against, "aliases": " ".join(self.aliases)}
        )


@dataclass(frozen=True)
class Step:
    """One arm of a path: its mean score, and what it adds to the arm before it."""

    arm: str
    stratum: str
    score: Estimate
    step: Estimate

    def row(self) -> dict[str, Any]:
        """Plain values."""
        return {"arm": self.arm, "stratum": self.stratum} | self.score.row("score") | self.step.row("step")


@dataclass(frozen=True)
class Ablation:
    """The parts of a method.

    effects: of the single factors. interactions: of pairs, in factorials. shapley: the credit of each factor averaged
    over all orders in which they can be added, in full factorials. path: the declared order. Of curves, effects are
    those of values against the centre, and the path is all arms, each against it.
    """

    design: str
    metric: str
    margin: float
    effects: tuple[Effect, ...]
    interactions: tuple[Effect, ...]
    shapley: tuple[Effect, ...]
    path: tuple[Step, ...]
    aliases: Mapping[str, Sequence[str]]
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """One row per effect; `kind` is main, interaction or shapley."""
        kinds = {"main": self.effects, "interaction": self.interactions, "shapley": self.shapley}
        return [{"kind": kind} | effect.row() for kind, found in kinds.items() for effect in found]

    def path_rows(self) -> list[dict[str, Any]]:
        """One row per arm of the path."""
        return [step.row() for step in self.path]


@dataclass(frozen=True)
class _Fit:
    """The arms by their names, with what was spent on each."""

    names: list[str]
    arms: Arms
    counts: dict[str, int]
    device_s: dict[str, float]
    quantum: float
    equal: bool
    """Whether all scores are equal, which says nothing about their noise."""

    def contrast(self, weights: Mapping[str, float], margin: float = 0.0) -> tuple[Estimate, float, float, float]:
        """A weighted sum of named arms as `student` has it, and the smallest that is found with 80 % power."""
        c = np.array([weights.get(name, 0.0) for name in self.names])
        value, error, freedom = self.arms.contrast(c)
        if freedom < 1 or self.equal:
            note = "all scores are equal" if self.equal else "no run was repeated"
            return Estimate(value, note=f"{note}: there is no error to compare with"), nan, nan, nan
        least = image_error(value, self.quantum, self.arms.weight(c))
        return *student(value, error, freedom, margin, least), detectable_at(max(error, least), freedom)


def ablation(study: Study, metric: str | None = None, margin: float | None = None) -> Ablation:
    """The effects of the factors of a study, by the design that it was run with.

    Runs of all arms share seeds and splits. The error of an effect is from what is left of the scores of its arms when
    arm and seed are known, for each arm by itself (from 3 replicates on), with Welch's degrees of freedom: `Arms`.

    Source: two-level factorials, Box, Hunter and Hunter, Statistics for Experimenters, chapters 5 and 6; Shapley,
        Contributions to the Theory of Games II (1953).

    Raises:
        StudyError: as `take_sample`; the study is no ablation.
    """
    design = study.info.get("design") or {}
    factors, name = list(design.get("factors") or {}), str(design.get("name"))
    if not factors and name != "curve":
        raise StudyError(
            f"study {study.name}: it switches no parts on or off, so it is no ablation; run one of design factorial, "
            "one_out, one_in or path, or compare its methods with automixsearch compare"
        )
    sample = take_sample(study, metric)
    return of_sample(sample, design, margin_of(study, sample.metric, margin))


def of_sample(sample: Sample, design: Mapping[str, Any], margin: float) -> Ablation:
    """As `ablation`, of runs at hand and the `design` of their study.json.

    Where runs failed, a verdict stands only if it is the same with each failure at the worst score of the study.
    """
    plain = _of_frame(sample, design, margin)
    if not len(sample.failed):
        return plain
    counted = _of_frame(sample.counted, design, margin)

    def agreed(kind: str) -> tuple[Effect, ...]:
        other = {(one.stratum, one.name): one.verdict for one in getattr(counted, kind)}
        effects: tuple[Effect, ...] = getattr(plain, kind)
        return tuple(
            one if other.get((one.stratum, one.name)) is one.verdict else replace(one, verdict=Verdict.UNRESOLVED)
            for one in effects
        )

    arms = sample.failed.groupby(["stratum", "arm"], sort=False).size()
    several = sample.frame["stratum"].nunique() > 1
    lost = ", ".join(f"{count} of {f'{stratum}: ' if several else ''}{arm}" for (stratum, arm), count in arms.items())
    note = f"runs failed ({lost}); a verdict stands only where it is the same with each of them at the worst score seen"
    kinds = {kind: agreed(kind) for kind in ("effects", "interactions", "shapley")}
    return replace(plain, **kinds, notes=(*plain.notes, note))


def _of_frame(sample: Sample, design: Mapping[str, Any], margin: float) -> Ablation:
    factors, name = list(design.get("factors") or {}), str(design.get("name"))
    strata = list(dict.fromkeys(sample.frame["stratum"]))
    effects, interactions, shapley, path, notes = [], [], [], [], []
    for stratum in strata:
        frame = sample.frame[sample.frame["stratum"] == stratum]
        fit, note = _fit(frame, factors, sample.quantum)
        notes += [f"{stratum}: {text}" if len(strata) > 1 else text for text in (note, _unlike(fit)) if text]
        levels = {
            arm: frozenset(f for f in factors if part["levels"].iloc[0].get(f)) for arm, part in frame.groupby("arm")
        }
        judged = _Judge(fit, stratum, sample.sign, margin)
        if name == "curve":
            if CENTRE in fit.names:
                others = [arm for arm in fit.names if arm != CENTRE]
                effects += [judged(arm, {arm: 1.0, CENTRE: -1.0}, f"{arm} - {CENTRE}") for arm in others]
                steps = [_step(fit, arm, CENTRE, stratum) for arm in (CENTRE, *others)]
                path += [replace(steps[0], arm=_centre(frame, design.get("vary") or ())), *steps[1:]]
        elif name == "factorial":
            needs = _needs(design)
            full = not design.get("aliases")
            alias = {key: tuple(found) for key, found in (design.get("aliases") or {}).items()}
            for factor in factors:
                weights = _main(levels, factor, needs, full)
                effects += [judged(factor, weights, aliases=alias.get(factor, ()))] if weights else []
            for f, g in combinations(factors, 2):
                weights = _pair(levels, f, g, full)
                found = alias.get(f"{f}:{g}", alias.get(f"{g}:{f}", ()))
                interactions += [judged(f"{f}:{g}", weights, aliases=found)] if weights else []
            if full and len(factors) <= MOST_SHAPLEY:
                weights_of = {f: _shapley(levels, factors, f, needs) for f in factors}
                shapley += [judged(f, weights) for f, weights in weights_of.items() if weights]
            if full:
                path += _path(fit, levels, list(design.get("order") or factors), stratum)
        else:
            for arm, other in (design.get("against") or {}).items():
                if arm in levels and other in levels:
                    turn = -1.0 if len(levels[arm]) < len(levels[other]) else 1.0
                    names = sorted(levels[arm] ^ levels[other], key=factors.index)
                    label = "+".join(names) if len(names) > 1 else names[0]
                    both = f"{other} - {arm}" if turn < 0 else f"{arm} - {other}"
                    effects.append(judged(label, {arm: turn, other: -turn}, both))
            if name == "path":
                path += _path(fit, levels, list(design.get("order") or factors), stratum)
    return Ablation(
        name, sample.metric, margin, _family(effects, sample.sign), _family(interactions, sample.sign),
        _family(shapley, sample.sign), tuple(path), dict(design.get("aliases") or {}), tuple(notes),
    )  # fmt: skip


class _Judge:
    """From weights of arms to an effect, its verdict still open."""

    def __init__(self, fit: _Fit, stratum: str, sign: int, margin: float) -> None:
        self.fit, self.stratum, self.sign, self.margin = fit, stratum, sign, margin

    def __call__(
        self, name: str, weights: Mapping[str, float], against: str = "", aliases: tuple[str, ...] = ()
    ) -> Effect:
        fit = self.fit
        estimate, p, alike, mde = fit.contrast(weights, self.margin)
        used = [arm for arm, weight in weights.items() if weight]
        runs = sum(fit.counts[arm] for arm in used)
        hours = sum(fit.device_s[arm] for arm in used) / 3600
        return Effect(name, self.stratum, estimate, p, p, alike, mde, runs, hours, Verdict.UNRESOLVED, against, aliases)


def _family(effects: Sequence[Effect], sign: int) -> tuple[Effect, ...]:
    tested, alike = adjusted([one.p for one in effects]), adjusted([one.p_equivalent for one in effects])
    return tuple(
        replace(one, p_holm=p, p_equivalent=q, verdict=judge(sign * one.effect.value, p, q))
        for one, p, q in zip(effects, tested, alike, strict=True)
    )


def _fit(frame: Frame, factors: Sequence[str], quantum: float) -> tuple[_Fit, str]:
    """The arms, and what has to be said of their errors.

    Where nothing was repeated, the error is what interactions of three and more factors leave, in factorials.
    """
    names = list(dict.fromkeys(frame["arm"]))
    block = frame.groupby(["seed", "split_seed"], sort=False).ngroup().to_numpy()
    place = frame["arm"].map(names.index).to_numpy()
    arms = Arms.of(place, block, frame["score"].to_numpy(float), _higher_order(frame, factors))
    equal = len(frame) > 1 and float(np.ptp(frame["score"])) < TOLERANCE
    note = "all scores are equal, which says nothing about their noise: no verdict" if equal else ""
    if not arms.repeated:
        note = (
            "no run was repeated: the error is taken from interactions of three and more factors"
            if arms.freedom
            else "no run was repeated, so nothing can be told from noise; use replicates: 2 or more"
        )
    elif block.max() + 1 < LEAST_REPLICATES and not equal:
        note = f"with fewer than {LEAST_REPLICATES} replicates the arms are taken to scatter alike"
    counts, device = frame["arm"].value_counts().to_dict(), frame.groupby("arm")["device_s"].sum().to_dict()
    return _Fit(names, arms, counts, device, quantum, equal), note if len(
        names
    ) > 1 else ""  # one arm is compared with nothing


def _unlike(fit: _Fit) -> str:
    """What to look at: an arm whose runs scatter more than those of the others; F test, Bonferroni over arms."""
    arms = fit.arms
    squares, freedom = arms.own @ arms.residual**2, arms.own @ arms.kept
    others, rest = squares.sum() - squares, freedom.sum() - freedom
    for name, *one in zip(fit.names, squares, freedom, others, rest, strict=True):
        if min(one[1:]) < 1e-9 or min(one[1], one[3]) < 1:
            continue
        ratio = one[0] / one[1] / (one[2] / one[3])
        if len(fit.names) * stats.f.sf(ratio, one[1], one[3]) < 0.01:
            return f"runs of {name} scatter {sqrt(ratio):.1f} times as much as the others; look at them"
    return ""


def _higher_order(frame: Frame, factors: Sequence[str]) -> tuple[float, int]:
    if not factors:
        return nan, 0
    signs = np.array([[1.0 if levels.get(f) else -1.0 for f in factors] for levels in frame["levels"]])
    products = [signs[:, i] * signs[:, j] for i, j in combinations(range(len(factors)), 2)]
    x = np.column_stack([np.ones(len(signs)), signs, *products])
    freedom = len(x) - int(np.linalg.matrix_rank(x))
    y = frame["score"].to_numpy(float)
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    return float(((y - x @ beta) ** 2).sum()), freedom


Levels = Mapping[str, frozenset[str]]


def _needs(design: Mapping[str, Any]) -> dict[str, set[str]]:
    """All that must be on for a factor to mean something."""
    direct = {name: set(factor.get("needs") or ()) for name, factor in design["factors"].items()}

    def closed(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
        new = direct[name] - seen
        return new.union(*(closed(other, seen | new) for other in new)) if new else set()

    return {name: closed(name) for name in direct}


def _main(levels: Levels, factor: str, needs: Mapping[str, set[str]], full: bool) -> dict[str, float]:
    """Weights of the arms: mean with the factor minus mean without it, over pairs that differ in nothing else.

    In a fraction there are no such pairs; the two halves are balanced over all other factors.
    """
    if not full:
        on = [arm for arm, own in levels.items() if factor in own]
        off = [arm for arm in levels if arm not in on]
        return {arm: 1 / len(on) for arm in on} | {arm: -1 / len(off) for arm in off} if on and off else {}
    arm_of = {own: arm for arm, own in levels.items()}
    pairs = [
        (arm_of[own | {factor}], arm) for own, arm in arm_of.items() if factor not in own and own | {factor} in arm_of
    ]
    return {arm: sign / len(pairs) for pair in pairs for arm, sign in zip(pair, (1.0, -1.0), strict=True)}


def _pair(levels: Levels, f: str, g: str, full: bool) -> dict[str, float]:
    """Weights of the interaction: mean where both or neither are on, minus mean where one is."""
    same = {arm: (f in own) == (g in own) for arm, own in levels.items()}
    if not full:
        a, b = sum(same.values()), len(same) - sum(same.values())
        return {arm: 1 / a if both else -1 / b for arm, both in same.items()} if a and b else {}
    arm_of = {own: arm for arm, own in levels.items()}
    squares = [
        [arm_of[own | {f, g}], arm, arm_of[own | {f}], arm_of[own | {g}]]
        for own, arm in arm_of.items()
        if not own & {f, g} and {own | {f}, own | {g}, own | {f, g}} <= arm_of.keys()
    ]
    signs = (0.5, 0.5, -0.5, -0.5)
    return {arm: sign / len(squares) for square in squares for arm, sign in zip(square, signs, strict=True)}


def _shapley(levels: Levels, factors: Sequence[str], factor: str, needs: Mapping[str, set[str]]) -> dict[str, float]:
    """Weights of the Shapley value: what the factor adds, averaged over all orders.

    A set with a part whose needs are off is worth what its working parts are.
    """
    arm_of = {own: arm for arm, own in levels.items()}
    k, weights = len(factors), dict.fromkeys(levels, 0.0)
    others = [name for name in factors if name != factor]
    for size in range(k):
        share = factorial(size) * factorial(k - size - 1) / factorial(k)
        for chosen in combinations(others, size):
            for own, sign in ((frozenset(chosen) | {factor}, 1), (frozenset(chosen), -1)):
                working = frozenset(name for name in own if needs[name] <= own)
                if working not in arm_of:
                    return {}
                weights[arm_of[working]] += sign * share
    return weights


def _path(fit: _Fit, levels: Levels, order: Sequence[str], stratum: str) -> list[Step]:
    """The arms in which the factors are switched on one after the other."""
    arm_of = {own: arm for arm, own in levels.items()}
    steps, before = [], None
    for count in range(len(order) + 1):
        arm = arm_of.get(frozenset(order[:count]))
        if arm is None:
            continue
        steps.append(_step(fit, arm, before, stratum))
        before = arm
    return steps


def _centre(frame: Frame, vary: Sequence[str]) -> str:
    """The centre by its values: `layer=l3 (centre)`."""
    row = frame[frame["arm"] == CENTRE].iloc[0]
    known = {name.rpartition(".")[2]: row.get(column_of(name) or "") for name in vary}
    return " ".join([*(f"{name}={brief(v)}" for name, v in known.items() if v is not None and v == v), "(centre)"])


def _step(fit: _Fit, arm: str, before: str | None, stratum: str) -> Step:
    score = fit.contrast({arm: 1.0})[0]
    if before in (None, arm):
        return Step(arm, stratum, score, Estimate(nan))
    return Step(arm, stratum, score, fit.contrast({arm: 1.0, before: -1.0})[0])
