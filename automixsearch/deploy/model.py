"""A trained network in one file, with all that is needed to use it: what its images are, and what its classes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from automixsearch.config.frozen import Frozen
from automixsearch.config.trial import TrialConfig
from automixsearch.data.decode import opened
from automixsearch.errors import DataError, SpecError, TrainingError, remedy
from automixsearch.models.build import build_model
from automixsearch.versions import code_version

if TYPE_CHECKING:
    from automixsearch.training.run import TrainingRun

KEY = "automixsearch"
"""Of the metadata of the file: JSON of a `Card`."""
DIGEST = "sha256"
"""Of the metadata too: that of the card and of all tensors. Who changes the card by hand removes it."""
ENDING = ".safetensors"
MOST_PIXELS = 89_478_485
"""Of an image that a network is built for: what Pillow takes to be no bomb."""


class Card(Frozen):
    """What a file says of its network.

    stored: height and width of the images of its data set, as decoded. side: of the images that the network was built
    for. mean, std: per channel, in 0..1 units.
    """

    format: int = Field(default=1, ge=1, le=1)
    config: TrialConfig
    classes: Annotated[list[str], Field(min_length=1)]
    channels: int = Field(ge=1)
    stored: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
    side: int = Field(ge=1, le=10_000)
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]
    code: str

    @model_validator(mode="after")
    def _is_possible(self) -> Card:
        if math.prod(self.stored) > MOST_PIXELS:
            raise ValueError(f"stored = {self.stored} are more than {MOST_PIXELS:,} pixels")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean and std have {len(self.mean)} and {len(self.std)} values, and channels = {self.channels}"
            )
        return self


def _digest(card: str, state: Mapping[str, Tensor]) -> str:
    """Of the text of a card, and of names, types, forms and values of all tensors."""
    made = hashlib.sha256(card.encode())
    for name, value in sorted(state.items()):
        made.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        made.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return made.hexdigest()


class TrainedModel(nn.Module):
    """A trained network that takes images as they are: [B, C, H, W], uint8 or float in 0..1 -> logits [B, K].

    The middle of the images is cut out where the network was tested so, and normalisation is inside.

    classes: their names, in the order of the logits. config: of the run. size: (height, width) of the images of its
    data set, to which `read` brings a file.
    """

    def __init__(self, card: Card, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.classes, self.config, self.size = tuple(card.classes), card.config, (card.stored[0], card.stored[1])
        self.card = card
        recipe = card.config.recipe
        plain = {**card.config.knobs, "weights": ""}
        config = card.config.model_copy(update={"knobs": plain})
        self.network = build_model(config.recipe, card.channels, len(card.classes), 0, card.side, config.plugins)
        self.network.load_state_dict(state)
        self.test_size = recipe.test_size
        # (u / 255 - mean) / std as one multiply-add, as in training.
        mean, std = (np.array(values, np.float32) for values in (card.mean, card.std))
        self.register_buffer("scale", torch.as_tensor(1.0 / (255.0 * std), dtype=torch.float32), persistent=False)
        self.register_buffer("shift", torch.as_tensor(-mean / std, dtype=torch.float32), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K].

        Raises:
            TrainingError: the images have another form, or other channels.
        """
        if images.ndim != 4 or images.shape[1] != self.card.channels:
            raise TrainingError(
                f"images must be [B, {self.card.channels}, H, W], uint8 or float in 0..1, and are {list(images.shape)}"
            )
        pixels = images.float() if images.dtype == torch.uint8 else images * 255
        if self.test_size:
            top, left = ((have - self.test_size) // 2 for have in images.shape[2:])
            pixels = pixels[:, :, top : top + self.test_size, left : left + self.test_size]
        scale, shift = self.get_buffer("scale"), self.get_buffer("shift")
        return self.network(torch.addcmul(shift[:, None, None], pixels, scale[:, None, None]))

    def read(self, files: Sequence[str | Path]) -> Tensor:
        """Image files as the data set of the run had them: uint8 [B, C, H, W].

        They are fitted to `size` as `data.resize` of the run says, cut and turned likewise.

        Raises:
            DataError: a file is missing or is no image.
        """
        height, width = self.size
        data = self.config.data
        if data.size is None and height == width:
            data = data.model_copy(update={"size": height})
        made = []
        for file in files:
            image = opened(Path(file), data, str(file)).image
            if (image.height, image.width) != (height, width):
                raise DataError(f"{file}: has {image.height} x {image.width} pixels, not {height} x {width}")
            pixels = np.asarray(image.convert("L") if self.card.channels == 1 else image)
            made.append(pixels.reshape(height, width, self.card.channels).transpose(2, 0, 1))
        return torch.from_numpy(np.stack(made))


def save_model(file: str | Path, run: TrainingRun, classes: Sequence[str]) -> None:
    """Write what a run has trained, with what is needed to use it.

    Args:
        file: ends in .safetensors. classes: the names of the classes, in the order of the labels.
    """
    from safetensors.torch import save_file

    images = run.test.shape
    card = Card(
        config=run.config,
        classes=list(classes),
        channels=images[2],
        stored=[images[0], images[1]],
        side=run.train_side,
        mean=run.test.mean.tolist(),
        std=run.test.std.tolist(),
        code=code_version(),
    )
    state = {name: value.contiguous().cpu() for name, value in run.network.state_dict().items()}
    text = card.model_dump_json()
    save_file(state, str(file), {KEY: text, DIGEST: _digest(text, state)})


def load_model(file: str | Path) -> TrainedModel:
    """The network of a file that `automixsearch train --out FILE.safetensors` wrote, with its preprocessing inside.

    Raises:
        DataError: there is no such file, or it is damaged. SpecError: it is not such a file.

    Examples:
        >>> import automixsearch
        >>> model = load_model("model.safetensors")  # doctest: +SKIP
        >>> model(model.read(["cat.png"])).softmax(1)  # doctest: +SKIP
    """
    from safetensors import SafetensorError, safe_open

    if not Path(file).is_file():
        raise DataError(f"{file}: no such file; train --out FILE.safetensors writes one")
    try:
        with safe_open(str(file), "pt") as content:
            metadata = content.metadata() or {}
            card: Any = metadata.get(KEY)
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise SpecError(
            f"{file}: is no whole safetensors file ({error}); give what train --out FILE.safetensors wrote"
        ) from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}; {remedy(error)}") from None
    if card is None:
        raise SpecError(f"{file}: does not say how its network is used; give what train --out FILE.safetensors wrote")
    if DIGEST in metadata and metadata[DIGEST] != _digest(card, state):
        raise DataError(f"{file}: was changed since it was written; restore it from a copy, or train its config again")
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise DataError(f"{file}: {name} holds values that are no numbers; restore it from a copy, or train again")
    try:
        return TrainedModel(Card.model_validate_json(card), state)
    except (ValidationError, ValueError, RuntimeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpecError(f"{file}: what it says of its network does not fit it: {reason}; write it anew") from None
