"""A picture of what mixing methods do: real pairs at several shares, with masks and label shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

from automixsearch.data.base import ImageSet, channel_statistics
from automixsearch.errors import DataError, SpecError
from automixsearch.mixers import Mixed, Mixer, PairDraw
from automixsearch.mixers.static_saliency import static_saliency
from automixsearch.models import build_model
from automixsearch.models.weights import load_weights

if TYPE_CHECKING:
    from torch import nn

    from automixsearch.spec import Data, TrialConfig

COLOURS = ((43, 108, 176), (221, 107, 32), (47, 133, 90), (128, 90, 213), (183, 121, 31), (180, 60, 100))
"""Of the sources of a mixed image: the image itself, its partner, further ones."""
INK, FAINT, LINE, PAPER = (26, 32, 44), (113, 128, 150), (226, 232, 240), (255, 255, 255)
CROWD = 8
"""Images in the batch from which pairs are shown: methods that mix many have more to choose from."""
NUDGE = 2.0**-12
"""What is added to one image to see where it goes; a power of two far above the rounding of float64."""


@dataclass(frozen=True)
class Picture:
    """A mixed image: pixels uint8 [H, W, 3], the part of each of the B sources in each pixel [B, H, W] (None: inside
    the network), shares [B], and a note."""

    pixels: np.ndarray
    parts: np.ndarray | None
    shares: np.ndarray
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A method's name and what it makes of each shown pair at each share, by pair."""

    name: str
    pictures: tuple[tuple[Picture, ...], ...]


class Crowd:
    """A batch of real images, one of each of several classes, with all that a mixer may need."""

    def __init__(self, images: ImageSet, seed: int, network: nn.Module | None = None) -> None:
        rng = np.random.default_rng(seed)
        source = images.train
        classes = rng.permutation(np.unique(source.labels))[:CROWD]
        chosen = [rng.choice(np.flatnonzero(source.labels == label)) for label in classes]
        if len(chosen) < 2:
            raise DataError("a gallery needs images of 2 classes or more")
        self.y = torch.from_numpy(source.labels[chosen])
        self.names = [images.classes[label] for label in self.y]
        self.pixels = torch.from_numpy(source.images[chosen])
        mean, std = channel_statistics(source.images, np.arange(len(source)))
        self.mean, self.std = torch.as_tensor(mean), torch.as_tensor(std)
        self.x = ((self.pixels.double() / 255 - self.mean) / self.std).permute(0, 3, 1, 2).contiguous()
        self.gradient = _gradient(network, self.x, self.y) if network else torch.zeros_like(self.x)
        self.saliency = self.gradient.square().mean(1).sqrt() if network else static_saliency(self.pixels).double()

    def mix(self, mixer: Mixer, lam: float, generator: Generator) -> tuple[Mixed, np.ndarray | None]:
        """Mix neighbours at own share `lam`; also the part of each source in each pixel of each image [B, B, H, W].

        The parts are found by adding a little to one image after the other: mixing is linear in the images.
        """
        batch, channels, height, width = self.x.shape
        draw = mixer.draw((batch, channels, height, width), generator)
        if isinstance(draw, PairDraw):
            draw = dataclasses.replace(draw.with_lam(lam), partner=torch.arange(batch) ^ 1)
        supply = {need: getattr(self, need) for need in mixer.needs_of(draw)}
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
    # Where no share can be asked for, every column has a draw of its own.
    asked = isinstance(mixer.draw((2, 1, 8, 8), Generator().manual_seed(0)), PairDraw)
    by_share = []
    for number, lam in enumerate(lams):
        generator = Generator().manual_seed(seed if asked else seed + 7919 * number)
        mixed, parts = crowd.mix(mixer, lam, generator)
        by_share.append([_picture(crowd, mixed, parts, 2 * pair, number) for pair in range(pairs)])
    return Row(mixer.name, tuple(zip(*by_share, strict=True)))


def _picture(crowd: Crowd, mixed: Mixed, parts: np.ndarray | None, at: int, number: int) -> Picture:
    shares = np.zeros(len(crowd.y))
    np.add.at(shares, mixed.sources[at].numpy(), mixed.shares[at].numpy())
    x, note = mixed.x[at], ""
    if mixed.views is not None:
        x, note = mixed.views[number % len(mixed.views), at], "another view"
    elif mixed.stage != "input":
        note = f"mixed after {mixed.stage}"
    return Picture(crowd.shown(x), None if parts is None else parts[at], shares, note)


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
    x = 10.0
    for text, colour in words:
        pen.text((x, page.height - 22), text, colour, small)
        x += pen.textlength(text + " ", font=small)
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


def _bar(pen: Any, shares: np.ndarray, palette: Any, place: tuple[int, int], width: int, font: Any) -> None:
    start, names = float(place[0]), []
    for source in sorted(np.flatnonzero(shares > 1e-6), key=lambda i: palette.index(palette[i])):
        end = start + width * shares[source]
        pen.rectangle((start, place[1], max(end - 1, start), place[1] + 5), fill=palette[source])
        names.append((f"{100 * shares[source]:.0f}", palette[source]))
        start = end
    widths = [pen.textlength(text + " ", font=font) for text, _ in names]
    x = place[0] + (width - sum(widths)) / 2
    for (text, colour), advance in zip(names, widths, strict=True):
        pen.text((x, place[1] + 7), text, colour, font)
        x += advance


def _centred(pen: Any, place: tuple[int, int], width: int, text: str, colour: Any, font: Any) -> None:
    while len(text) > 3 and pen.textlength(text, font=font) > width:
        text = text[:-2].rstrip("\u2026 ") + "\u2026"
    pen.text((place[0] + (width - pen.textlength(text, font=font)) / 2, place[1]), text, colour, font)


def data_at(word: str) -> Data:
    """The data set that a word names: `digits`, or a directory in one of the layouts that are read.

    Raises:
        DataError: the directory does not exist.
    """
    from automixsearch.data.base import find
    from automixsearch.spec import Data

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
    network = build_model(recipe, channels, len(images.classes), config.seed, side)
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
