"""What holds for every mixing method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from automixsearch.config.knobs import knobs_of
from automixsearch.mixers import Draw, Mixed, Mixer, PairDraw
from automixsearch.models.registry import BACKBONES
from automixsearch.testing.contract import (
    Contract,
    ContractError,
    check_knobs,
    no_global_randomness,
    no_waiting,
    require,
    reseed,
    seeded,
    unchanged,
)
from automixsearch.testing.device import fake_device

SHAPES = ((8, 3, 32, 32), (1, 3, 32, 32), (5, 3, 32, 32), (6, 1, 8, 8), (4, 3, 24, 40), (3, 3, 31, 35))
"""Batches [B, C, H, W]: of one image, of odd count, of one channel, not square, of odd sides."""
FAMILIES = ("cifar", "tiny", "imagenet", "fine_grained")
SUPPLY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "pixels": lambda x: (x.float().permute(0, 2, 3, 1) * 40 + 128).clamp(0, 255).to(torch.uint8),
    "saliency": lambda x: x.float().square().mean(1).sqrt(),
    "gradient": lambda x: x.float(),
    "mask": lambda x: torch.full((len(x), 1, *x.shape[2:]), 0.25, device=x.device),
    "masks": lambda x: torch.full((len(x), 3, *x.shape[2:]), 1 / 3, dtype=x.dtype, device=x.device),
    "mean": lambda x: torch.full((x.shape[1],), 0.5, device=x.device),
    "std": lambda x: torch.full((x.shape[1],), 0.25, device=x.device),
}
"""What a mixer may need beside the batch `x` [B, C, H, W], made up from it."""


def batch(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal random images of a `shape` [B, C, H, W]."""
    return torch.randn(shape, generator=seeded(seed)).to(dtype)


def supplied(mixer: Mixer, x: Tensor, draw: Draw) -> dict[str, Tensor]:
    """What `mixer` needs for `draw` beside `x`, by keyword.

    Raises:
        ContractError: it needs what nobody supplies, or what it has not declared.
    """
    of, needs = type(mixer).__name__, mixer.needs_of(draw)
    for need in sorted(needs | mixer.needs):
        require(need in SUPPLY, f"{of}.needs names {need!r}, which nobody supplies; there are {', '.join(SUPPLY)}")
    undeclared = ", ".join(sorted(needs - mixer.needs))
    require(not undeclared, f"{of}.needs_of(draw) names {undeclared}, which {of}.needs lacks; add it there")
    return {need: SUPPLY[need](x) for need in needs}


def apply(mixer: Mixer, x: Tensor, draw: Draw) -> Mixed:
    """Mix `x` as `draw` says, with what the mixer needs."""
    return mixer.apply(x, draw, **supplied(mixer, x, draw))


def mix(mixer: Mixer, x: Tensor, seed: int = 0) -> Mixed:
    """Draw from a generator with `seed`, and mix."""
    return apply(mixer, x, draw_for(mixer, x.shape, seed))


def draw_for(mixer: Mixer, shape: tuple[int, ...], seed: int = 0) -> Draw:
    """What `mixer` draws for a batch of a `shape` [B, C, H, W]."""
    count, channels, height, width = shape
    return mixer.draw((count, channels, height, width), seeded(seed))


def check_labels_follow_pixels(mixer: Mixer, height: int, width: int, seed: int) -> None:
    """Require that each share is the share of the pixels that its source shows.

    Image i is all 1 in channel i and all 0 in the others, so the mean of channel i of what is mixed is the share of
    the pixels that come from image i. `Mixer.label_slack` pixels are allowed between them. Mixes of features, and of
    masks that a network makes, pass.

    Raises:
        ContractError: it names both numbers.
    """
    draw = draw_for(mixer, (3, 3, height, width), seed)
    if mixer.needs & {"mask", "masks"}:
        return
    if isinstance(draw, PairDraw):  # nobody is a partner of its own, and labels can be wrong
        draw = dataclasses.replace(draw, partner=torch.tensor([1, 2, 0]))
    x = torch.eye(3, dtype=torch.float64)[:, :, None, None].expand(3, 3, height, width).contiguous()
    mixed = apply(mixer, x, draw)
    if mixed.stage != "input":
        return
    shown = mixed.x.mean((2, 3))
    told = torch.zeros(3, 3, dtype=torch.float64).scatter_add_(1, mixed.sources, mixed.shares)
    row = int((shown - told).abs().amax(1).argmax())
    require(
        (shown - told).abs().max().item() <= 1e-9 + mixer.label_slack / (height * width),
        f"{type(mixer).__name__}: shares are not those of the pixels that are shown: of {height} x {width} pixels "
        f"(seed {seed}) sample {row} shows {_rounded(shown[row])} of images 0, 1 and 2, and its shares say "
        f"{_rounded(told[row])}; take them from the pixels that were really mixed, or declare label_slack, in pixels",
    )


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]


class MixerContract(Contract):
    """What every mixing method is tested for, as methods that pytest runs.

    Attributes:
        mixer: the class, which is tested with its defaults, or a mixer with the values to test.
        waits: why `apply` makes the host wait for a GPU, where it cannot be helped; then it has to.

    Examples:
        >>> from automixsearch.mixers.cutmix import CutMix
        >>> class TestCutMix(MixerContract):
        ...     mixer = CutMix(boxes="sample")
        >>> TestCutMix().test_half_precision_is_kept()
    """

    mixer: type[Mixer] | Mixer
    waits: str = ""

    @property
    def tested(self) -> Mixer:
        """The mixer with its values."""
        return self.mixer() if isinstance(self.mixer, type) else self.mixer

    @property
    def of(self) -> str:
        """Its name in messages."""
        return type(self.tested).__name__

    def test_output_has_the_form_that_losses_understand(self) -> None:
        """x as it came in form and type, sources int64 in the batch, shares float64 in rows that sum to 1."""
        for shape in SHAPES:
            mixer, x = self.tested, batch(shape)
            mixed, at = mix(mixer, x), f"{self.of}, batch {list(shape)}: "
            require(mixed.x.shape == x.shape, f"{at}x has become {list(mixed.x.shape)}")
            require(mixed.x.dtype == x.dtype, f"{at}x is {mixed.x.dtype} and came as {x.dtype}")
            sources, shares = mixed.sources, mixed.shares
            require(
                sources.shape == shares.shape and len(sources) == shape[0],
                f"{at}sources {list(sources.shape)} and shares {list(shares.shape)} must both be [B, S]",
            )
            require(sources.dtype == torch.int64, f"{at}sources are {sources.dtype}, not int64")
            require(shares.dtype == torch.float64, f"{at}shares are {shares.dtype}, not float64")
            require(bool(((sources >= 0) & (sources < shape[0])).all()), f"{at}sources point outside the batch")
            require(bool(((shares >= 0) & (shares <= 1)).all()), f"{at}shares lie outside [0, 1]")
            sums = shares.sum(1)
            require(
                bool(((sums - 1).abs() < 1e-6).all()), f"{at}shares of a row must sum to 1, and sum to {sums.tolist()}"
            )
            if isinstance(draw_for(mixer, shape), PairDraw):
                everyone = list(range(shape[0]))
                require(sources[:, 0].tolist() == everyone, f"{at}the first source of a pair must be the sample itself")
                require(sorted(mixed.partner.tolist()) == everyone, f"{at}each sample must be partner once")

    def test_nothing_that_is_given_is_edited(self) -> None:
        """Neither the batch nor what is supplied beside it."""
        mixer, x = self.tested, batch((6, 3, 16, 16))
        draw = draw_for(mixer, x.shape)
        given = supplied(mixer, x, draw)
        with unchanged(f"{self.of}.apply", {"x": x, **given}):
            mixer.apply(x, draw, **given)

    def test_the_memory_layout_is_kept(self) -> None:
        """Contiguous or channels last, as it came."""
        for layout in (torch.contiguous_format, torch.channels_last):
            x = batch((6, 3, 16, 16)).contiguous(memory_format=layout)
            require(
                mix(self.tested, x).x.is_contiguous(memory_format=layout),
                f"{self.of} changes the memory layout {layout}; torch.empty_like and torch.where keep it",
            )

    def test_the_same_seed_gives_bitwise_the_same_batch_and_another_seed_another(self) -> None:
        """The generator decides everything, and something."""
        mixer, shape = self.tested, (16, 3, 16, 16)
        first, again, other = (mix(mixer, batch(shape), seed) for seed in (3, 3, 4))
        require(
            all(torch.equal(getattr(first, part), getattr(again, part)) for part in ("x", "sources", "shares")),
            f"{self.of}: the same seed gives another batch; draw from the generator alone",
        )
        same = torch.equal(first.shares, other.shares) and torch.equal(first.x, other.x)
        require(not mixer.mixes or not same, f"{self.of}: another seed gives the same batch; draw from the generator")

    def test_global_random_state_is_neither_read_nor_changed(self) -> None:
        """Of torch, NumPy and Python."""
        mixer, mixed = self.tested, []
        for seed in (1, 2):
            reseed(seed)
            with no_global_randomness(self.of):
                mixed.append(mix(mixer, batch((8, 3, 16, 16)), 5).x)
        require(torch.equal(*mixed), f"{self.of} depends on a global random state; draw from the generator alone")

    def test_an_own_share_of_one_gives_the_batch_back(self) -> None:
        """Where pairs are mixed: `draw.with_lam(1.0)`."""
        mixer, x = self.tested, batch((7, 3, 20, 12))
        draw = draw_for(mixer, x.shape)
        if not isinstance(draw, PairDraw):
            return
        mixed = apply(mixer, x, draw.with_lam(1.0))
        require(torch.equal(mixed.x, batch((7, 3, 20, 12))), f"{self.of}: with_lam(1.0) does not give the batch back")
        require(bool((mixed.lam == 1).all()), f"{self.of}: with_lam(1.0) gives lam {mixed.lam.tolist()}")

    def test_applying_draws_nothing(self) -> None:
        """The same draw gives the same batch, however often."""
        mixer, shape = self.tested, (8, 3, 16, 16)
        draw = draw_for(mixer, shape, 9)
        once, twice = (apply(mixer, batch(shape), draw).x for _ in range(2))
        require(torch.equal(once, twice), f"{self.of}.apply gives another batch for the same draw; draw in `draw` only")

    def test_half_precision_is_kept(self) -> None:
        """bfloat16 stays bfloat16, and finite."""
        mixed = mix(self.tested, batch((4, 3, 16, 16), dtype=torch.bfloat16))
        require(mixed.x.dtype == torch.bfloat16, f"{self.of} turns bfloat16 into {mixed.x.dtype}")
        require(bool(mixed.x.isfinite().all()), f"{self.of} makes values of bfloat16 that are not finite")

    def test_every_knob_is_checked_and_misspelt_ones_refused(self) -> None:
        """With the name of the knob; and every range that is searched is legal."""
        check_knobs(self.tested)

    def test_published_settings_are_legal_and_name_their_family(self) -> None:
        """`published`: by family of data sets, or family/backbone."""
        for key, values in self.tested.published.items():
            family, _, backbone = key.partition("/")
            require(
                family in FAMILIES and backbone in ("", *BACKBONES),
                f"{self.of}.published[{key!r}]: a key is one of {', '.join(FAMILIES)}, or family/backbone",
            )
            type(self.tested)(**values)

    def test_labels_follow_the_pixels(self) -> None:
        """Whatever is drawn, in images of several forms, at several alphas where there are any."""
        mixer = self.tested
        others = [0.1, 4.0] if mixer.mixes and "alpha" in knobs_of(type(mixer)) else []
        for one in (mixer, *(dataclasses.replace(mixer, **{"alpha": alpha}) for alpha in others)):
            for seed, (height, width) in enumerate([(4, 4), (7, 12), (16, 16), (31, 9), (8, 40), (32, 32)]):
                check_labels_follow_pixels(one, height, width, seed)

    def test_the_host_never_waits_for_a_gpu(self) -> None:
        """On a GPU that is not there: tensors on it have shapes and no values."""
        mixer, shape, waited = self.tested, (8, 3, 32, 32), 0
        for seed in range(3):
            draw = draw_for(mixer, shape, seed)
            try:
                with no_waiting(f"{self.of}.apply", type(mixer)), fake_device() as device:
                    mixed = apply(mixer, torch.zeros(shape, device=device), draw)
            except ContractError:
                if not self.waits:
                    raise
                waited += 1
                continue
            for part in ("x", "sources", "shares"):
                where = getattr(mixed, part).device.type
                require(where == "cuda", f"{self.of}: {part} lies on {where} where the batch lies on cuda")
        require(not self.waits or waited > 0, f"{self.of} does not wait for a GPU; drop `waits`")

    def test_a_gpu_gives_what_the_cpu_gives(self) -> None:
        """Where there is a GPU."""
        if torch.cuda.is_available():
            mixer, x = self.tested, batch((8, 3, 32, 32))
            draw = draw_for(mixer, x.shape)
            here, there = apply(mixer, x, draw), apply(mixer, x.cuda(), draw)
            torch.testing.assert_close(there.x.cpu(), here.x)
            require(torch.equal(there.shares.cpu(), here.shares), f"{self.of}: a GPU gives other shares than the CPU")


def check_mixer(mixer: type[Mixer] | Mixer, waits: str = "") -> None:
    """Check that a mixing method keeps the contract of `Mixer`.

    Args:
        mixer: the class, checked with its defaults, or a mixer with the values to check.
        waits: why it makes the host wait for a GPU, where it cannot be helped.

    Raises:
        ContractError: it does not; one line for each fault.

    Examples:
        >>> from automixsearch.mixers.mixup import MixUp
        >>> check_mixer(MixUp)
    """
    contract = MixerContract()
    contract.mixer, contract.waits = mixer, waits
    contract.check_all()
