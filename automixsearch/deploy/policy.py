"""A mixing policy as an object that any training loop can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils.data import default_collate, get_worker_info

from automixsearch.algorithms.base import Algorithm, Batch, Clock, Setup
from automixsearch.algorithms.supervised import Supervised
from automixsearch.config.data import Data
from automixsearch.config.files import build, load_config
from automixsearch.config.knobs import Scalar
from automixsearch.config.trial import TrialConfig
from automixsearch.deploy.hooked import Hooked
from automixsearch.errors import SpecError
from automixsearch.losses import smoothed, soft_labels
from automixsearch.mixers import ManifoldMix, Mixed
from automixsearch.mixers.switch import Switch
from automixsearch.mixers.vanilla import Vanilla
from automixsearch.models.base import Backbone
from automixsearch.models.library import SIDE, ends_of
from automixsearch.models.tapped import Tapped
from automixsearch.registry import look_up
from automixsearch.seeds import derive_seed
from automixsearch.training.world import World


def _algorithm(kind: type[Algorithm], config: TrialConfig, network: Backbone, side: int = 0) -> Any:
    """An algorithm in somebody else's loop, who normalises images and decides about precision and compilation."""
    plain = {"autocast": lambda self: nullcontext(), "compiled": lambda self, function: function}
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    empty, classes = torch.empty(0), network.head.out_features if isinstance(network, Tapped) else 0
    setup = Setup(config, network, device, World(), classes, 0, 0, side, lambda x: x, empty, empty)
    return type(kind.__name__, (kind,), plain).build(setup)


class _Unknown(dict[str, Tensor]):
    """What is not known of images whose normalisation is not."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def __missing__(self, need: str) -> Tensor:
        raise SpecError(
            f"{self.method} looks at pixels; say how images are normalised: load_policy(..., mean=[...], std=[...]), "
            "in 0..1 units, zeros and ones where they are not"
        )


class MixingPolicy:
    """A mixing method with its values, its loss, and when it is used: what a trial of a search trains with.

    `step` does all of it in one line, for every method but AutoMix, SAMix and AdAutoMix, which train a Mix Block
    beside the network and take `attach`. `mix` and `collate` give images and soft targets, for trainers that take
    these: without the loss of the policy, and not for methods that mix hidden features, compare views or follow
    attention.

    Args:
        config: of a trial; its data, network and optimiser do not matter. classes: how many there are, for soft
            targets. mean, std: per channel, in 0..1 units, by which the images are normalised, x = (pixels / 255 -
            mean) / std; for methods that look at pixels. stages: the modules of the network after which hidden
            features are mixed, e.g. {"stage1": "layer1", "stage2": "layer2"}. seed: of all that is drawn; let it differ
            between processes that train together.

    Raises:
        SpecError: what the policy needs is not given; the message says what to pass.

    Examples:
        >>> policy = load_policy({"method": "cutmix", "cutmix.alpha": 1.0, "loss": "decoupled"}, classes=10)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> x, y = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
        >>> loss = policy.step(model, x, y)  # then loss.backward(), as with any loss
        >>> loss.shape
        torch.Size([])
        >>> images, targets = policy.mix(x, y)
        >>> images.shape, targets.shape
        (torch.Size([8, 3, 32, 32]), torch.Size([8, 10]))
    """

    def __init__(
        self,
        config: TrialConfig,
        *,
        classes: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        stages: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        self.config, self.classes, self.stages, self.seed = config, classes, dict(stages or {}), seed
        self.mixer, self.loss, self.smoothing = config.mixer, config.loss, config.recipe.label_smoothing
        self.mixup_enabled = True
        """Set it to False to let images and targets be; timm's trainer does."""
        if (mean is None) != (std is None):
            raise SpecError("mean and std go together; give both, or neither")
        self.mean, self.std = (None if values is None else torch.tensor(list(values)) for values in (mean, std))
        self._loop: Any = None
        self._generators: dict[int, Generator] = {}

    @property
    def generator(self) -> Generator:
        """What is drawn from: one for this process and, in a worker of a DataLoader, one for that worker."""
        worker = get_worker_info()
        key = -1 if worker is None else worker.seed
        if key not in self._generators:
            path = () if worker is None else (worker.seed,)
            self._generators[key] = Generator().manual_seed(derive_seed(self.seed, "policy", *path))
        return self._generators[key]

    def step(self, model: nn.Module, x: Tensor, y: Tensor, progress: float | None = None) -> Tensor:
        """The loss of one training step, a scalar to be backwarded: mixed images, and what goes with them.

        A gradient of the images, where the method needs it, is taken from the network in evaluation mode, or from the
        pass of the clean images where there is one; extra passes and repeats are made here.

        Args:
            model: gives logits [B, K], or an object with `logits`. x: [B, C, H, W], normalised as the network takes it.
            y: int64 [B], on the device of x. progress: the share of the run that is behind, in [0, 1), for a policy
                that stops mixing early (`mix_until`).

        Raises:
            SpecError, TrainingError: something is missing; the message says what to pass.
        """
        terms = self._supervised(model).mixed_terms(x, y, self._mixer_at(progress), self.generator, self._supply(x))
        total = x.new_zeros((), dtype=torch.float32)
        for term in terms:
            if term.leaf is not None:
                (term.leaf.grad,) = torch.autograd.grad(term.loss, term.leaf, retain_graph=True)
            total = total + term.loss
        return total

    def mix(
        self,
        x: Tensor,
        y: Tensor,
        *,
        model: nn.Module | None = None,
        classes: int | None = None,
        progress: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mixed images [B, C, H, W] and soft targets, float [B, K].

        Args:
            x, y, progress: as in `step`. model: for methods that look at a gradient of the images. classes: K, where
                the policy does not know it.
        """
        count = classes or self.classes
        if count is None:
            raise SpecError("soft targets need the number of classes; pass classes= to load_policy or mix")
        if not self.mixup_enabled:
            index = torch.arange(len(x), device=x.device)[:, None]
            mixed = Mixed(x, index, torch.ones(index.shape, dtype=torch.float64, device=x.device))
        else:
            mixed = self.mixed(x, y, model, progress)
        soft = soft_labels(y[mixed.sources], mixed.shares, count)
        return mixed.x, smoothed(soft, self.smoothing).float()

    __call__ = mix

    def mixed(self, x: Tensor, y: Tensor, model: nn.Module | None = None, progress: float | None = None) -> Mixed:
        """The mixed batch in its own form: images, whom each row shows, and in which shares; as `mix`."""
        mixer = self._mixer_at(progress)
        if self.hidden and mixer is self.mixer:
            raise SpecError(
                f"{self.config.method} mixes hidden features (after {', '.join(self.hidden)}), of which images know "
                "nothing; use step, with stages= in load_policy"
            )
        draw = mixer.draw((x.shape[0], x.shape[1], x.shape[2], x.shape[3]), self.generator)
        needs, supply, made = mixer.needs_of(draw), self._supply(x), dict[str, Tensor]()
        if needs & {"saliency", "gradient"}:
            if model is None:
                raise SpecError(f"{self.config.method} looks at a gradient of the images; pass model=, or use step")
            gradient = self._supervised(model).gradient(x, y)
            made = {"gradient": gradient, "saliency": gradient.square().mean(1).sqrt()}
        mixed = mixer.apply(x, draw, **{need: made[need] if need in made else supply[need] for need in needs})
        if mixed.views is not None:
            raise SpecError(f"{self.config.method} compares views of an image; use step, or consistency 0")
        if mixed.pasted is not None and mixed.attention:
            raise SpecError(f"the labels of {self.config.method} follow what the network looks at; use step")
        return mixed

    def collate(self, samples: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Samples (image [C, H, W], class) -> mixed images and soft targets: `DataLoader(collate_fn=policy.collate)`.

        Each worker of a loader draws for itself.
        """
        x, y = default_collate(list(samples))
        return self.mix(x, y)

    @property
    def hidden(self) -> tuple[str, ...]:
        """The stages of a network after which its features are mixed."""
        members = self.mixer.members if isinstance(self.mixer, Switch) else (self.mixer,)
        stages = [stage for mixer in members if isinstance(mixer, ManifoldMix) for stage in mixer.stages.split("+")]
        return tuple(dict.fromkeys(stage for stage in stages if stage != "input"))

    def _mixer_at(self, progress: float | None) -> Any:
        if self.config.algorithm != "supervised":
            raise SpecError(
                f"{self.config.method} trains a Mix Block beside the network; use policy.attach(model, side=, steps=)"
            )
        until = self.config.policy.mix_until
        if until < 1 and progress is None:
            raise SpecError(
                f"mix_until = {until:g} ends mixing in the run; pass progress=, the share of it that is behind"
            )
        return Vanilla() if progress is not None and progress >= until else self.mixer

    def _supply(self, x: Tensor) -> dict[str, Tensor]:
        """What a mixer may need of the images, apart from a gradient."""
        if self.mean is None or self.std is None:
            return _Unknown(self.config.method)
        mean, std = (values.to(x.device, x.dtype, non_blocking=True) for values in (self.mean, self.std))
        known = {"mean": mean, "std": std}
        if "pixels" in self.mixer.needs:
            pixels = x.detach() * std[:, None, None] + mean[:, None, None]
            known["pixels"] = (pixels * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return known

    def _supervised(self, model: nn.Module) -> Any:
        missing = [stage for stage in self.hidden if stage not in self.stages]
        if missing:
            raise SpecError(
                f"{self.config.method} mixes hidden features after {', '.join(missing)}; say which modules of "
                f"the network these are: load_policy(..., stages={{'{missing[0]}': 'layer1', ...}})"
            )
        if self._loop is None or self._loop.network.model is not model:
            self._loop = _algorithm(Supervised, self.config, Hooked(model, self.stages))
        return self._loop

    def attach(
        self, model: nn.Module, *, side: int, steps: int, channels: int = 3, stages: Mapping[str, str] | None = None
    ) -> Attached:
        """Take a network for a method that trains more than it: AutoMix, SAMix and AdAutoMix.

        Args:
            model: any that ends in one linear layer; it belongs to what is returned, whose `model` gives it back. side,
                channels: of the images. steps: of the whole run, by which the teacher slows down. stages: the modules
                at which its stages end, by stage (stage1 ...); left out, they are found as for networks of timm and
                torchvision.

        Raises:
            SpecError: the network does not take such images, or has no such stage; the message says what can be had.
        """
        return Attached(self, model, side, steps, channels, stages or self.stages or None)


class Attached(nn.Module):
    """A network and what is trained with it; see `MixingPolicy.attach`.

    Examples:
        >>> from torchvision.models import resnet18
        >>> policy = load_policy({"method": "automix"})
        >>> training = policy.attach(resnet18(num_classes=10), side=32, steps=1000)
        >>> optimizer = torch.optim.SGD(training.groups(lr=0.1), momentum=0.9)
        >>> x, y = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
        >>> training.step(x, y).backward()
        >>> optimizer.step()
        >>> training.after_step()
        >>> type(training.model()).__name__  # as it is reported: the teacher with the head for clean images
        'ResNet'
    """

    def __init__(
        self,
        policy: MixingPolicy,
        model: nn.Module,
        side: int,
        steps: int,
        channels: int,
        stages: Mapping[str, str] | None,
    ) -> None:
        super().__init__()
        info = getattr(model, "feature_info", None) or []
        found = [(one["module"], one["reduction"]) for one in getattr(info, "info", info)]
        if not stages and not found:
            try:
                found = ends_of(model, SIDE, channels)
            except Exception:  # it is built for images of one size; of any type
                found = ends_of(model, side, channels)
        network = Tapped(type(model).__name__, model, stages or found, side, channels)
        kind = look_up("algorithms", policy.config.algorithm, policy.config.plugins)
        self.algorithm = _algorithm(kind, policy.config, network, side)
        self.policy, self.steps, self.number = policy, steps, 0

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """What is trained, for an optimiser of learning rate `lr`: groups of parameters, each with its own."""
        return [
            {"params": [*part.module.parameters()], "lr": lr * part.scale}
            | ({} if part.momentum is None else {"momentum": part.momentum})
            for part in self.algorithm.parts()
        ]

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of one step, a scalar to be backwarded; x [B, C, H, W] normalised, y int64 [B]."""
        index = torch.arange(len(x), device=x.device)
        clock = Clock(self.number, max(self.steps, self.number + 1), 0, 1)
        terms = self.algorithm.terms(Batch((x,), index, y), clock, self.policy.generator)
        return torch.stack([term.loss for term in terms]).sum()

    def after_step(self) -> None:
        """What follows when the optimiser has moved the weights: the teacher follows."""
        self.algorithm.after_step(Clock(self.number, max(self.steps, self.number + 1), 0, 1))
        self.number += 1

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the network that is reported."""
        head = self.algorithm.heads[0]
        return self.algorithm.predict(x, [head])[head]

    def model(self) -> nn.Module:
        """A copy of the network that is reported, in the form that it came in."""
        return self.algorithm.reported().whole()


def load_policy(source: str | Path | Mapping[str, Scalar] | TrialConfig, **given: Any) -> MixingPolicy:
    """The policy of a config: of a file, as `automixsearch best STUDY --export FILE` writes it, or of values of knobs.

    Args:
        source: the file; or knobs by full name, those that are left out at their defaults; or a config.
        given: classes, mean, std, stages, seed; see `MixingPolicy`.

    Raises:
        SpecError: there is no such file, it is no config, or a knob is unknown.

    Examples:
        >>> policy = load_policy({"method": "mixup", "mixup.alpha": 0.2}, classes=10)
        >>> policy.mixer
        MixUp(alpha=0.2, lams='batch')
    """
    if isinstance(source, Mapping):
        source = build(TrialConfig, {"data": Data(), "knobs": dict(source)}, "policy")
    elif not isinstance(source, TrialConfig):
        source = load_config(source)
    return MixingPolicy(source, **given)
