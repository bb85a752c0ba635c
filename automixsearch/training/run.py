"""One run of one config, epoch by epoch, whatever the way of training: `algorithms` says what a step is.

It reports by yielding, so whoever drives it (a script, a Tune actor, a Ray Train worker) decides what to do with an
epoch, and stops by not asking for the next.
"""

from __future__ import annotations

import io
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from automixsearch.algorithms.base import Batch, Clock, Setup
from automixsearch.archives import check_records
from automixsearch.config.catalogue import PER_EPOCH
from automixsearch.config.recipe import Recipe
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.data.base import ImageSet, Split, channel_statistics, split
from automixsearch.errors import DataError, Diverged, NonFiniteLoss, OtherConfig, SpecError, TrainingError
from automixsearch.evaluation.classification import Answers, Scores, ScoreSums
from automixsearch.models import Backbone, build_model, count_parameters
from automixsearch.models.batch_norm import make_global
from automixsearch.registry import look_up
from automixsearch.seeds import derive_seed
from automixsearch.training.batches import Batches, training_batches
from automixsearch.training.checks import check_batches, check_unlabelled
from automixsearch.training.energy import EnergyMeter
from automixsearch.training.optimiser import learning_rate, make_optimizer, set_lr
from automixsearch.training.world import World

STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)),
}
"""Mean and deviation per channel that published recipes and weights have."""
DIVERGED = 1000.0
"""A run has diverged whose validation loss ends above this many times the loss of guessing, the log of the number of
classes. Before the end it may: the statistics of BatchNorm lag behind at first, and then the loss comes down again."""


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch gave.

    epoch counts from 1. The scores are those of the validation split, in percent but for loss and ece. wall_s and
    device_s (wall_s times the devices held) count from the start of the run, over all resumes, and so does energy_j,
    None where the device does not tell.
    """

    epoch: int
    lr: float
    train_loss: float
    val_top1: float
    val_top5: float
    val_loss: float
    val_ece: float
    wall_s: float
    device_s: float
    images_per_s: float
    energy_j: float | None = None
    val_balanced_accuracy: float = math.nan
    val_macro_f1: float = math.nan
    val_auroc: float | None = None
    extra: dict[str, float] = field(default_factory=dict)
    """What only some algorithms tell, by ledger column."""
    losses: tuple[float, ...] = field(default=(), compare=False)
    """Of every step; not kept in ledger and checkpoint."""

    def row(self) -> dict[str, Any]:
        """All that the ledger keeps, by column."""
        row = asdict(self)
        del row["losses"]
        return row | row.pop("extra")


@dataclass(frozen=True)
class Outcome:
    """What a whole run gave: its last epoch, and the test scores, read at its end.

    test_classes: see `Answers.columns`. The medians are those of the last epochs that the recipe names;
    `test_top1_median`, and the best of the same test scores, are there if it asks for them.
    """

    last: EpochMetrics
    test: Scores
    test_classes: dict[str, Any]
    parameters: int
    val_top1_best: float
    val_top1_median: float
    test_top1_median: float | None = None
    test_top1_best: float | None = None


class TrainingRun:
    """One run of one config on one data set, alone or as one of several workers.

    Every worker sees the same global batches (order, augmentation and mixing are drawn from the same seeds) and
    trains on its share of them, so the number of workers changes speed and nothing else; with `batch_norm: local`
    statistics are those of the worker's share, which is the one stated difference.

    Args:
        branches: epochs after which a cool-down branches off, see `branch`. tested: whether test scores may be read.
        steps: at most so many make an epoch, with as many batches of validation images, to measure what a run takes.
    """

    def __init__(
        self,
        config: TrialConfig,
        image_set: ImageSet,
        device: torch.device | str,
        world: World | None = None,
        gpu_share: float = 1.0,
        *,
        branches: Sequence[int] = (),
        tested: bool = True,
        steps: int | None = None,
    ) -> None:
        self.config, self.recipe = config, config.recipe
        self.branches, self.tested = tuple(branches), tested
        self.world, self.device = world or World(), torch.device(device)
        self.meter = EnergyMeter(self.device, gpu_share)
        self.epoch, self.wall_s = 0, 0.0
        self.energy_j: float | None = 0.0
        self.last: EpochMetrics | None = None
        self.val_top1s: list[float] = []
        self.test_top1s: list[float] = []
        self.answers: Answers | None = None
        named = [plugin for plugin in config.plugins if plugin.kind == "metrics"]
        self.metrics = [look_up("metrics", plugin.value, config.plugins)() for plugin in named]
        self.own = [plugin.value for plugin in named]
        self._load_data(image_set, steps)
        self._build(image_set)

    def _load_data(self, image_set: ImageSet, steps: int | None) -> None:
        recorded = self.config.data_fingerprint
        if recorded not in (None, image_set.fingerprint):
            raise DataError(
                f"the data have fingerprint {image_set.fingerprint}, but the config was made for {recorded}; "
                "point data.path at the same data set"
            )
        self.split = split(image_set, self.config.data.val_fraction, self.config.split_seed)
        train, val, test = self.split.train, self.split.val, image_set.test
        mean, std = self._normalisation(image_set, self.split)
        self.train_side = max(self.recipe.sides(*image_set.train.images.shape[1:3])[0])
        source = image_set.train
        self.train = Batches(source.images, source.labels, mean, std, self.device, train, self.world)
        self.unlabelled, beside = self.train, image_set.unlabelled
        if beside is not None:
            places = beside.places(self.split)
            self.unlabelled = Batches(
                beside.part.images, beside.part.labels, mean, std, self.device, places, self.world
            )
        self.val = Batches(source.images, source.labels, mean, std, self.device, val)
        self.test = Batches(test.images, test.labels, mean, std, self.device)
        check_batches(self.recipe.batch_size, len(train), self.world.size, self.recipe.steps_per_epoch)
        self.steps_per_epoch = self.recipe.steps(len(train))
        if steps is not None:
            self.steps_per_epoch = min(steps, self.steps_per_epoch)
            for part in (self.train, self.val):
                part.shorten(steps * self.recipe.batch_size)

    def _normalisation(self, image_set: ImageSet, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation per channel, in 0..1 units: `data` takes unlabelled images where there are any."""
        if self.recipe.normalisation == "data":
            beside = image_set.unlabelled
            if beside is not None:
                return channel_statistics(beside.part.images, beside.places(split))
            return channel_statistics(image_set.train.images, split.train)
        mean, std = (np.array(values, np.float32) for values in STATISTICS[self.recipe.normalisation])
        channels = image_set.train.images.shape[3]
        if len(mean) != channels:
            raise SpecError(
                f"normalisation = {self.recipe.normalisation} has {len(mean)} channels and the images of "
                f"{image_set.name} have {channels}; use normalisation=data"
            )
        return mean, std

    def _build(self, image_set: ImageSet) -> None:
        recipe, channels, self.classes = self.recipe, image_set.train.images.shape[3], len(image_set.classes)
        model = build_model(recipe, channels, self.classes, self.config.seed, self.train_side, self.config.plugins)
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        setup = Setup(
            config=self.config,
            network=model,
            device=self.device,
            world=self.world,
            classes=self.classes,
            images=len(self.train),
            unlabelled=len(self.unlabelled),
            side=self.train_side,
            normalise=self.normalised,
            mean=self.train.mean,
            std=self.train.std,
        )
        made = look_up("algorithms", self.config.algorithm, self.config.plugins).build(setup)
        if made.needs.unlabelled:
            check_unlabelled(self.config)
        self.algorithm = made.to(self.device).to(memory_format=layout)  # type: ignore[call-overload]
        if self.world.size > 1 and recipe.batch_norm == "global":
            make_global(self.algorithm)
        self.optimizer = make_optimizer(recipe, self.algorithm.parts(), fused=self.device.type == "cuda")

    def epochs(self) -> Iterator[EpochMetrics]:
        """Train the remaining epochs, yielding after each; the run can be saved between any two.

        Raises:
            Diverged: the loss or an output became NaN or infinite, or the validation loss ended beyond any sense.
        """
        if self.epoch == 0:
            self.algorithm.begin(self._training_images)
        while self.epoch < self.recipe.epochs:
            self.last = self._advance(self.recipe)
            if self.epoch in self.branches:
                self.last = self._with_branch(self.last)
            yield self.last
        guessing = math.log(self.classes)
        if self.last and self.last.val_loss > DIVERGED * guessing:
            raise Diverged(
                f"diverged: the validation loss ended at {self.last.val_loss:.3g}, and guessing costs {guessing:.3g}; "
                f"lower lr (now {self.recipe.lr:g}) or the weight of the loss term"
            )

    def _training_images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training images, normalised, and their classes, in order."""
        batches = self.train.in_order(max(256, self.recipe.batch_size))
        return ((self._laid_out(x), y) for x, y in batches)

    def _advance(self, pace: Recipe) -> EpochMetrics:
        """Train one epoch, at the learning rates of `pace`, and validate."""
        recipe, started = self.recipe, time.perf_counter()
        lr = learning_rate(pace, self.epoch * self.steps_per_epoch, self.steps_per_epoch)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            # Of skipped paths; nothing else draws from global state.
            torch.manual_seed(derive_seed(self.config.seed, "drop_path", self.epoch, self.world.rank))
            losses, told = self._train_epoch(pace)
        trained_s = time.perf_counter() - started
        self.world.agree(self.algorithm.buffers())  # BatchNorm statistics, where each worker has its own
        evaluated = self._evaluate(self.val, self.algorithm.heads)
        heads = {name: one.scores() for name, one in evaluated.items()}
        scores, self.answers = heads[self.algorithm.heads[0]], evaluated[self.algorithm.heads[0]].answers()
        if len(heads) > 1:
            told |= {f"val_top1.{name}": one.top1 for name, one in heads.items()}
        measured = scores.columns("val")
        told |= {name: measured.pop(name) for name in self.own}
        self.epoch += 1
        self.val_top1s.append(scores.top1)
        tested = self.tested and pace is recipe  # a branch is never tested
        if tested and recipe.test_median and self.epoch > recipe.epochs - recipe.median_epochs:
            self.test_top1s.append(self._tested().scores().top1)
        self.wall_s += time.perf_counter() - started
        self._count_energy()
        return EpochMetrics(
            epoch=self.epoch,
            lr=lr,
            train_loss=sum(losses) / len(losses),
            **measured,
            wall_s=self.wall_s,
            device_s=self.wall_s * self.world.size,
            images_per_s=len(losses) * recipe.batch_size / trained_s,
            energy_j=self.energy_j,
            extra=told,
            losses=tuple(losses),
        )

    def _with_branch(self, metrics: EpochMetrics) -> EpochMetrics:
        """The metrics of an epoch, with the scores of the cool-down that branches off after it, and its costs."""
        cooled = self.branch(max(1, round(self.recipe.cooldown * self.epoch)))
        row = cooled.row()
        scores = {f"{name}.cooled": row[name] for name in (*PER_EPOCH, *self.own)}
        return replace(
            metrics,
            wall_s=self.wall_s,
            device_s=self.wall_s * self.world.size,
            energy_j=self.energy_j,
            extra=metrics.extra | {"rung": self.branches.index(self.epoch)} | scores,
        )

    def branch(self, epochs: int) -> EpochMetrics:
        """Train a copy of the run for some more epochs with a linear cool-down; gives the last of them.

        The run itself goes on from where it was, bitwise as without a branch; its costs have grown. For methods that do
        not change with the progress of a run, a branch is bitwise a complete run of a shorter trapezoid.
        """
        state = self.state()
        whole = self.epoch + epochs
        pace = replace(self.recipe, schedule="trapezoid", epochs=whole, cooldown=epochs / whole)
        try:
            cooled = [self._advance(pace) for _ in range(epochs)][-1]
            spent = self.wall_s, self.energy_j
        finally:
            self.load(state)
        self.wall_s, self.energy_j = spent
        return cooled

    def _count_energy(self) -> None:
        """Add what all workers' devices used since the last time; unknown for good where one does not tell."""
        spent = self.meter.spent()
        joules = torch.tensor(math.nan if spent is None else spent, dtype=torch.float64, device=self.device)
        total = self.world.sum(joules).item()
        self.energy_j = None if self.energy_j is None or math.isnan(total) else self.energy_j + total

    def batches(self, epoch: int) -> Iterator[Batch]:
        """What each step of an epoch trains on; epochs count from 0."""
        needs, steps = self.algorithm.needs, self.steps_per_epoch
        return training_batches(self.train, self.unlabelled, needs, self.recipe, self.config.seed, epoch, steps)

    def _train_epoch(self, pace: Recipe) -> tuple[list[float], dict[str, float]]:
        """The loss of every step, and the means of what the terms have told."""
        self.algorithm.train()
        generator = Generator().manual_seed(derive_seed(self.config.seed, "mix", self.epoch))
        losses, told = torch.zeros(self.steps_per_epoch, device=self.device), []
        scored = {f"val_top1.{head}" for head in self.algorithm.heads}
        names = [column.name for column in self.algorithm.columns if column.name not in scored]
        nan = torch.full((), math.nan, device=self.device)
        first = self.epoch * self.steps_per_epoch
        for step, batch in enumerate(self.batches(self.epoch)):
            set_lr(self.optimizer, pace, first + step, self.steps_per_epoch)
            losses[step], values = self.step(batch, first + step, generator)
            if names:
                told.append(torch.stack([values.get(name, nan).float() for name in names]))
        # One read for the whole epoch: reading every step would make a GPU wait for the host.
        step_losses = (self.world.sum(losses) / self.world.size).tolist()
        for step, loss in enumerate(step_losses):
            if not math.isfinite(loss):
                raise NonFiniteLoss(
                    f"diverged: the loss was {loss} in epoch {self.epoch + 1}, step {step + 1}; lower lr "
                    f"(now {self.recipe.lr:g}) or the weight of the loss term"
                )
        means = (self.world.sum(torch.stack(told)) / self.world.size).nanmean(0).tolist() if told else []
        return step_losses, {name: mean for name, mean in zip(names, means, strict=True) if math.isfinite(mean)}

    def step(self, batch: Batch, number: int, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Train on one batch, at the learning rates that are set.

        Args:
            number: of the step in the run, from 0 on. generator: on the CPU, of all that the algorithm draws.

        Returns:
            This worker's loss, a scalar, and what the terms tell.
        """
        recipe, total, told = self.recipe, torch.zeros((), device=self.device), {}
        clock = Clock(number, recipe.epochs * self.steps_per_epoch, number // self.steps_per_epoch, recipe.epochs)
        self.optimizer.zero_grad(set_to_none=True)
        for term in self.algorithm.terms(batch, clock, generator):
            term.loss.backward()
            total += term.loss.detach()
            told |= term.told
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.world.average([parameter.grad for parameter in trained if parameter.grad is not None])
        if recipe.grad_clip:
            nn.utils.clip_grad_norm_(trained, recipe.grad_clip)
        self.optimizer.step()
        self.algorithm.after_step(clock)
        return total, told

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 [B, H, W, C] on the device -> float [B, C, H, W], as the network takes it."""
        return self._laid_out(self.train.normalise(pixels))

    def _laid_out(self, x: Tensor) -> Tensor:
        return x if self.recipe.channels_last else x.contiguous()

    @torch.no_grad()
    def _evaluate(self, part: Batches, heads: Sequence[str]) -> dict[str, ScoreSums]:
        """What `heads` answer to all images of a part, by name.

        Raises:
            NonFiniteLoss: an output is NaN or infinite: what is largest among such means nothing.
        """
        self.algorithm.eval()
        rank, size = self.world.rank, self.world.size
        sums = {name: ScoreSums(len(part), self.classes, self.device, rank, size, self.metrics) for name in heads}
        batch = max(256, self.recipe.batch_size)
        for x, y in part.in_order(batch, rank, size, self.recipe.test_size):
            with self.algorithm.autocast():
                logits = self.algorithm.predict(self._laid_out(x), heads)
            for name in heads:
                sums[name].add(logits[name], y)
        for one in sums.values():
            for total in (one.sums, one.images, *one.own):
                self.world.sum(total)
            if one.diverged:
                raise NonFiniteLoss(
                    "diverged: an output of the network was NaN or infinite; "
                    f"lower lr (now {self.recipe.lr:g}) or the weight of the loss term"
                )
        return sums

    def finish(self) -> Outcome:
        """Read the test set, once, after the last epoch.

        Raises:
            TrainingError: epochs are left to train.
        """
        if self.last is None or self.epoch < self.recipe.epochs:
            raise TrainingError(f"epoch {self.epoch} of {self.recipe.epochs}: test scores are read at the end only")
        tested = self._tested()
        return Outcome(
            last=self.last,
            test=tested.scores(),
            test_classes=tested.answers().columns(),
            parameters=self.parameters,
            val_top1_best=max(self.val_top1s),
            val_top1_median=self.val_top1_median,
            test_top1_median=statistics.median(self.test_top1s) if self.test_top1s else None,
            test_top1_best=max(self.test_top1s, default=None),
        )

    @property
    def parameters(self) -> int:
        """Trainable scalars."""
        return count_parameters(self.algorithm)

    @property
    def val_top1_median(self) -> float:
        """The median validation accuracy of the last epochs that the recipe names."""
        return statistics.median(self.val_top1s[-self.recipe.median_epochs :])

    def _tested(self) -> ScoreSums:
        """What the head that selects, and no other, answers to the test images."""
        head = self.algorithm.heads[0]
        return self._evaluate(self.test, [head])[head]

    @property
    def network(self) -> Backbone:
        """What the run has trained: of several networks and heads those that select."""
        return self.algorithm.reported()

    def weights(self) -> bytes:
        """The weights of `network`, as a file that `torch.load` and the knob `weights` take."""
        buffer = io.BytesIO()
        torch.save(self.network.state_dict(), buffer)
        return buffer.getvalue()

    def state(self) -> bytes:
        """The run after its last epoch, as bytes that `load` takes."""
        content = {
            "config_id": self.config.config_id,
            "epoch": self.epoch,
            "wall_s": self.wall_s,
            "energy_j": self.energy_j,
            "last": asdict(replace(self.last, losses=())) if self.last else None,
            "val_top1s": self.val_top1s,
            "test_top1s": self.test_top1s,
            "predicted": None if self.answers is None else torch.from_numpy(self.answers.predicted),
            "model": self.algorithm.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    def load(self, state: bytes) -> None:
        """Go on from `state`; on a CPU the rest of the run is bitwise what it would have been.

        Raises:
            OtherConfig: the checkpoint is of another config.
            TrainingError: the bytes are no checkpoint, or were changed since they were written; the run is of no use.
        """
        try:
            file = io.BytesIO(state)
            check_records(file)
            content = torch.load(file, map_location=self.device, weights_only=True)
            config_id = content["config_id"]
            if config_id == self.config.config_id:
                self._take(content)
        except Exception as error:  # torch raises many types for damaged files
            raise TrainingError(f"the checkpoint cannot be read: {error}") from error
        if config_id != self.config.config_id:
            raise OtherConfig(f"the checkpoint belongs to config {config_id}, not {self.config.config_id}")

    def _take(self, content: dict[str, Any]) -> None:
        epoch, scores = content["epoch"], content["val_top1s"]
        if not 0 <= epoch <= self.recipe.epochs or len(scores) != epoch:
            raise ValueError(f"it says epoch {epoch} of {self.recipe.epochs} and holds {len(scores)} scores")
        self.algorithm.load_state_dict(self.algorithm.upgraded(content["model"]))
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.wall_s, self.energy_j = content["epoch"], content["wall_s"], content["energy_j"]
        self.val_top1s, self.test_top1s = content["val_top1s"], content["test_top1s"]
        self.last = EpochMetrics(**content["last"]) if content["last"] else None
        predicted = content.get("predicted")  # checkpoints of earlier versions have none
        labels = self.val.labels.cpu().numpy()
        self.answers = None if predicted is None else Answers(labels, predicted.cpu().numpy(), self.classes)


def pick_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(config: TrialConfig, image_set: ImageSet | None = None, device: torch.device | str | None = None) -> Outcome:
    """Train one config from start to end in this process.

    Args:
        image_set: the data; loaded from `config.data` where None.
        device: CUDA where there is one, else the CPU, where None.

    Examples:
        >>> from automixsearch import TrialConfig
        >>> config = TrialConfig(data={"source": "digits"}, knobs={"method": "mixup", "epochs": 1, "width": 4})
        >>> outcome = train(config, device="cpu")
        >>> 0 <= outcome.test.top1 <= 100
        True
    """
    if image_set is None:
        image_set = load(config.data, config.plugins)
    run = TrainingRun(config, image_set, device or pick_device())
    for _ in run.epochs():
        pass
    return run.finish()
