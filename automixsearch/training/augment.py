"""Augmentation of stored images on their device: crop, flip, colours, RandAugment, erasing.

Everything works on uint8 values of 0 to 255, before normalisation, and draws from an explicit generator on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from automixsearch.config.recipe import Recipe
from automixsearch.mixers import image_ops
from automixsearch.training import strong

ATTEMPTS = 10
"""How often a box of random area and shape is drawn until it fits into its image."""


def cropped(images: Tensor, chosen: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """Crop, and maybe flip, the `chosen` int64 [B] of `images` uint8 [N, H, W, C]: uint8 [B, h, w, C],
    h = w = recipe.train_size, or as stored where that is 0."""
    size = recipe.train_size or images.shape[1], recipe.train_size or images.shape[2]
    if recipe.crop == "resized":
        pixels = resized_crops(images[chosen], recipe.crop_scale, size, generator)
        return flipped(pixels, generator) if recipe.flip else pixels
    return padded_crops(images, chosen, size, recipe, generator)


def augmented(images: Tensor, chosen: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """As `cropped`, with all further augmentation of the recipe."""
    pixels = cropped(images, chosen, recipe, generator)
    if recipe.color_jitter or recipe.rand_augment:
        channels_first = pixels.permute(0, 3, 1, 2).contiguous()
        if recipe.color_jitter:
            channels_first = color_jitter(channels_first, recipe.color_jitter, generator)
        if recipe.rand_augment:
            strength = (recipe.rand_augment, recipe.rand_augment_std, recipe.rand_augment_ops)
            channels_first = rand_augment(channels_first, *strength, generator)
        pixels = channels_first.permute(0, 2, 3, 1).contiguous()
    return erased(pixels, recipe.erasing, generator) if recipe.erasing else pixels


def padded_crops(images: Tensor, chosen: Tensor, size: tuple[int, int], recipe: Recipe, generator: Generator) -> Tensor:
    """Random crops of `size` from padded images, maybe flipped: uint8 [B, *size, C].

    One gather does it all: padding is index arithmetic, so no padded copy is made.
    """
    pad, count, device = recipe.crop_pad, len(chosen), images.device
    height, width = images.shape[1:3]
    if pad == 0 and not recipe.flip and size == (height, width):
        return images[chosen]
    down, right = (
        torch.randint(-pad, have - want + pad + 1, (count, 1), generator=generator)
        for have, want in zip((height, width), size, strict=True)
    )
    rows, row_inside = _positions(height, size[0], down, recipe.pad_mode)
    columns, column_inside = _positions(width, size[1], right, recipe.pad_mode)
    if recipe.flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
        column_inside = torch.where(mirrored, column_inside.flip(1), column_inside)
    rows, columns = rows.to(device, non_blocking=True), columns.to(device, non_blocking=True)
    pixels = images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
    if pad and recipe.pad_mode == "zero":
        inside = (
            row_inside.to(device, non_blocking=True)[:, :, None]
            & column_inside.to(device, non_blocking=True)[:, None, :]
        )
        pixels = pixels * inside[..., None]
    return pixels


def _positions(length: int, wanted: int, offset: Tensor, pad_mode: str) -> tuple[Tensor, Tensor]:
    """`wanted` source positions [B, wanted] of a line from `offset` [B, 1] on, and which of them lie inside."""
    position = torch.arange(wanted) + offset
    inside = (position >= 0) & (position < length)
    if pad_mode == "reflect":
        position = (length - 1) - ((length - 1) - position.abs()).abs()
    return position.clamp(0, length - 1), inside


def flipped(pixels: Tensor, generator: Generator) -> Tensor:
    """Every image [B, H, W, C], or half of them at random, mirrored."""
    mirrored = (torch.rand(len(pixels), generator=generator) < 0.5).to(pixels.device, non_blocking=True)
    return torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)


def resized_crops(pixels: Tensor, smallest: float, size: tuple[int, int], generator: Generator) -> Tensor:
    """Random boxes of `smallest` to all of the area and of ratio 3/4 to 4/3, resized to `size`: uint8 [B, *size, C].

    Bicubic with antialiasing, as torchvision's RandomResizedCrop. Where no box fits, the largest of a legal ratio in
    the middle is taken.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as vision

    height, width = pixels.shape[1:3]
    boxes, fits = random_boxes(len(pixels), height, width, (smallest, 1.0), (3 / 4, 4 / 3), generator)
    tall, wide = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    middle = torch.tensor([(height - tall) // 2, (width - wide) // 2, tall, wide])
    boxes = torch.where(fits[:, None], boxes, middle)
    crops = [
        vision.resized_crop(image, top, left, tall, wide, list(size), InterpolationMode.BICUBIC, antialias=True)
        for image, (top, left, tall, wide) in zip(pixels.permute(0, 3, 1, 2), boxes.tolist(), strict=True)
    ]
    return torch.stack(crops).permute(0, 2, 3, 1).contiguous()


def random_boxes(
    count: int,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Boxes (top, left, height, width), int64 [count, 4], and whether one was found that fits, bool [count].

    Args:
        area: smallest and largest, as a share of the image; uniform. ratio: of width to height; log-uniform.
    """
    uniform = torch.rand(4, count, ATTEMPTS, generator=generator, dtype=torch.float64)
    space = height * width * (area[0] + (area[1] - area[0]) * uniform[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = (low + (high - low) * uniform[1]).exp()
    tall, wide = (space / shape).sqrt().round().long(), (space * shape).sqrt().round().long()
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    top = (uniform[2] * (height - tall + 1)).floor().long()
    left = (uniform[3] * (width - wide + 1)).floor().long()
    first = fits.int().argmax(1, keepdim=True)
    boxes = torch.stack([part.gather(1, first)[:, 0] for part in (top, left, tall, wide)], 1)
    return boxes, fits.any(1)


def erased(pixels: Tensor, probability: float, generator: Generator) -> Tensor:
    """A box of 2 to 33 % of the area in some images replaced by noise, for every value its own.

    Source: Zhong et al., arXiv 1708.04896; noise as in DeiT, arXiv 2012.12877.
    Differs: the noise is uniform over 0 to 255, where DeiT has N(0, 1) after normalisation.
    """
    count, height, width, channels = pixels.shape
    boxes, fits = random_boxes(count, height, width, (0.02, 1 / 3), (0.3, 1 / 0.3), generator)
    hit = fits & (torch.rand(count, generator=generator) < probability)
    pixels = pixels.clone()
    for place in hit.nonzero()[:, 0].tolist():
        top, left, tall, wide = boxes[place].tolist()
        noise = torch.randint(256, (tall, wide, channels), generator=generator, dtype=torch.uint8)
        pixels[place, top : top + tall, left : left + wide] = noise.to(pixels.device, non_blocking=True)
    return pixels


def color_jitter(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Brightness, contrast and colour of images uint8 [B, C, H, W] times factors of 1 - strength to 1 + strength.

    Differs from torchvision's ColorJitter: the order is drawn for the batch, not for every image; factors stop at 1.9.
    """
    operations = (image_ops.brightness, image_ops.contrast, image_ops.color)
    for place in torch.randperm(3, generator=generator).tolist():
        factor = 1 + strength * (2 * torch.rand(len(images), generator=generator, dtype=torch.float64) - 1)
        images = operations[place](images, level_of(factor), torch.ones_like(factor))
    return images


def rand_augment(images: Tensor, magnitude: float, spread: float, operations: int, generator: Generator) -> Tensor:
    """RandAugment on uint8 [B, C, H, W]: `operations` times a random operation of 15, done with probability 1/2.

    The level of each is N(magnitude, spread), clipped to 0..10, 10 being the strongest; all grow stronger with it.

    Source: Cubuk et al., arXiv 1909.13719, in the form with which DeiT and RSB train (m9-mstd0.5-inc1).
    Differs: what is moved in from outside is black, and interpolation is bilinear.
    """
    names = list(RAND_AUGMENT)
    for _ in range(operations):
        which = torch.randint(len(names), (len(images),), generator=generator)
        done = torch.rand(len(images), generator=generator) < 0.5
        normal = torch.randn(len(images), generator=generator, dtype=torch.float64)
        level = (magnitude + spread * normal).clamp(0, 10)
        sign = 1.0 - 2 * torch.randint(2, (len(images),), generator=generator).double()
        images = images.clone()
        for number, name in enumerate(names):
            chosen = ((which == number) & done).nonzero()[:, 0]
            if len(chosen):
                place = chosen.to(images.device, non_blocking=True)
                images[place] = RAND_AUGMENT[name](images[place], level[chosen], sign[chosen])
    return images


def level_of(factor: Tensor) -> Tensor:
    """The level at which `image_ops` enhances by `factor`."""
    return (factor - 0.1) / 0.18


def _enhanced(operation: image_ops.Operation) -> image_ops.Operation:
    """Further from the original, in either direction, the higher the level."""
    return lambda images, level, sign: operation(images, level_of((1 + sign * 0.09 * level).clamp(min=0.1)), sign)


def _translated(operation: image_ops.Operation) -> image_ops.Operation:
    """By up to 45 % of the side, where `image_ops` has a third."""
    return lambda images, level, sign: operation(images, level * 0.45 * 3, sign)


def invert(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Every value as its distance from 255."""
    return 255 - images


def solarize_add(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """11 level added to the values below 128."""
    added = image_ops.per_image(image_ops.whole(level, 110).to(torch.uint8), images)
    return torch.where(images < 128, images + added, images)


RAND_AUGMENT: dict[str, image_ops.Operation] = {
    "autocontrast": image_ops.autocontrast,
    "equalize": image_ops.equalize,
    "invert": invert,
    "rotate": image_ops.rotate,
    "posterize": image_ops.posterize,
    "solarize": image_ops.solarize,
    "solarize_add": solarize_add,
    "color": _enhanced(image_ops.color),
    "contrast": _enhanced(image_ops.contrast),
    "brightness": _enhanced(image_ops.brightness),
    "sharpness": _enhanced(image_ops.sharpness),
    "shear_x": image_ops.shear_x,
    "shear_y": image_ops.shear_y,
    "translate_x": _translated(image_ops.translate_x),
    "translate_y": _translated(image_ops.translate_y),
}


def strong_view(images: Tensor, chosen: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """The `chosen` images changed as `strong` says, as they are stored, and then as `cropped`."""
    pixels = images[chosen].permute(0, 3, 1, 2).contiguous()
    pixels = strong.changed(pixels, strong.draw(len(pixels), pixels.shape[3], generator)).permute(0, 2, 3, 1)
    return cropped(pixels, torch.arange(len(chosen), device=images.device), recipe, generator)


def tuned_view(images: Tensor, chosen: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """As `cropped`, and then changed as `strong.draw_levels` says."""
    pixels = cropped(images, chosen, recipe, generator).permute(0, 3, 1, 2).contiguous()
    draws = strong.draw_levels(len(pixels), pixels.shape[2], pixels.shape[3], generator)
    return strong.changed(pixels, draws, (127, 127, 127)).permute(0, 2, 3, 1).contiguous()


VIEWS: dict[str, Callable[[Tensor, Tensor, Recipe, Generator], Tensor]] = {
    "recipe": augmented,
    "cropped": cropped,
    "strong": strong_view,
    "tuned": tuned_view,
}
"""How training images can be seen, by the names that `algorithms.base.Needs` lists."""
