"""Pictures of what mixing methods do: real pairs at several shares, or with masks that are learned, over training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

from automixsearch.config.data import Data
from automixsearch.config.knobs import knobs_of
from automixsearch.data.base import ImageSet, channel_statistics
from automixsearch.data.files import find
from automixsearch.errors import DataError, SpecError
from automixsearch.mixers import MIXERS, Mixed, Mixer, PairDraw
from automixsearch.mixers.static_saliency import static_saliency
from automixsearch.models import build_model
from automixsearch.models.weights import load_weights

if TYPE_CHECKING:
    from torch import nn

    from automixsearch.config.trial import TrialConfig
    from automixsearch.training.run import EpochMetrics, TrainingRun

COLOURS = ((43, 108, 176), (221, 107, 32), (47, 133, 90), (128, 90, 213), (183, 121, 31), (180, 60, 100))
"""Of the sources of a mixed image: the image itself, its partner, further ones."""
INK, FAINT, LINE, PAPER = (26, 32, 44), (113, 128, 150), (226, 232, 240), (255, 255, 255)
CROWD = 8
"""Images in the batch from which pairs are shown: methods that mix many have more to choose from."""
NUDGE = 2.0**-12
"""What is added to one image to see where it goes; a power of two far above the rounding of float64."""
SHORT = {"width": 8, "batch_size": 64, "crop_pad": 1, "flip": False}
"""A training for a picture of masks: a narrow network, and images as they are shown."""
SHORT_OWN = {
    "layer": "l2",
    "ema_start": 0.9,
    "ema_end": 0.99,
    "mixblock_init": 0.3,
    "gamma": 1.0,
    "gamma_decay": "constant",
    "mask_loss": "l1_variance",
}
"""Knobs of the method in it: a teacher and masks that move within a few epochs instead of hundreds."""


@dataclass(frozen=True)
class Picture:
    """A mixed image: pixels uint8 [H, W, 3], the part of each of the B sources in each pixel [B, H, W] (None: inside
    the network), shares [B], the own share that was asked for (None: the method takes none), and a note."""

    pixels: np.ndarray
    parts: np.ndarray | None
    shares: np.ndarray
    asked: float | None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A method's name and what it makes of each shown pair at each share, or after each epoch, by pair."""

    name: str
    pictures: tuple[tuple[Picture, ...], ...]


class Crowd:
    """A batch of real images, one of each of an even number of classes, with all that a mixer may need."""

    def __init__(self, images: ImageSet, seed: int, network: nn.Module | None = None) -> None:
        rng = np.random.default_rng(seed)
        source = images.train
        classes = rng.permutation(np.unique(source.labels))[:CROWD]
        paired = classes[: len(classes) // 2 * 2]
        chosen = [int(rng.choice(np.flatnonzero(source.labels == label))) for label in paired]
        if len(chosen) < 2:
            raise DataError(f"{images.name}: has images of {len(classes)} class(es), and a gallery needs 2 or more")
        self.y = torch.from_numpy(source.labels[chosen])
        self.names = [images.classes[label] for label in self.y]
        self.pixels = torch.from_numpy(source.images[chosen])
        mean, std = channel_statistics(source.images, np.arange(len(source)))
        self.mean, self.std = torch.as_tensor(mean), torch.as_tensor(std)
        self.x = ((self.pixels.double() / 255 - self.mean) / self.std).permute(0, 3, 1, 2).contiguous()
        self.gradient = _gradient(network, self.x, self.y) if network else torch.zeros_like(self.x)
        self.saliency = self.gradient.square().mean(1).sqrt() if network else static_saliency(self.pixels).double()

    def mix(
        self, mixer: Mixer, lam: float, generator: Generator, masks: Callable[[Any], Tensor] | None = None
    ) -> tuple[Mixed, np.ndarray | None]:
        """Mix neighbours at own share `lam`; also the part of each source in each pixel of each image [B, B, H, W].

        The parts are found by adding a little to one image after the other: mixing is linear in the images.

        Args:
            masks: for a method that needs masks, those that belong to its draw.
        """
        batch, channels, height, width = self.x.shape
        draw = mixer.draw((batch, channels, height, width), generator)
        if isinstance(draw, PairDraw):
            draw = dataclasses.replace(draw.with_lam(lam), partner=torch.arange(batch) ^ 1)
        supply = {
            need: masks(draw) if need.startswith("mask") and masks else getattr(self, need)
            for need in mixer.needs_of(draw)
        }
        mixed = mixer.apply(self.x, draw, **supply)
        if mixed.stage != "input" or mixed.views is not None:
            return mixed, None
        nudges = NUDGE * torch.eye(batch, dtype=self.x.dtype)
        moved = [mixer.apply(self.x + nudge[:, None, None, None], draw, **supply).x for nudge in nudges]
        parts = torch.stack([(other - mixed.x).mean(1) / NUDGE for other in moved], dim=1)
        return mixed, parts.clamp(0, 1).numpy()

    def shown(self, x: Tensor) -> np.ndarray:
        """A normalised image [C, H, W] as uint8 [H, W, 3]."""
        pixels = (x.permute(1, 2, 0) * self.std + self.mean).mul(255).round().clamp(0, 255).to(torch.uint8).numpy()
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _gradient(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    own = x.float().requires_grad_()
    loss = torch.nn.functional.cross_entropy(network.eval()(own), y, reduction="sum")
    return torch.autograd.grad(loss, own)[0].double()


def gallery_row(crowd: Crowd, mixer: Mixer, lams: Sequence[float], pairs: int, seed: int) -> Row:
    """What `mixer` makes of the first `pairs` pairs at each own share."""
    columns = [_column(crowd, mixer, lam, pairs, seed, number) for number, lam in enumerate(lams)]
    return Row(mixer.name, tuple(zip(*columns, strict=True)))


def learned_row(
    crowd: Crowd,
    run: TrainingRun,
    epochs: Sequence[int],
    lam: float,
    pairs: int,
    seed: int,
    report: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> Row:
    """What the Mix Block of `run` makes of the first `pairs` pairs at the start and after each of `epochs`.

    Trains `run`, which must be new, up to the last of `epochs`, which increase; `report` hears of every epoch.
    """

    algorithm: Any = run.algorithm

    def look() -> list[Picture]:
        return _column(crowd, algorithm.mixer, lam, pairs, seed, masks=lambda draw: algorithm.masks(crowd.pixels, draw))

    columns = [look()]
    for metrics in run.epochs():
        report(metrics)
        if metrics.epoch in epochs:
            columns.append(look())
        if metrics.epoch == epochs[-1]:
            break
    return Row(algorithm.mixer.name, tuple(zip(*columns, strict=True)))


def _column(
    crowd: Crowd,
    mixer: Mixer,
    lam: float,
    pairs: int,
    seed: int,
    number: int = 0,
    masks: Callable[[Any], Tensor] | None = None,
) -> list[Picture]:
    """The first `pairs` pairs at own share `lam`, in column `number`."""
    # Where no share can be asked for, every column has a draw of its own.
    asks = isinstance(mixer.draw((2, 1, 8, 8), Generator().manual_seed(0)), PairDraw)
    generator = Generator().manual_seed(seed if asks else seed + 7919 * number)
    mixed, parts = crowd.mix(mixer, lam, generator, masks)
    return [_picture(crowd, mixed, parts, 2 * pair, number, lam if asks else None) for pair in range(pairs)]


def _picture(
    crowd: Crowd, mixed: Mixed, parts: np.ndarray | None, at: int, number: int, asked: float | None
) -> Picture:
    shares = np.zeros(len(crowd.y))
    np.add.at(shares, mixed.sources[at].numpy(), mixed.shares[at].numpy())
    x, note = mixed.x[at], ""
    if mixed.views is not None:
        x, note = mixed.views[number % len(mixed.views), at], "another view"
    elif mixed.stage != "input":
        note = f"mixed after {mixed.stage}"
    return Picture(crowd.shown(x), None if parts is None else parts[at], shares, asked, note)


def draw_gallery(crowd: Crowd, rows: Sequence[Row], lams: Sequence[float], title: str, tile: int = 88) -> Image.Image:
    """Lay the rows out: names on the left, the pairs side by side, at each mixed image its mask and label shares."""
    pairs = len(rows[0].pictures)
    small, plain, bold = (ImageFont.load_default(size) for size in (11, 13, 15))
    gap, left, head, foot = 12, 112, 34, 30
    cell = tile + 2 + tile // 2 + gap
    block = len(lams) * cell + 18
    height_of_row = tile + 30
    top = head + tile + 44
    page = Image.new("RGB", (left + pairs * block, top + len(rows) * height_of_row + foot), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((10, 8), title, INK, bold)
    for pair in range(pairs):
        across = left + pair * block
        for side in range(2):
            x = across + side * cell
            _paste(page, crowd.shown(crowd.x[2 * pair + side]), (x, head), tile)
            pen.rectangle((x - 1, head - 1, x + tile, head + tile), outline=COLOURS[side], width=2)
            _centred(pen, (x, head + tile + 3), tile, crowd.names[2 * pair + side], COLOURS[side], plain)
        for column, lam in enumerate(lams):
            _centred(pen, (across + column * cell, top - 19), tile, f"own share {lam:g}", FAINT, small)
    for number, row in enumerate(rows):
        y = top + number * height_of_row
        pen.text((10, y + tile // 2 - 9), row.name, INK, plain)
        for pair, pictures in enumerate(row.pictures):
            palette = _palette(len(crowd.y), 2 * pair)
            for column, picture in enumerate(pictures):
                x = left + pair * block + column * cell
                _paste(page, picture.pixels, (x, y), tile)
                _mask(page, pen, picture, palette, (x + tile + 2, y), tile // 2, small)
                _bar(pen, picture.shares, palette, (x, y + tile + 2), tile, small)
    words = (("Where it shows", FAINT), ("the image itself,", COLOURS[0]), ("its partner,", COLOURS[1]))
    words += (("others;", COLOURS[2]), ("bars: label shares in %", FAINT))
    _words(pen, (10, page.height - 22), words, small)
    return page


def draw_masks(
    crowd: Crowd, fixed: Sequence[Row], learned: Sequence[Row], epochs: Sequence[int], title: str, tile: int = 88
) -> Image.Image:
    """Lay the rows out as columns: fixed methods, then the start and each of `epochs` of each learned one.

    Every pair is a band: the image and its partner on the left, beside them mixed images over their masks.
    """
    small, plain, bold = (ImageFont.load_default(size) for size in (11, 13, 15))
    step, aside, head, below = tile + 12, 12, 78, tile + 25
    band = 2 * below + 16
    captions = ["start", *(f"epoch {epoch}" for epoch in epochs)]
    columns, groups, x = [], [], 10 + step + aside
    for row in fixed:
        columns.append((x, row.name, [pictures[0] for pictures in row.pictures]))
        x += step
    for row in learned:
        x += aside if columns else 0
        groups.append((x, len(captions) * step - 12, row.name))
        for number, caption in enumerate(captions):
            columns.append((x, caption, [pictures[number] for pictures in row.pictures]))
            x += step
    which = ("the image itself,", COLOURS[0]), ("its partner,", COLOURS[1]), ("others.", COLOURS[2])
    legend = (
        (("Above: mixed images, with their label shares in %.", FAINT),),
        (("Below: their masks, which show", FAINT), *which),
        (("52 % for 50 %: the mean of a mask, and the own share asked for.", FAINT),),
    )
    pairs = len((*fixed, *learned)[0].pictures)
    lines = [sum(_length(text + " ", small) for text, _ in line) for line in legend]
    width = max(x - 12, _length(title, bold) + 10, *(line + 10 for line in lines)) + 10
    page = Image.new("RGB", (int(width), head + pairs * band + 15 * len(legend) + 4), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((10, 8), title, INK, bold)
    for x, wide, name in groups:
        _centred(pen, (x, 35), wide, f"{name}, while it trains", INK, plain)
        pen.line((x, head - 23, x + wide - 1, head - 23), LINE, 1)
    for x, caption, _ in columns:
        _centred(pen, (x, head - 20), tile, caption, INK, plain)
    for pair in range(pairs):
        y = head + pair * band
        for side in range(2):
            place = (10, y + side * below)
            _paste(page, crowd.shown(crowd.x[2 * pair + side]), place, tile)
            pen.rectangle((9, place[1] - 1, 10 + tile, place[1] + tile), outline=COLOURS[side], width=2)
            _centred(pen, (10, place[1] + tile + 3), tile, crowd.names[2 * pair + side], COLOURS[side], plain)
        palette = _palette(len(crowd.y), 2 * pair)
        for x, _, pictures in columns:
            picture = pictures[pair]
            _paste(page, picture.pixels, (x, y), tile)
            _bar(pen, picture.shares, palette, (x, y + tile + 2), tile, small)
            _mask(page, pen, picture, palette, (x, y + below), tile, small)
            if picture.parts is not None:
                means = picture.parts.mean((1, 2))
                _bar(pen, means, palette, (x, y + below + tile + 2), tile, small, picture.asked)
    for number, line in enumerate(legend):
        _words(pen, (10, head + pairs * band + 15 * number - 4), line, small)
    return page


def _palette(count: int, at: int) -> list[tuple[int, int, int]]:
    """The colour of each image of the batch, seen from image `at`."""
    others = iter(COLOURS[2:] * count)
    return [COLOURS[0] if i == at else COLOURS[1] if i == at + 1 else next(others) for i in range(count)]


def _paste(page: Image.Image, pixels: np.ndarray, place: tuple[int, int], side: int) -> None:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    enlarged = max(image.size) < side
    page.paste(image.resize((side, side), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS), place)
    ImageDraw.Draw(page).rectangle((place[0], place[1], place[0] + side - 1, place[1] + side - 1), outline=LINE)


def _mask(page: Any, pen: Any, picture: Picture, palette: Any, place: tuple[int, int], side: int, font: Any) -> None:
    if picture.parts is None:
        for line, word in enumerate(picture.note.split()):
            pen.text((place[0] + 2, place[1] + 13 * line), word, FAINT, font)
        return
    colours = np.tensordot(picture.parts, np.array(palette, float), axes=(0, 0))
    total = picture.parts.sum(0)[..., None]
    shown = np.clip(colours + (1 - total) * 255, 0, 255).astype(np.uint8)
    _paste(page, shown, place, side)


def _bar(
    pen: Any,
    shares: np.ndarray,
    palette: Any,
    place: tuple[int, int],
    width: int,
    font: Any,
    asked: float | None = None,
) -> None:
    """A bar of `shares` with their values in %, or with the first of them beside the own share `asked` for."""
    start, names = float(place[0]), []
    for source in sorted(np.flatnonzero(shares > 1e-6), key=lambda i: palette.index(palette[i])):
        end = start + width * shares[source]
        pen.rectangle((start, place[1], max(end - 1, start), place[1] + 5), fill=palette[source])
        names.append((f"{100 * shares[source]:.0f}", palette[source]))
        start = end
    if asked is not None:
        own = shares[palette.index(COLOURS[0])]
        names = [(f"{100 * own:.0f} %", COLOURS[0]), (f" for {100 * asked:.0f} %", FAINT)]
    used = sum(_length(text + " ", font) for text, _ in names)
    _words(pen, (place[0] + (width - used) / 2, place[1] + 7), names, font)


def _words(pen: Any, place: tuple[float, float], words: Sequence[tuple[str, Any]], font: Any) -> None:
    x = place[0]
    for text, colour in words:
        pen.text((x, place[1]), text, colour, font)
        x += _length(text + " ", font)


def _length(text: str, font: Any) -> float:
    """Of a line of text, in pixels."""
    return font.getlength(text)


def _centred(pen: Any, place: tuple[int, int], width: int, text: str, colour: Any, font: Any) -> None:
    while len(text) > 3 and pen.textlength(text, font=font) > width:
        text = text[:-2].rstrip("\u2026 ") + "\u2026"
    pen.text((place[0] + (width - pen.textlength(text, font=font)) / 2, place[1]), text, colour, font)


def data_at(word: str) -> Data:
    """The data set that a word names: `digits`, or a directory in one of the layouts that are read.

    Raises:
        DataError: the directory does not exist.
    """
    if word == "digits":
        return Data()
    folder = find(word)
    if any(folder.rglob("*.parquet")):
        return Data(source="parquet", path=word)
    if Path(folder, "cifar-10-batches-py").is_dir():
        return Data(source="cifar10", path=word)
    if Path(folder, "cifar-100-python").is_dir():
        return Data(source="cifar100", path=word)
    return Data(source="folder", path=word)


def load_network(config: TrialConfig, weights: str, images: ImageSet) -> nn.Module:
    """The network of a config with the weights that `train --out` saved.

    Raises:
        SpecError: the file is no such weights, or they do not fit the config and the images.
    """
    side, channels = images.train.images.shape[2:]
    recipe = dataclasses.replace(config.recipe, weights="")
    network = build_model(recipe, channels, len(images.classes), config.seed, side, config.plugins)
    if not load_weights(network, weights, recipe.backbone):
        raise SpecError(f"{weights}: was trained for another number of classes than {images.name} has")
    return network


def picture_file(name: str) -> Path:
    """Check that a picture can be written there.

    Raises:
        SpecError: the ending is none that Pillow writes, or the directory does not exist.
    """
    path = Path(name)
    Image.init()
    if path.suffix.lower() not in Image.EXTENSION:
        raise SpecError(f"--out {name}: {path.suffix or 'a name without an ending'} is no picture; use mixes.png")
    if not path.absolute().parent.is_dir():
        raise SpecError(f"--out {name}: there is no directory {path.parent}; make it first")
    return path


def make_gallery(
    images: ImageSet,
    mixers: Mapping[str, Mixer],
    lams: Sequence[float] = (0.25, 0.5, 0.75),
    pairs: int = 2,
    seed: int = 0,
    network: nn.Module | None = None,
) -> Image.Image:
    """Draw a picture of what `mixers` do with images of a data set.

    Args:
        lams: own shares, the columns. Methods that cannot be asked for a share have a new draw in each column.
        pairs: how many pairs of images, 1 to 4.
        network: whose input gradient is the saliency; None: fine-grained static saliency.
    """
    crowd = Crowd(images, seed, network)
    pairs = min(pairs, len(crowd.y) // 2)
    rows = [gallery_row(crowd, mixer, lams, pairs, seed) for mixer in mixers.values()]
    return draw_gallery(crowd, rows, lams, f"Mixing methods on {images.name}")


def masks_config(method: str, data: Data, epochs: Sequence[int], knobs: Mapping[str, Any], seed: int) -> TrialConfig:
    """A short training with `method`, whose masks are learned, up to the last of `epochs`; `knobs` come first.

    Raises:
        SpecError: a knob is wrong, no Mix Block makes the masks, or the training ends before the last epoch.
    """
    from automixsearch.config.files import build
    from automixsearch.config.trial import TrialConfig

    own = {f"{method}.{name}": value for name, value in SHORT_OWN.items() if name in knobs_of(MIXERS[method])}
    chosen = {"method": method, "epochs": epochs[-1], **SHORT, **own, **knobs}
    config = build(TrialConfig, {"data": data, "seed": seed, "knobs": chosen}, "gallery")
    made_by = config.knobs.get(f"{method}.mask_source", "mixblock")
    if made_by != "mixblock":
        raise SpecError(f"{method}.mask_source = {made_by} learns no masks to draw; use mixblock, or drop --epochs")
    if config.recipe.epochs < epochs[-1]:
        raise SpecError(
            f"--epochs names epoch {epochs[-1]}, but the training ends after epochs = {config.recipe.epochs}; "
            "raise epochs, or name earlier ones"
        )
    return config


def make_masks(
    images: ImageSet,
    mixers: Mapping[str, Mixer],
    configs: Sequence[TrialConfig],
    epochs: Sequence[int],
    lam: float = 0.5,
    pairs: int = 2,
    seed: int = 0,
    network: nn.Module | None = None,
    report: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> Image.Image:
    """Draw the masks that methods learn while a network trains, beside those of `mixers`, which are fixed.

    Args:
        configs: what to train, one for each method that learns its masks; see `masks_config`.
        epochs: after which the masks are drawn, increasing; the start is always drawn.
        lam: own share of all mixed images.
        pairs, seed, network: as in `make_gallery`.
        report: hears of every epoch that is trained.
    """
    from automixsearch.training.run import TrainingRun, pick_device

    crowd = Crowd(images, seed, network)
    pairs = min(pairs, len(crowd.y) // 2)
    fixed = [gallery_row(crowd, mixer, [lam], pairs, seed) for mixer in mixers.values()]
    runs = (TrainingRun(config, images, pick_device()) for config in configs)
    learned = [learned_row(crowd, run, epochs, lam, pairs, seed, report) for run in runs]
    return draw_masks(crowd, fixed, learned, epochs, f"Masks on {images.name} at own share {lam:g}")
