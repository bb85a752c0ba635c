"""How a method does when nobody tunes it: the scorecard.

Everything is under the prior that the study declares: the ranges from which its configs were drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import hypot, isfinite, nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from automixsearch.analysis import intervals
from automixsearch.analysis.cross_task import price, price_interval
from automixsearch.analysis.estimate import Estimate, unit_of
from automixsearch.analysis.failures import Failures
from automixsearch.analysis.seed_noise import scores_of
from automixsearch.analysis.selection import Frame, Sample, check_drawn, config_key, take_sample
from automixsearch.errors import StudyError

if TYPE_CHECKING:
    from automixsearch.results.study import Study

BEST_OF = (1, 4, 8, 16)


@dataclass(frozen=True)
class Scorecard:
    """One method under the prior, each figure with its 95 % interval.

    configs, runs: configs drawn from the prior, and runs of all purposes that the card rests on.
    mean: of a config drawn blindly, of those that lived. failed: the share of configs of which a run failed, 0 to 1.
        mean_counted: the mean with each of these at the worst score of the study.
    cvar: mean of the worst fifth, freed of seed noise.
    s_hp: standard deviation over configs, freed of seed noise: what a hyperparameter is worth.
    noise: standard deviation of one config over seeds. icc: share of S_hp^2 in the variance of single runs.
    top: the best config, by fresh runs of the best few. share: configs within `delta` of it.
    best_of: expected best score of n configs, as a search of n would show it. worth: what that config scores
        on a fresh seed. median_best: the median of best_of. band: the same with an exact band that holds for all n at
        once; an end that so few configs cannot give is NaN. gain: best of 16 over best of 1.
    """

    method: str
    metric: str
    configs: int
    runs: int
    failed: Estimate
    mean: Estimate
    mean_counted: Estimate
    cvar: Estimate
    s_hp: Estimate
    noise: Estimate
    icc: Estimate
    top: Estimate
    share: Estimate
    delta: float
    best_of: dict[int, Estimate]
    worth: dict[int, Estimate]
    median_best: dict[int, Estimate]
    band: dict[int, Estimate]
    gain: Estimate
    notes: tuple[str, ...] = field(default=())

    def rows(self) -> list[dict[str, Any]]:
        """One row, each estimate as three columns."""
        row: dict[str, Any] = {name: getattr(self, name) for name in ("method", "metric", "configs", "runs")}
        for name in ("failed", "mean", "mean_counted", "cvar", "s_hp", "noise", "icc", "top", "share", "gain"):
            row |= getattr(self, name).row(name)
        row["delta"] = self.delta
        for name in ("best_of", "worth", "median_best", "band"):
            for n, estimate in getattr(self, name).items():
                row |= estimate.row(f"{name}_{n}")
        return [row | {"notes": "; ".join(self.notes)}]


def scorecards(
    study: Study,
    metric: str | None = None,
    delta: float | None = None,
    seed: int = 0,
    resamples: int = intervals.RESAMPLES,
) -> list[Scorecard]:
    """The scorecard of every method of a study.

    Args:
        metric: the study's first objective by default.
        delta: what counts as close to the best, in the unit of the metric; by default the study's, or max(0.5,
            twice the standard error of the best), which are in points; for other metrics twice the error.
        seed: of the bootstrap.

    Raises:
        StudyError: as `take_sample` and `check_drawn`.
    """
    check_drawn(study)
    base = take_sample(study, metric)
    more = {purpose: _extra(study, base.metric, purpose) for purpose in ("replicate", "confirm")}
    declared = (study.info.get("design") or {}).get("delta")
    chosen = delta if delta is not None or not unit_of(base.metric) else declared  # which is in points
    return [_card(base, method, more, chosen, np.random.default_rng([seed, i]), resamples)
            for i, method in enumerate(base.methods)]  # fmt: skip


def _extra(study: Study, metric: str, purpose: str) -> Frame | None:
    try:
        return take_sample(study, metric, (purpose,), any_epochs=True).frame
    except StudyError:
        return None


def _card(
    base: Sample,
    method: str,
    more: dict[str, Frame | None],
    delta: float | None,
    rng: np.random.Generator,
    resamples: int,
) -> Scorecard:
    own, notes = base.of(method), []
    replicates, confirmed = (
        own.iloc[:0] if (frame := more[purpose]) is None else frame[frame["method"] == method]
        for purpose in ("replicate", "confirm")
    )
    found = scores_of(own, replicates, confirmed, base.sign)
    y, noise, rest, fresh = found.values, found.noise, found.rest, found.fresh
    if noise.note:
        notes.append(f"{noise.note}: what seeds alone do is unknown, so nothing is freed of it; add replicates")
    if found.note:
        notes.append(found.note)
    clean = intervals.Clean.of(y, rest, found.freedom, found.runs, found.lost, found.scatter)
    top, error = Estimate(nan, note="no confirmation runs"), nan
    if fresh:
        top, error = intervals.top_of(fresh, noise, found.freedom)
    if not fresh:
        notes.append("no confirmation runs: the best of many single runs is an extreme of noise, and no share is given")
    if delta is None:
        least = 0.5 if unit_of(base.metric) else 0.0
        delta = max(least, 2 * sqrt(noise.value / 5)) if isfinite(noise.value) else least
    usable = [n for n in BEST_OF if n <= len(y)]

    def fixed(one: Estimate) -> Estimate:
        return (one if base.sign > 0 else one.flipped()).within(base.legal)

    def score(one: Estimate) -> Estimate:
        return fixed(one.widened(found.level))

    lost = base.failed[base.failed["method"] == method]
    failed = Failures.of(own, lost, drawn=True)
    mean, counted = score(intervals.mean_interval(y, rng, resamples)), Estimate(nan)
    if failed.failed:
        notes.append(f"{method}: {failed} configs failed; all figures but the mean that counts them are of the others")
        worst = base.counted.of(method)
        counted = score(
            intervals.mean_interval(scores_of(worst, replicates, confirmed, base.sign).values, rng, resamples)
        )

    return Scorecard(
        method=method,
        metric=base.metric,
        configs=len(y),
        runs=len(own) + len(replicates) + len(confirmed),
        failed=failed.share,
        mean=mean,
        mean_counted=counted,
        cvar=score(intervals.tail_interval(clean)),
        s_hp=intervals.spread(y, rest, found.runs, found.lost),
        noise=_root(noise),
        icc=intervals.share_of_configs(y, noise, found.runs, found.lost, rest.value),
        top=fixed(top),
        share=intervals.share_interval(clean, top, hypot(error, found.level / 2), delta) if fresh else top,
        delta=delta,
        best_of={n: score(intervals.best_interval(y, n)) for n in usable},
        worth={n: score(intervals.worth_interval(clean, n)) for n in usable},
        median_best={n: score(intervals.median_best(y, n)) for n in usable},
        band={n: score(one) for n, one in intervals.band(y, usable).items()},
        gain=intervals.gain_interval(y, max(BEST_OF)),
        notes=tuple(notes),
    )


def _root(found: Estimate) -> Estimate:
    return Estimate(
        *(sqrt(end) if isfinite(end) else nan for end in (found.value, found.low, found.high)), note=found.note
    )


@dataclass(frozen=True)
class Phi:
    """The price of one setting for all tasks: mean over tasks of the best score minus the best mean score."""

    phi: Estimate
    tasks: tuple[str, ...]
    configs: int
    method: str

    def rows(self) -> list[dict[str, Any]]:
        """One row."""
        return [{"method": self.method, "tasks": ", ".join(self.tasks), "configs": self.configs} | self.phi.row("phi")]


def cross_task(studies: Sequence[Study], metric: str | None = None, seed: int = 0) -> list[Phi]:
    """Phi of every method that all studies have, over at least three tasks with the same configs.

    Phi = mean_e max_l G - max_l mean_e G, G the score of config l on task e, scaled to 0 to 1 on each task. It is that
    of the configs that were run on these tasks; of other tasks three say next to nothing. Its interval:
    `tasks.price_interval`.

    Source: Adkins et al., arXiv 2412.07165.

    Raises:
        StudyError: fewer than three studies, or no configs in common.
    """
    import pandas as pd

    if len(studies) < 3:
        raise StudyError(f"phi asks what one setting for all tasks costs and needs 3 tasks or more, not {len(studies)}")
    columns, noises, sign = {}, {}, 1
    for study in studies:
        sample = take_sample(study, metric)
        sign, frame = sample.sign, sample.frame
        keys = [config_key(text, row, data=False) for text, row in zip(frame["config"], frame["trial_id"], strict=True)]
        columns[study.name] = frame.assign(key=keys).groupby(["method", "key"])["score"].mean()
        again = _extra(study, sample.metric, "replicate")
        for method in sample.methods:
            own = sample.of(method)
            more = own.iloc[:0] if again is None else again[again["method"] == method]
            made = scores_of(own, more, own.iloc[:0], sign)
            noises[study.name, method] = made.rest, made.freedom
    scores = sign * pd.DataFrame(columns).dropna()
    if scores.empty:
        raise StudyError(f"studies {', '.join(columns)} have no config in common; give them the same design and seed")
    rng, found = np.random.default_rng(seed), []
    for method, block in scores.groupby(level="method", sort=False):
        grid, of = block.to_numpy(), [noises[name, str(method)] for name in columns]
        if len(grid) < intervals.LEAST:
            phi = Estimate(float(price(grid)), note=intervals.TOO_FEW)
        elif not all(freedom for _, freedom in of):
            phi = Estimate(float(price(grid)), note="no config was run twice, and noise makes phi larger than it is")
        else:
            phi = price_interval(grid, [noise.value for noise, _ in of], [freedom for _, freedom in of], rng)
        found.append(Phi(phi, tuple(columns), len(grid), str(method)))
    return found
