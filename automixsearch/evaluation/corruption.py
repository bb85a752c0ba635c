"""Corruption: how often a network is right about images that suffered noise, blur, weather or compression."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from automixsearch.config.knobs import knob
from automixsearch.errors import SpecError
from automixsearch.evaluation.corruptions import CORRUPTIONS, corrupted, own_textures, textures_of
from automixsearch.evaluation.suite import Evaluation, Score, Subject
from automixsearch.lazy import torch
from automixsearch.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Generator, Tensor

    Seen = Iterator[tuple[str, int, Tensor, Tensor]]
    """Name of the corruption, severity, images in 0..1 units, their classes."""

VALUES = 2**20
"""Of a batch: what is corrupted at a time takes 8 bytes for each, several times over."""
ALEXNET = {
    "gaussian_noise": 88.6428, "shot_noise": 89.4468, "impulse_noise": 92.264, "defocus_blur": 81.988,
    "glass_blur": 82.6268, "motion_blur": 78.5948, "zoom_blur": 79.836, "snow": 86.6816, "frost": 82.6572,
    "fog": 81.9324, "brightness": 56.4592, "contrast": 85.3204, "elastic_transform": 64.6056, "pixelate": 71.784,
    "jpeg_compression": 60.65,
}  # fmt: skip
"""Its mean errors on ImageNet-C, in percent, by which those of others are divided for mCE (arXiv 1903.12261)."""


@dataclass(frozen=True)
class Corruption(Evaluation):
    """Accuracy on the test set under 15 corruptions of five severities, in percent, as on CIFAR-C and ImageNet-C.

    clean_top1: of the same images as they are. top1: for each corruption and severity. mean_top1: over the 15, and
    over all 19 where the four that were held out are asked for too. mce: the mean over the 15 of the error divided by
    AlexNet's, in percent, for 1000 classes at the constants of ImageNet-C. The draws are the same for every network.
    Images of one channel are corrupted as three equal ones, of which the first is looked at.

    Source: Hendrycks and Dietterich, arXiv 1903.12261; authors' code robustness at 8190fe3.
    Differs: our textures of frost, unless `frost` names the published ones; ImageNet-C stores images as JPEG once more.

    Examples:
        >>> Corruption(severity=3).settings()["sets"]
        'made'
    """

    name: ClassVar[str] = "corruption"
    source: ClassVar[str] = "arXiv 1903.12261"

    severity: int = knob(0, "1 to 5; 0: each of them", low=0, high=5)
    extra: bool = knob(False, "the four that were held out as well")
    constants: str = knob("auto", "of CIFAR-C; auto: up to 64 pixels", choices=("auto", "cifar", "imagenet"))
    sets: str = knob("made", "folder of published sets, NAME.npy and labels.npy; made: of the test set", word="made")
    frost: str = knob("own", "folder of published textures, frost1.png to frost5.jpg; own: ours", word="own")

    def passes(self, images: int) -> float:
        return 1 + len(self._names) * len(self._severities)

    def scores(self, subject: Subject, generator: Generator) -> Iterator[Score]:
        hits: dict[tuple[str, int], Any] = defaultdict(int)
        images: Counter[tuple[str, int]] = Counter()
        with torch.no_grad():
            for x, y in subject.test.batches():
                hits["clean", 0] += (subject.logits(x).argmax(1) == y).sum()
            for name, severity, x, y in self._made(subject) if self.sets == "made" else self._published(subject):
                hits[name, severity] += (subject.logits(x).argmax(1) == y).sum()
                images[name, severity] += len(y)
        yield Score("clean_top1", 100 * int(hits["clean", 0]) / len(subject.test), len(subject.test))
        by_name: dict[str, list[float]] = {name: [] for name in self._names}
        for (name, severity), count in images.items():
            by_name[name].append(100 * int(hits[name, severity]) / count)
            yield Score("top1", by_name[name][-1], count, f"corruption={name} severity={severity}")
        means, total = {name: float(np.mean(each)) for name, each in by_name.items()}, sum(images.values())
        for number in sorted({len(ALEXNET), len(means)}):
            yield Score("mean_top1", float(np.mean(list(means.values())[:number])), total, f"corruptions={number}")
        if self._large(*subject.test.part.shape[:2]) and len(subject.classes) == 1000 and not self.severity:
            errors = [(100 - means[name]) / error for name, error in ALEXNET.items()]
            yield Score("mce", 100 * float(np.mean(errors)), total)

    @property
    def _names(self) -> list[str]:
        return [name for name, corruption in CORRUPTIONS.items() if self.extra or not corruption.extra]

    @property
    def _severities(self) -> tuple[int, ...]:
        return (self.severity,) if self.severity else (1, 2, 3, 4, 5)

    def _large(self, height: int, width: int) -> bool:
        return self.constants == "imagenet" or (self.constants == "auto" and max(height, width) > 64)

    def _made(self, subject: Subject) -> Seen:
        """The test set, corrupted by as many threads as there are cores while the network answers."""
        textures = own_textures() if self.frost == "own" else textures_of(self.frost)
        cores, first = len(os.sched_getaffinity(0)), 0
        pictures = dataclasses.replace(subject.test, batch=max(1, VALUES // int(np.prod(subject.test.part.shape))))
        with ThreadPoolExecutor(cores) as threads:
            for x, y in pictures.batches():
                images = (255 * x).round().byte().permute(0, 2, 3, 1).cpu().numpy()
                kinds = deque((name, severity) for name in self._names for severity in self._severities)
                coming: deque[tuple[str, int, Callable[[], np.ndarray]]] = deque()
                while kinds or coming:
                    while kinds and len(coming) < 2 * cores:
                        kind = kinds.popleft()
                        coming.append((*kind, threads.submit(self._corrupted, images, *kind, first, textures).result))
                    name, severity, made = coming.popleft()
                    yield name, severity, _in_units(made(), y.device), y
                first += len(y)

    def _corrupted(
        self, images: np.ndarray, name: str, severity: int, first: int, textures: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Images uint8 [B, H, W, C], of which the `first` has this place in the test set."""
        places = range(first, first + len(images))
        draws = [np.random.RandomState(derive_seed(0, self.name, name, severity, place) % 2**32) for place in places]
        colours = np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3)))
        made = corrupted(colours, name, severity, draws, self._large(*images.shape[1:3]), textures)
        return made[..., : images.shape[3]]

    def _published(self, subject: Subject) -> Seen:
        """The sets of a folder: five blocks, by severity, of uint8 images of each corruption, and labels."""
        folder, part, side = Path(self.sets), subject.test.part, subject.test.side
        labels = _array(folder / "labels.npy", self.name)
        if labels.max() >= len(subject.classes):
            raise SpecError(
                f"{folder / 'labels.npy'}: has label {labels.max()}, the network {len(subject.classes)} classes; name "
                "the sets of its data"
            )
        for name in self._names:
            file = folder / f"{name}.npy"
            images = _array(file, self.name)
            if images.dtype != np.uint8 or images.shape[1:] != tuple(part.shape) or len(images) % 5:
                raise SpecError(
                    f"{file}: must hold five blocks of images uint8 {tuple(part.shape)}, got {images.dtype} "
                    f"{images.shape}; name the sets of the data of the network"
                )
            count = len(images) // 5
            if len(labels) < count:
                raise SpecError(f"{folder / 'labels.npy'}: {len(labels)} labels are too few for {count} images")
            top, left = ((have - side) // 2 if side else 0 for have in part.shape[:2])
            for severity in self._severities:
                for start in range(0, count, subject.test.batch):
                    end = min(start + subject.test.batch, count)
                    block = images[(severity - 1) * count :][start:end]
                    block = block[:, top : top + (side or block.shape[1]), left : left + (side or block.shape[2])]
                    y = torch.from_numpy(labels[start:end].astype(np.int64)).to(part.device)
                    yield name, severity, _in_units(np.array(block), part.device), y


def _in_units(images: np.ndarray, device: Any) -> Tensor:
    return torch.from_numpy(images).to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255


def _array(file: Path, name: str) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise SpecError(
            f"{name}.sets: {file} cannot be read: {getattr(error, 'strerror', None) or error}; "
            "leave it out to corrupt the test set here"
        ) from None
