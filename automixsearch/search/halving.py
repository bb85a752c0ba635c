"""Halving on top of a sampler: configs are trained on short complete schedules first, and the best again, longer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from automixsearch.config.dimensions import scaled
from automixsearch.config.points import suggest, whole
from automixsearch.config.space import METRICS, SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.results.documents import stored_config
from automixsearch.results.exports import Recorder
from automixsearch.search.promotion import Candidate, Move, Promotion
from automixsearch.search.proposer import Proposer
from automixsearch.search.samplers import active_part, sobol_point
from automixsearch.search.task import Task, trial_id_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from automixsearch.config.knobs import Scalar
    from automixsearch.results.store import Store

log = logging.getLogger("ray.automixsearch")  # goes where Ray's messages go, into the log of the study


class Halving(Proposer):
    """Hands out the trials of a search with `scheduler: asha`: new configs and promotions, as `Promotion` says.

    Each training of a config is a trial of its own. With `rungs: cooldown` every trial is a config of its own, which
    `PerMethodASHA` may stop; here it is its turn that counts.

    Optuna hears of a trial what it had at the end of its schedule or after a cool-down, never what it had on the way.
    """

    def __init__(
        self,
        space: SearchSpace,
        store: Store,
        data_fingerprint: str,
        workers: int = 1,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.note, self.move = note, None
        self.metric = space.objective[0]
        self.sign = 1 if METRICS[self.metric] == "max" else -1
        self.rungs = space.rungs[-1:] if space.branches else space.rungs
        super().__init__(space, store, data_fingerprint, workers)
        methods = tuple(map(str, next(d for d in space.dimensions if d.name == "method").choices or ()))
        self.promotion = Promotion(
            methods,
            len(self.rungs),
            space.scheduler.reduction,
            space.budget.trials,
            space.scheduler.protect,
            0 if space.fidelity is None else space.fidelity.anchors,
        )
        self._replay()
        short = len(methods) * len(self.rungs) - self.promotion.protected
        if short > 0 and not self.handed_out:
            self.notes.append(
                f"{len(methods)} methods at {len(self.rungs)} rungs take {len(methods) * len(self.rungs)} trials, more "
                f"than the {self.promotion.protected} in which each should reach the full schedule; raise the trials"
            )

    def _replay(self) -> None:
        """Let `promotion` know what earlier drivers did."""
        columns = ["number", "trial_id", "state", "method", "rung", "candidate", self.metric]
        past: dict[int, Mapping[str, Any]] = {row["number"]: row for row in self.store.trial_rows(columns)}
        for number in self.unfinished:
            task = self._task(trial_id_of(number))
            if task is not None:
                past[number] = task.row("running")
        for _, row in sorted(past.items()):
            self._begun(row)
            if row["state"] != "running":
                self._ended(row)
        self._judge()

    def _begun(self, row: Mapping[str, Any]) -> None:
        candidate, rung = row["candidate"] or row["trial_id"], row["rung"] or 0
        self.promotion.begin(candidate, row["number"], row["method"], rung)

    def _ended(self, row: Mapping[str, Any]) -> None:
        value = row[self.metric] if row["state"] != "failed" else None
        score = None if value is None else self.sign * value
        self.promotion.end(row["candidate"] or row["trial_id"], row["rung"] or 0, score)

    # Proposing -------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether trials will follow that cannot be named before others have ended."""
        return self.handed_out < self.space.budget.trials

    def next(self) -> Task | None:
        """The next trial to run; None where there is none, or (see `waiting`) none yet."""
        if not self.unfinished and self.handed_out < self.space.budget.trials:
            self.move = self.promotion.next(self.handed_out)
            if self.move is None:
                return None
        return super().next()

    def _ask(self, number: int) -> Task:
        move, self.move = self.move or self.promotion.next(number) or Move(0), None
        if move.candidate is None:
            trial, values = self._propose(number, self._point(move.method))
            known = self._task_of(number, values)
        else:
            row = self.store.trial_row(move.candidate)
            assert row is not None  # what waits has ended
            config = stored_config(row["config"], f"study {self.store.study}, trial {row['trial_id']}")
            values = whole(self.space, config.knobs)
            recorder = Recorder(values)
            suggest(self.space, recorder)
            trial, _ = self._propose(number, recorder.params)
            known = replace(self._task_of(number, values), config=_with_knobs(config, values))
        task = self._at_rung(known, move.rung, move.candidate or known.trial_id)
        for name in ("config_id", "rung", "candidate"):
            trial.set_user_attr(name, task.config.config_id if name == "config_id" else getattr(task, name))
        task.save(self.store)
        self._begun(task.row("running"))
        return task

    def _at_rung(self, task: Task, rung: int, candidate: str) -> Task:
        """A trial of the full schedule as it is trained at a rung."""
        if self.space.branches:
            return task
        config, reason = task.config, None
        if rung < len(self.rungs) - 1:
            config = _with_knobs(config, scaled(config.knobs, self.rungs[rung]))
            reason = f"a short schedule, rung {rung + 1} of {len(self.rungs)}"
        return replace(task, config=config, rung=rung, candidate=candidate, stop_reason=reason)

    def _point(self, method: str | None) -> dict[str, Scalar] | None:
        """What is given of a new config: a prior that is not tried yet, the method whose turn it is, or nothing."""
        tried = dict.fromkeys(self.promotion.methods, 0)
        for point in self.priors:
            own = str(point.get("method", self.promotion.methods[0]))
            tried[own] += 1
            if own == (method or own) and tried[own] > self.promotion.count(own):
                return point if own == self.promotion.methods[0] and len(tried) == 1 else {**point, "method": own}
        given: dict[str, Scalar] = {} if method is None or len(tried) == 1 else {"method": method}
        if self.space.sampler.name == "sobol":
            return active_part(self.space, sobol_point(self.space, len(self.promotion.candidates)) | given)
        return given or None

    def _lost(self, trial: FrozenTrial) -> Task:
        candidate, rung = trial.user_attrs.get("candidate"), trial.user_attrs.get("rung") or 0
        task = super()._lost(trial)
        if candidate is None:
            return task
        first = self._task_of(int(candidate[1:]), suggest(self.space, Recorder(trial.params)))
        return self._at_rung(replace(task, config=first.config), rung, candidate)

    # Telling ---------------------------------------------------------------------------------------------------

    def report(self, number: int, epoch: int, value: float | None) -> None:
        """Nothing: what a trial has on its way is not compared."""

    def _catch_up(self, task: Task, row: Mapping[str, Any]) -> None:
        for epoch, value in self._steps(row).items():
            self.view.report(task.number, epoch, value)

    def _heard(self, ids: list[str], rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
        return {row["trial_id"]: self._steps(row) for row in rows}

    def _steps(self, row: Mapping[str, Any]) -> dict[int, float]:
        """What may be compared of an ended trial, by epoch: after its cool-downs, or at the end of its schedule."""
        value = row[self.metric] if row["state"] != "failed" and row["epochs_run"] else None
        steps = self._cooled(row["trial_id"], "epoch") if self.space.branches else {}
        if row["state"] == "complete" or not self.space.branches:
            steps |= {} if value is None else {row["epochs_run"]: value}
        return steps

    def _cooled(self, trial_id: str, by: str) -> dict[int, float]:
        """The scores of the cool-downs of a trial, by `epoch` or `rung`."""
        name = f"{self.metric}.cooled"
        rows = self.store.epoch_rows(trial_id)
        return {row[by]: row[name] for row in rows if row["rung"] is not None and row[name] is not None}

    def finish(self, task: Task) -> dict[str, Any] | None:
        """Tell Optuna the end of a trial as its ledger row has it; None where there is no row."""
        row = super().finish(task)
        if row is not None:
            self._ended(row)
            self._judge()
        return row

    # Whether the rungs tell anything ---------------------------------------------------------------------------

    def spares(self, trial_id: str) -> bool:
        """Whether a trial must not be stopped, whatever its rank."""
        return bool(self.promotion.stopped) or not self.promotion.judged

    def _judge(self) -> None:
        """When all anchors have ended: whether halving goes on. The same anchors give the same answer always."""
        demand = self.space.fidelity
        anchors = None if self.promotion.judged or demand is None else self.promotion.anchored()
        if anchors is None or demand is None:
            return
        import numpy as np

        from automixsearch.analysis.fidelity import rank_correlation

        found, full = [], self.space.budget.epochs
        for rung, epochs in enumerate(self.space.rungs[:-1]):
            pairs = [pair for one in anchors if (pair := self._pair(one, rung)) is not None]
            rho = rank_correlation(*np.array(pairs).T) if pairs else None
            low, high = (rho.low, rho.high) if rho else (float("nan"), float("nan"))
            what = f"rank correlation of {epochs} with {full} epochs over {len(pairs)} configs: "
            what += f"{rho.value:.2f} ({low:.2f} to {high:.2f})" if rho and low == low else "it cannot be told"
            found.append({"epochs": epochs, "configs": len(pairs), "low": low, "high": high, "said": what})
        self.promotion.judged = True
        poor = [one["said"] for one in found if not one["low"] >= demand.min_lower_bound]
        if poor:
            self.promotion.stopped = (
                f"{poor[0]}; the lower end is not {demand.min_lower_bound:g} or more: halving stops, and every further "
                "config is trained in full"
            )
        verdict = self.promotion.stopped or f"{'; '.join(one['said'] for one in found)}: halving goes on"
        self.note(verdict)
        log.info(verdict)
        content = self.store.info()
        content["halving"] = {"stopped": bool(poor), "why": verdict}
        self.store.put_document("study.json", content)

    def _pair(self, one: Candidate, rung: int) -> tuple[float, float] | None:
        """The scores of an anchor at a rung and in full."""
        scores, last = one.scores, one.scores[self.promotion.top]
        if self.space.branches:
            scores = {r: self.sign * value for r, value in self._cooled(one.name, "rung").items()}
        return (scores[rung], last) if rung in scores else None


def _with_knobs(config: TrialConfig, knobs: Mapping[str, Scalar]) -> TrialConfig:
    fields = {name: getattr(config, name) for name in TrialConfig.model_fields}
    return TrialConfig(**{**fields, "knobs": dict(knobs)})
