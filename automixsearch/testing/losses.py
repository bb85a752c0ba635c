"""What holds for every loss of mixed samples."""

from __future__ import annotations

import torch
from torch import Tensor

from automixsearch.losses import Loss
from automixsearch.testing.contract import (
    Contract,
    check_knobs,
    no_global_randomness,
    no_waiting,
    require,
    reseed,
    seeded,
    unchanged,
)
from automixsearch.testing.device import fake_device


def arrays(seed: int, classes: int = 6, count: int = 5, sources: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Logits float64 [B, K], labels int64 [B, S] and shares float64 [B, S] of a made-up batch."""
    generator = seeded(seed)
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(classes, (count, sources), generator=generator)
    shares = torch.rand(count, sources, generator=generator, dtype=torch.float64)
    return logits, labels, shares / shares.sum(dim=1, keepdim=True)


class LossContract(Contract):
    """What every loss is tested for, as methods that pytest runs.

    Attributes:
        loss: the class, which is tested with its defaults, or a loss with the values to test.

    Examples:
        >>> from automixsearch.losses import Decoupled
        >>> class TestDecoupled(LossContract):
        ...     loss = Decoupled(eta=0.5)
        >>> TestDecoupled().test_the_order_of_sources_does_not_matter()
    """

    loss: type[Loss] | Loss

    @property
    def tested(self) -> Loss:
        """The loss with its values."""
        return self.loss() if isinstance(self.loss, type) else self.loss

    @property
    def of(self) -> str:
        """Its name in messages."""
        return type(self.tested).__name__

    def _same(self, one: Tensor, other: Tensor, rule: str) -> None:
        require(
            bool(torch.isclose(one, other, rtol=1e-9, atol=1e-9)), f"{self.of}: {rule}: {one.item()} and {other.item()}"
        )

    def test_it_is_a_finite_scalar_of_the_batch(self) -> None:
        """Also with label smoothing, with labels of which some are guessed, with one class, and one source."""
        loss = self.tested
        for classes, sources in ((6, 2), (1, 2), (2, 1), (6, 4)):
            logits, labels, shares = arrays(0, classes, sources=sources)
            for value in (
                loss(logits, labels, shares),
                loss(logits, labels, shares, 0.1),
                loss(logits, labels, shares, labelled=labels > 2),
            ):
                require(
                    value.shape == () and bool(value.isfinite()),
                    f"{self.of} must be a finite scalar, the mean of the batch, and is {value.detach()!r} with "
                    f"{classes} classes and {sources} sources",
                )
        logits, labels, shares = arrays(1)
        twice = loss(torch.cat([logits, logits]), torch.cat([labels, labels]), torch.cat([shares, shares]))
        self._same(loss(logits, labels, shares), twice, "a batch twice as large must have the same mean")

    def test_images_are_weighted(self) -> None:
        """The mean is over all images, whatever their weights, and one of weight 0 has no effect."""
        logits, labels, shares = arrays(2)
        loss, weights = self.tested, torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])
        self._same(
            loss(logits, labels, shares, weights=torch.ones(5)),
            loss(logits, labels, shares),
            "weights of 1 must change nothing",
        )
        kept = weights > 0
        alone = loss(logits[kept], labels[kept], shares[kept]) * 3 / 5
        logits[~kept] = torch.inf
        self._same(loss(logits, labels, shares, weights=weights), alone, "an image of weight 0 must have no effect")

    def test_half_precision_is_summed_in_single(self) -> None:
        """bfloat16 logits give a float32 loss."""
        logits, labels, shares = arrays(3)
        kind = self.tested(logits.bfloat16(), labels, shares).dtype
        require(
            kind == torch.float32, f"{self.of} of bfloat16 logits is {kind}, not float32; begin with logits.float()"
        )

    def test_the_order_of_sources_does_not_matter(self) -> None:
        """Of a pair, a is mixed with b as b with a."""
        for seed in range(4):
            for smoothing in (0.0, 0.1):
                logits, labels, shares = arrays(seed, sources=2 + seed % 3)
                there = self.tested(logits, labels, shares, smoothing)
                back = self.tested(logits, labels.flip(1), shares.flip(1), smoothing)
                self._same(there, back, "the order of sources must not matter")

    def test_the_order_of_rows_does_not_matter(self) -> None:
        """It is a mean over samples, each by itself."""
        for seed in range(4):
            logits, labels, shares = arrays(seed)
            turned = self.tested(logits.flip(0), labels.flip(0), shares.flip(0))
            self._same(self.tested(logits, labels, shares), turned, "the order of rows must not matter")

    def test_a_source_without_a_share_has_no_effect(self) -> None:
        """Also at the ends, where all of a mixed sample is one image."""
        logits, labels, shares = arrays(4)
        more = torch.cat([labels, (labels[:, :1] + 1) % 6], dim=1)
        none = torch.cat([shares, torch.zeros(5, 1, dtype=torch.float64)], dim=1)
        rule = "a source of share 0 must have no effect"
        self._same(self.tested(logits, more, none), self.tested(logits, labels, shares), rule)
        whole = torch.ones(5, 1, dtype=torch.float64)
        ends = torch.cat([whole, 0 * whole], dim=1)
        self._same(self.tested(logits, labels, ends), self.tested(logits, labels[:, :1], whole), rule)

    def test_an_impossible_class_of_share_zero_is_no_nan(self) -> None:
        """A logit of minus infinity, and its gradient."""
        logits = torch.tensor([[1.0, -torch.inf, 0.0]], requires_grad=True)
        loss = self.tested(logits, torch.tensor([[0, 1]]), torch.tensor([[1.0, 0.0]]))
        loss.backward()
        require(
            bool(loss.isfinite()) and logits.grad is not None and bool(logits.grad.isfinite().all()),
            f"{self.of} or its gradient is not finite where a class of share 0 has the logit -inf",
        )

    def test_the_gradient_is_that_of_the_loss(self) -> None:
        """Against finite differences, in float64."""
        logits, labels, shares = arrays(6)
        require(
            torch.autograd.gradcheck(
                lambda z: self.tested(z, labels, shares), logits.requires_grad_(), raise_exception=False
            ),
            f"{self.of}: the gradient of the logits differs from finite differences; is a part of it detached?",
        )

    def test_nothing_that_is_given_is_edited(self) -> None:
        """Neither logits nor labels nor shares."""
        logits, labels, shares = arrays(7)
        with unchanged(self.of, {"logits": logits, "labels": labels, "shares": shares}):
            self.tested(logits, labels, shares, 0.1)

    def test_global_random_state_is_neither_read_nor_changed(self) -> None:
        """Of torch, NumPy and Python."""
        values = []
        for seed in (1, 2):
            reseed(seed)
            with no_global_randomness(self.of):
                logits, labels, shares = arrays(8)
                values.append(self.tested(logits, labels, shares))
        self._same(values[0], values[1], "it must not depend on a global random state")

    def test_every_knob_is_checked_and_misspelt_ones_refused(self) -> None:
        """With the name of the knob; and every range that is searched is legal."""
        check_knobs(self.tested)

    def test_the_host_never_waits_for_a_gpu(self) -> None:
        """On a GPU that is not there: tensors on it have shapes and no values."""
        with no_waiting(self.of, type(self.tested)), fake_device() as device:
            logits = torch.zeros(5, 6, device=device)
            labels = torch.zeros(5, 2, dtype=torch.int64, device=device)
            shares = torch.zeros(5, 2, dtype=torch.float64, device=device)
            where = self.tested(logits, labels, shares, 0.1).device.type
        require(where == "cuda", f"{self.of} lies on {where} where the logits lie on cuda")


def check_loss(loss: type[Loss] | Loss) -> None:
    """Check that a loss keeps the contract of `Loss`.

    Args:
        loss: the class, checked with its defaults, or a loss with the values to check.

    Raises:
        ContractError: it does not; one line for each fault.

    Examples:
        >>> from automixsearch.losses import MCE
        >>> check_loss(MCE)
    """
    contract = LossContract()
    contract.loss = loss
    contract.check_all()
