"""The training loop: one run of one config, epoch by epoch.

It reports by yielding, so whoever drives it (a script, a Tune actor, a Ray Train worker) decides what to do with an
epoch, and stops by not asking for the next.
"""

from __future__ import annotations

import io
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from automixsearch.archives import check_records
from automixsearch.data.base import ImageSet, channel_statistics, split
from automixsearch.errors import DataError, Diverged, NonFiniteLoss, OtherConfig, TrainingError
from automixsearch.evaluation.classification import Scores, ScoreSums
from automixsearch.losses import jensen_shannon
from automixsearch.mixers import Mixed, Mixer
from automixsearch.mixers.vanilla import Vanilla
from automixsearch.models import build_model, count_parameters
from automixsearch.models.batch_norm import make_global
from automixsearch.models.layout import pick_layout
from automixsearch.native import keep_freed_memory
from automixsearch.spec import TrialConfig, derive_seed
from automixsearch.training.batches import Batches
from automixsearch.training.checks import check_batches
from automixsearch.training.energy import EnergyMeter, cpu_share
from automixsearch.training.optimiser import Part, learning_rate, make_optimizer, set_lr
from automixsearch.training.world import HiddenMixing, World

if TYPE_CHECKING:
    from automixsearch.algorithms.automix import Momentum
    from automixsearch.mixers.automix import AutoMixDraw


Predict = Callable[[Tensor], dict[str, Tensor]]
"""Images [B, C, H, W] -> logits [B, K] of one or several heads, by name."""
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)),
}
"""Mean and deviation per channel that published recipes and weights have."""
COOLED = ("train_loss", "val_top1", "val_top5", "val_loss", "val_ece")
"""What an epoch tells of the cool-down that branched off after it."""
DIVERGED = 1000.0
"""A run has diverged whose validation loss ends above this many times the loss of guessing, the log of the number of
classes. Before the end it may: the statistics of BatchNorm lag behind at first, and then the loss comes down again."""


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch gave.

    epoch counts from 1. Accuracies are percent, on the validation split. wall_s and device_s (wall_s times the
    devices held) count from the start of the run, over all resumes, and so does energy_j, None where the device does
    not tell.
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
    extra: dict[str, float] = field(default_factory=dict)
    """What only some paradigms have, by ledger column; see `Momentum`."""

    def row(self) -> dict[str, Any]:
        """All of it, by ledger column."""
        row = asdict(self)
        return row | row.pop("extra")


@dataclass(frozen=True)
class Outcome:
    """What a whole run gave: its last epoch, and the test scores, read at its end.

    The medians are those of the last epochs that the recipe names; `test_top1_median`, and the best of the same test
    scores, are there if it asks for them.
    """

    last: EpochMetrics
    test: Scores
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
    ) -> None:
        self.config, self.recipe = config, config.recipe
        self.pace, self.branches, self.tested = self.recipe, tuple(branches), tested
        self.world, self.device = world or World(), torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        share = gpu_share if self.device.type == "cuda" else cpu_share(torch.get_num_threads())
        self.meter = EnergyMeter(self.device, share)
        self.mixer, self.policy, self.loss = config.mixer, config.policy, config.loss
        self.epoch, self.wall_s = 0, 0.0
        self.energy_j: float | None = 0.0
        self.last: EpochMetrics | None = None
        self.step_losses: list[float] = []
        self.val_top1s: list[float] = []
        self.test_top1s: list[float] = []
        self._load_data(image_set)
        self._build(image_set)

    def _load_data(self, image_set: ImageSet) -> None:
        recorded = self.config.data_fingerprint
        if recorded not in (None, image_set.fingerprint):
            raise DataError(
                f"the data have fingerprint {image_set.fingerprint}, but the config was made for {recorded}; "
                "point data.path at the same data set"
            )
        self.split = split(image_set, self.config.data.val_fraction, self.config.split_seed)
        train, val, test = self.split.train, self.split.val, image_set.test
        mean, std = self._normalisation(image_set, train)
        self.train_side = max(self.recipe.sides(*image_set.train.images.shape[1:3])[0])
        source = image_set.train
        self.train = Batches(source.images, source.labels, mean, std, self.device, train, self.world)
        self.val = Batches(source.images, source.labels, mean, std, self.device, val)
        self.test = Batches(test.images, test.labels, mean, std, self.device)
        check_batches(self.recipe.batch_size, len(train), self.world.size)
        self.steps_per_epoch = len(train) // self.recipe.batch_size

    def _normalisation(self, image_set: ImageSet, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation per channel, in 0..1 units."""
        if self.recipe.normalisation == "data":
            return channel_statistics(image_set.train.images, train)
        mean, std = (np.array(values, np.float32) for values in STATISTICS[self.recipe.normalisation])
        channels = image_set.train.images.shape[3]
        if len(mean) != channels:
            raise DataError(
                f"normalisation = {self.recipe.normalisation} has {len(mean)} channels and the images of "
                f"{image_set.name} have {channels}; use normalisation=data"
            )
        return mean, std

    def _build(self, image_set: ImageSet) -> None:
        recipe, channels, self.classes = self.recipe, image_set.train.images.shape[3], len(image_set.classes)
        model = build_model(recipe, channels, self.classes, self.config.seed, self.train_side)
        layout = pick_layout(model, self.device, self.train_side, recipe.channels_last)
        self.channels_last = layout == torch.channels_last
        model = model.to(self.device).to(memory_format=layout)  # type: ignore[call-overload]
        self.model = model
        self.momentum = None
        if self.mixer.paradigm == "momentum":
            from automixsearch.algorithms.automix import Momentum

            paradigm: Any = Momentum
            made = paradigm(model, self.mixer, self.loss, self.train_side, self.config.seed, self.world)
            self.momentum = made.to(self.device).to(memory_format=layout)  # type: ignore[call-overload]
        self.stateful: nn.Module = self.momentum or model
        forward = self.stateful
        if self.world.size > 1:
            if recipe.batch_norm == "global":
                make_global(forward)
            forward = DistributedDataParallel(forward, broadcast_buffers=self.momentum is None)
        self.parallel = forward
        self.clean_scale = self.loss.clean_scale(self.classes)
        self.forward = torch.compile(forward) if recipe.compile else forward
        parts = self.momentum.parts() if self.momentum else [Part(model)]
        self.optimizer = make_optimizer(recipe, parts, fused=self.device.type == "cuda")

    def epochs(self) -> Iterator[EpochMetrics]:
        """Train the remaining epochs, yielding after each; the run can be saved between any two.

        Raises:
            Diverged: the loss or an output became NaN or infinite, or the validation loss ended beyond any sense.
        """
        while self.epoch < self.recipe.epochs:
            self.last = self._advance()
            if self.epoch in self.branches:
                self.last = self._with_branch(self.last)
            yield self.last
        guessing = math.log(self.classes)
        if self.last and self.last.val_loss > DIVERGED * guessing:
            raise Diverged(
                f"diverged: the validation loss ended at {self.last.val_loss:.3g}, and guessing costs {guessing:.3g}; "
                f"lower lr (now {self.recipe.lr:g}) or the weight of the loss term"
            )

    def _advance(self) -> EpochMetrics:
        """Train one epoch and validate."""
        recipe, started = self.recipe, time.perf_counter()
        lr = learning_rate(self.pace, self.epoch * self.steps_per_epoch, self.steps_per_epoch)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            # Of skipped paths; nothing else draws from global state.
            torch.manual_seed(derive_seed(self.config.seed, "drop_path", self.epoch, self.world.rank))
            losses = self._train_epoch()
        trained_s = time.perf_counter() - started
        scores, extra = self._validate()
        self.epoch += 1
        self.val_top1s.append(scores.top1)
        tested = self.tested and self.pace is recipe  # a branch is never tested
        if tested and recipe.test_median and self.epoch > recipe.epochs - recipe.median_epochs:
            self.test_top1s.append(self._test_scores().top1)
        self.wall_s += time.perf_counter() - started
        self._count_energy()
        return EpochMetrics(
            epoch=self.epoch,
            lr=lr,
            train_loss=sum(losses) / len(losses),
            **{f"val_{name}": value for name, value in asdict(scores).items()},
            wall_s=self.wall_s,
            device_s=self.wall_s * self.world.size,
            images_per_s=len(losses) * recipe.batch_size / trained_s,
            energy_j=self.energy_j,
            extra=extra,
        )

    def _with_branch(self, metrics: EpochMetrics) -> EpochMetrics:
        """The metrics of an epoch, with the scores of the cool-down that branches off after it, and its costs."""
        cooled = self.branch(max(1, round(self.recipe.cooldown * self.epoch)))
        scores = {f"{name}.cooled": getattr(cooled, name) for name in COOLED}
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
        state, step_losses = self.state(), self.step_losses
        whole = self.epoch + epochs
        self.pace = replace(self.recipe, schedule="trapezoid", epochs=whole, cooldown=epochs / whole)
        try:
            cooled = [self._advance() for _ in range(epochs)][-1]
            spent = self.wall_s, self.energy_j
        finally:
            self.pace = self.recipe
            self.load(state)
        (self.wall_s, self.energy_j), self.step_losses = spent, step_losses
        return cooled

    def _count_energy(self) -> None:
        """Add what all workers' devices used since the last time; unknown for good where one does not tell."""
        spent = self.meter.spent()
        joules = torch.tensor(math.nan if spent is None else spent, dtype=torch.float64, device=self.device)
        total = self.world.sum(joules).item()
        self.energy_j = None if self.energy_j is None or math.isnan(total) else self.energy_j + total

    def _train_epoch(self) -> list[float]:
        self.stateful.train()
        mixing = Generator().manual_seed(derive_seed(self.config.seed, "mix", self.epoch))
        losses = torch.zeros(self.steps_per_epoch, device=self.device)
        self.parts: list[Tensor] = []
        batches = self.train.shuffled(self.recipe, self.config.seed, self.epoch)
        first = self.epoch * self.steps_per_epoch
        mixer = self.mixer if self.epoch < self.policy.mix_until * self.recipe.epochs else Vanilla()
        for step, (pixels, y) in enumerate(batches):
            set_lr(self.optimizer, self.pace, first + step, self.steps_per_epoch)
            if self.momentum:
                x = self._normalise(self.train, pixels)
                losses[step] = self._momentum_step(self.momentum, x, y, mixing, first + step)
            else:
                losses[step] = self._step(mixer, pixels, y, mixing)
        # One read for the whole epoch: reading every step would make a GPU wait for the host.
        self.step_losses = (self.world.sum(losses) / self.world.size).tolist()
        for step, loss in enumerate(self.step_losses):
            if not math.isfinite(loss):
                raise NonFiniteLoss(
                    f"diverged: the loss was {loss} in epoch {self.epoch + 1}, step {step + 1}; lower lr "
                    f"(now {self.recipe.lr:g}) or the weight of the loss term"
                )
        return self.step_losses

    def _step(self, mixer: Mixer, pixels: Tensor, y: Tensor, mixing: Generator) -> Tensor:
        """One step of the optimiser on a global batch; returns this worker's loss."""
        x = self._normalise(self.train, pixels)
        batch, channels, height, width = x.shape
        repeats = self.policy.repeats
        draws = [mixer.draw((batch, channels, height, width), mixing) for _ in range(repeats)]
        needs = frozenset[str]().union(*(mixer.needs_of(draw) for draw in draws))
        clean_weight = self.clean_scale * sum(map(mixer.clean_weight_of, draws)) / repeats
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        supply = {"pixels": pixels, "mean": self.train.mean, "std": self.train.std}
        gradient = None
        if clean_weight:
            loss, gradient = self._clean_pass(x, y, clean_weight)
            total += loss
        elif needs & {"saliency", "gradient"}:
            gradient = self._gradient(x, y)
        if gradient is not None:
            supply |= {"gradient": gradient, "saliency": gradient.square().mean(1).sqrt()}
        for number, draw in enumerate(draws, 1):
            mixed = mixer.apply(x, draw, **{need: supply[need] for need in mixer.needs_of(draw)})
            with self._gradients_stay_here(number < repeats):
                loss = self._loss(mixed, y) / repeats
                loss.backward()
            total += loss.detach()
        self._update()
        return total

    def _update(self) -> None:
        """Move the weights along their gradients, which are cut to the largest norm that the recipe has."""
        if self.recipe.grad_clip:
            trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.recipe.grad_clip)
        self.optimizer.step()

    def _momentum_step(self, momentum: Momentum, x: Tensor, y: Tensor, mixing: Generator, step: int) -> Tensor:
        """One step of student, Mix Block and teacher on a global batch; returns this worker's loss."""
        progress = step / (self.recipe.epochs * self.steps_per_epoch)
        self.optimizer.zero_grad(set_to_none=True)
        total, told = torch.zeros((), device=self.device), {}
        with self._autocast():
            given: Any = (x, y, *momentum.plan(x, mixing, step, progress), self.recipe.label_smoothing)
            # Term by term unless something must see the whole: compiled code and the exchange of gradients must.
            for loss, values in momentum.terms(*given) if self.forward is momentum else [self.forward(*given)]:
                with torch.autocast(self.device.type, enabled=False):
                    loss.backward()
                total += loss.detach()
                told |= values
        self._update()
        momentum.follow(progress)
        nan = torch.full((), math.nan, device=self.device)
        self.parts.append(torch.stack([told.get(name, nan).float() for name in momentum.TERMS]))
        return total

    def _loss(self, mixed: Mixed, y: Tensor) -> Tensor:
        """The loss of this worker's share of a mixed batch."""
        share = self.world.share
        x, labels, shares = share(mixed.x), share(y[mixed.sources]), share(mixed.shares)
        views = [] if mixed.views is None else [share(view) for view in mixed.views]
        with self._autocast():
            if mixed.stage == "input":
                logits = self.forward(torch.cat([x, *views]) if views else x)
            else:
                logits = self.forward(x, mixed.stage, HiddenMixing(mixed, self.world))
        loss = self.loss(logits[: len(x)], labels, shares, self.recipe.label_smoothing)
        if views:
            loss = loss + mixed.consistency * jensen_shannon(logits.unflatten(0, (-1, len(x)))).mean()
        return loss

    def _clean_pass(self, x: Tensor, y: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Train on the clean images too; the same backward pass gives the gradient [B, C, H, W] of the global batch."""
        own = self.world.share(x).detach().requires_grad_()
        with self._gradients_stay_here(True):
            with self._autocast():
                logits = self.forward(own)
            loss = weight * functional.cross_entropy(logits.float(), self.world.share(y))
            loss.backward()
        assert own.grad is not None
        return loss.detach(), self.world.gather(own.grad.float())

    def _gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """d CE / d x [B, C, H, W] of the global batch, in eval mode; each worker computes its share."""
        self.model.eval()
        own = self.world.share(x).detach().requires_grad_()
        with self._autocast():
            logits = self.model(own)
        loss = functional.cross_entropy(logits.float(), self.world.share(y), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, own)
        self.model.train()
        return self.world.gather(gradient.float())

    def _gradients_stay_here(self, on: bool) -> AbstractContextManager[Any]:
        """Where `on`, gradients are not exchanged with the other workers yet: more of this step will follow."""
        parallel = self.parallel
        return parallel.no_sync() if on and isinstance(parallel, DistributedDataParallel) else nullcontext()

    def _normalise(self, part: Batches, pixels: Tensor) -> Tensor:
        x = part.normalise(pixels)
        return x if self.channels_last else x.contiguous()

    def _autocast(self) -> AbstractContextManager[Any]:
        on = self.recipe.amp == "bf16" or (self.recipe.amp == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def _validate(self) -> tuple[Scores, dict[str, float]]:
        """Scores on the validation split: of the reported head, and where there are several the accuracy of each."""
        if self.momentum is None:
            return self._scores(self.val)[""], {}
        scores = self._scores(self.val, self.momentum.predict, self.momentum.heads)
        extra = {f"val_top1.{name}": one.top1 for name, one in scores.items()}
        terms = self.world.sum(torch.stack(self.parts)) / self.world.size
        means = terms.nanmean(0).tolist()
        extra |= {name: mean for name, mean in zip(self.momentum.TERMS, means, strict=True) if math.isfinite(mean)}
        return next(iter(scores.values())), extra

    @torch.no_grad()
    def _scores(self, part: Batches, predict: Predict | None = None, names: Sequence[str] = ("",)) -> dict[str, Scores]:
        """The scores of the `names` that `predict` gives; None: of the network, under no name.

        Raises:
            NonFiniteLoss: an output is NaN or infinite: what is largest among such means nothing.
        """
        self.stateful.eval()
        predict = predict or (lambda x: {"": self.model(x)})
        sums = {name: ScoreSums(self.device) for name in names}
        batch = max(256, self.recipe.batch_size)
        for x, y in part.in_order(batch, self.world.rank, self.world.size, self.recipe.test_size):
            with self._autocast():
                logits = predict(x if self.channels_last else x.contiguous())
            for name in names:
                sums[name].add(logits[name], y)
        for one in sums.values():
            self.world.sum(one.sums)
            if one.diverged:
                raise NonFiniteLoss(
                    "diverged: an output of the network was NaN or infinite; "
                    f"lower lr (now {self.recipe.lr:g}) or the weight of the loss term"
                )
        return {name: one.scores() for name, one in sums.items()}

    def finish(self) -> Outcome:
        """Read the test set, once, after the last epoch.

        Raises:
            TrainingError: epochs are left to train.
        """
        if self.last is None or self.epoch < self.recipe.epochs:
            raise TrainingError(f"epoch {self.epoch} of {self.recipe.epochs}: test scores are read at the end only")
        return Outcome(
            last=self.last,
            test=self._test_scores(),
            parameters=self.parameters,
            val_top1_best=max(self.val_top1s),
            val_top1_median=self.val_top1_median,
            test_top1_median=statistics.median(self.test_top1s) if self.test_top1s else None,
            test_top1_best=max(self.test_top1s, default=None),
        )

    @property
    def parameters(self) -> int:
        """Trainable scalars."""
        return count_parameters(self.stateful)

    @property
    def val_top1_median(self) -> float:
        """The median validation accuracy of the last epochs that the recipe names."""
        return statistics.median(self.val_top1s[-self.recipe.median_epochs :])

    def _test_scores(self) -> Scores:
        """The test scores of the network, or of several of the head that selects and of no other."""
        if self.momentum is None:
            return self._scores(self.test)[""]
        head = self.momentum.heads[0]
        return self._scores(self.test, self.momentum.predict_reported, [head])[head]

    @property
    def network(self) -> nn.Module:
        """What the run has trained: the network, or of several the reported one with the reported head."""
        return self.momentum.reported() if self.momentum else self.model

    def weights(self) -> bytes:
        """The weights of `network`, as a file that `torch.load` and the knob `weights` take."""
        buffer = io.BytesIO()
        torch.save(self.network.state_dict(), buffer)
        return buffer.getvalue()

    @torch.no_grad()
    def masks(self, pixels: Tensor, draw: AutoMixDraw) -> Tensor:
        """The Mix Block's masks of the partners as they are now, in eval mode: float32 [B, 1, H, W] on the CPU.

        Looking changes nothing: the rest of the run is bitwise what it would have been.

        Args:
            pixels: uint8 [B, H, W, C]. draw: partners and own share.
        """
        assert self.momentum is not None
        self.stateful.eval()
        x = self._normalise(self.train, pixels.to(self.device))
        with self._autocast():
            return self.momentum.mask(self.momentum.features(x), draw, x.shape[2:]).cpu()

    def state(self) -> bytes:
        """The run after its last epoch, as bytes that `load` takes."""
        content = {
            "config_id": self.config.config_id,
            "epoch": self.epoch,
            "wall_s": self.wall_s,
            "energy_j": self.energy_j,
            "last": asdict(self.last) if self.last else None,
            "val_top1s": self.val_top1s,
            "test_top1s": self.test_top1s,
            "model": self.stateful.state_dict(),
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
        self.stateful.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.wall_s, self.energy_j = content["epoch"], content["wall_s"], content["energy_j"]
        self.val_top1s, self.test_top1s = content["val_top1s"], content["test_top1s"]
        self.last = EpochMetrics(**content["last"]) if content["last"] else None


def pick_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(config: TrialConfig, image_set: ImageSet | None = None, device: torch.device | str | None = None) -> Outcome:
    """Train one config from start to end in this process.

    Args:
        image_set: the data; loaded from `config.data` where None.
        device: CUDA where there is one, else the CPU, where None.
    """
    if image_set is None:
        from automixsearch.data import load

        image_set = load(config.data)
    run = TrainingRun(config, image_set, device or pick_device())
    for _ in run.epochs():
        pass
    return run.finish()
