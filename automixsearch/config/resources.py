"""What trials hold of a machine or a cluster, and what is kept of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, model_validator

from automixsearch.config.frozen import Frozen
from automixsearch.config.policy import methods_of
from automixsearch.errors import unknown


class Share(Frozen):
    """What the trials of one method hold, where it is not what all others do."""

    cpus: float | None = Field(default=None, gt=0)
    gpus: float | None = Field(default=None, ge=0)


class Most(Frozen):
    """What an autoscaling cluster can grow to."""

    cpus: float = Field(default=0.0, ge=0)
    gpus: float = Field(default=0.0, ge=0)


class Checkpoints(Frozen):
    """What is kept of trainings beside their rows."""

    best: int = Field(default=1, ge=0)
    """Trained weights of so many trials, the best by the first objective."""
    last: int = Field(default=2, ge=1)
    """Checkpoints of each trial under way; where the newest cannot be read the trial goes on from the one before."""


class Resources(Frozen):
    """What one trial holds. With `workers` > 1, cpus and gpus are for each worker."""

    workers: int = Field(default=1, ge=1)
    cpus: float = Field(default=1.0, gt=0)
    gpus: float | Literal["auto"] = "auto"
    """auto: one GPU for each worker where the cluster has GPUs, else none."""
    concurrent: int | Literal["auto"] = "auto"
    executor: Literal["auto", "inline", "train"] = "auto"
    """inline: in a reused Tune actor. train: Ray Train. auto: train where workers > 1."""
    packing: int | Literal["off", "auto"] = "off"
    """How many trials share a GPU, or the memory of a machine where trials hold no GPU. auto: as many as fit by the
    memory that a short probe of each method takes. off: a trial has whole GPUs, and memory is not counted."""
    per_method: dict[str, Share] = Field(default_factory=dict)
    """Methods whose trials hold something else, e.g. {automix: {gpus: 1}}."""
    checkpoints: Checkpoints = Checkpoints()
    """What is stored of trainings."""
    most: Most | None = None
    """What the cluster can grow to, where it has an autoscaler; None: what it has when the search starts."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.executor == "inline" and self.workers > 1:
            raise ValueError(f"executor inline has one worker, not {self.workers}; use executor: train, or workers: 1")
        if self.gpus != "auto" and self.gpus < 0:
            raise ValueError(f"gpus = {self.gpus} must be >= 0")
        if self.concurrent != "auto" and self.concurrent < 1:
            raise ValueError(f"concurrent = {self.concurrent} must be >= 1")
        if isinstance(self.packing, int) and self.packing < 1:
            raise ValueError(f"packing = {self.packing} must be >= 1")
        if self.packing != "off" and self.distributed:
            raise ValueError(
                f"packing = {self.packing} is for trials of one worker, not for workers = {self.workers} (executor "
                f"{self.executor}); use workers: 1, or a fraction in gpus"
            )
        if self.packing != "off" and self.gpus not in ("auto", 0):
            rule = "decides what share of a GPU a trial has"
            raise ValueError(f"packing = {self.packing} {rule}, as gpus = {self.gpus} does; drop one of them")
        return self

    def check_methods(self, methods: Iterable[str]) -> None:
        """Refuse a `per_method` for what is none of the `methods` that there are. Raises: ValueError."""
        for name in (name for method in self.per_method for name in methods_of(method)):
            if name not in methods:
                raise ValueError(f"resources.per_method: {unknown('method', name, methods)}")

    @property
    def distributed(self) -> bool:
        return self.executor == "train" or self.workers > 1

    def share(self, method: str) -> Share:
        """What `per_method` says of a method; of joined ones the most that it says of any of them."""
        if method in self.per_method:
            return self.per_method[method]
        known = [self.per_method[name] for name in methods_of(method) if name in self.per_method]
        return Share(
            cpus=max((share.cpus for share in known if share.cpus is not None), default=None),
            gpus=max((share.gpus for share in known if share.gpus is not None), default=None),
        )
