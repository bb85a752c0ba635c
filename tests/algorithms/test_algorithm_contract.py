"""What `automixsearch.testing` asks of every way of training: a new one is tested by being in ALGORITHMS.

Beside them stands an algorithm that is written here: it needs what those do not (two views, unlabelled images, buffers
that a step moves, a head of its own, parts with a learning rate of their own), so the run is tested to serve such.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

from automixsearch.algorithms import ALGORITHMS, Algorithm
from automixsearch.algorithms.base import Batch, Clock, Images, Needs, Part, Setup, Term
from automixsearch.algorithms.supervised import Supervised
from automixsearch.config.files import parse_space
from automixsearch.config.knobs import Knobbed, knob
from automixsearch.errors import SpecError
from automixsearch.losses import LOSSES
from automixsearch.mixers import MixUp
from automixsearch.results.columns import Column
from automixsearch.testing import AlgorithmContract
from automixsearch.testing.algorithms import begun, by_two_workers, check_host_never_waits, configured, digits, listed
from automixsearch.training.run import TrainingRun


@dataclass(frozen=True)
class ConsistencyKnobs(Knobbed):
    threshold: float = knob(0.12, "confidence from which a guess counts", low=0, high=1)


class Consistency(Algorithm):
    """Guess the classes of unlabelled images and learn the confident guesses on another view, as FixMatch does, and
    remember for each image what was guessed."""

    name = "consistency"
    knobs = ConsistencyKnobs
    columns = (
        Column("val_top1.average", float, "top-1 accuracy of the moving average"),
        Column("val_top1.student", float, "top-1 accuracy of the network"),
        Column("guessed", float, "share of the guesses that count"),
    )
    heads = ("average", "student")
    needs = Needs(views=("recipe", "cropped"), unlabelled=("cropped", "recipe"), ratio=2)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.student = setup.network
        self.average = copy.deepcopy(setup.network).requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.seed("mix head"))
            self.mix_head = nn.Linear(setup.network.head.in_features, setup.classes)
        self.guesses: torch.Tensor
        self.centre: torch.Tensor
        self.register_buffer("guesses", torch.full((setup.unlabelled,), -1))
        self.register_buffer("centre", torch.zeros(setup.classes))

    def parts(self) -> list[Part]:
        return [Part(self.student), Part(self.mix_head, 10.0)]

    def begin(self, images) -> None:
        self.centre.add_(sum(functional.one_hot(y, len(self.centre)).sum(0) for _, y in images()))

    def terms(self, batch: Batch, clock: Clock, generator: torch.Generator) -> Iterator[Term]:
        share, unlabelled = self.world.share, batch.unlabelled
        assert unlabelled is not None
        first, second = map(self.normalise, batch.views)
        weak, strong = map(self.normalise, unlabelled.views)
        draw = self.mixer.draw(tuple(first.shape), generator)
        mixed = self.mixer.apply(first, draw)
        with self.autocast():
            logits = self.student(share(second))
        yield Term(functional.cross_entropy(logits, share(batch.y)))
        with self.autocast():
            seen = self.student(torch.cat([share(weak), share(strong)]))
        guess, asked = seen.chunk(2)
        confidence, label = self.world.gather(guess.detach().softmax(1)).max(1)
        keep = (confidence >= self.settings.threshold).float()
        self.guesses[unlabelled.index] = torch.where(keep > 0, label, self.guesses[unlabelled.index])
        loss = functional.cross_entropy(asked, share(label), reduction="none")
        yield Term((loss * share(keep)).mean(), {"guessed": keep.mean()})
        with self.autocast():
            logits = self.mix_head(self.student.embedded(share(mixed.x)))
        yield Term(self.loss(logits, share(batch.y[mixed.sources]), share(mixed.shares)))

    def after_step(self, clock: Clock) -> None:
        with torch.no_grad():
            for follower, leader in zip(self.average.parameters(), self.student.parameters(), strict=True):
                follower.lerp_(leader, 0.5)
            for follower, leader in zip(self.average.buffers(), self.student.buffers(), strict=True):
                follower.copy_(leader)

    def predict(self, x, heads):
        return {head: getattr(self, head)(x) for head in heads}

    def reported(self):
        return self.average


@dataclass(frozen=True)
class Thirds(MixUp):
    """A mixing method that comes with a way of training."""

    name = "thirds"
    algorithm = "shared"


class Shared(Supervised):
    """Supervised training of a method of its own, with a third of the loss."""

    name = "shared"

    def terms(self, batch, clock, generator):
        assert isinstance(self.mixer, Thirds)
        yield from (Term(term.loss / 3, term.told) for term in super().terms(batch, clock, generator))


KINDS = (*ALGORITHMS.values(), Consistency, Shared)


@pytest.fixture(scope="module")
def workers():
    """What each of two workers has trained."""
    return by_two_workers((*KINDS, Thirds))


class TestAlgorithms(AlgorithmContract):
    @pytest.fixture(autouse=True, params=KINDS, ids=lambda kind: kind.name)
    def _each(self, request):
        self.algorithm, self.request = request.param, request
        self.mixer = Thirds if request.param is Shared else None

    def by_two_workers(self):
        return self.request.getfixturevalue("workers")

    def test_what_is_declared_can_be_read_without_torch(self):
        assert not issubclass(self.algorithm, nn.Module)  # only what is built is one
        assert self.algorithm.__doc__


FORMS = [
    *(("supervised", {"loss": loss}) for loss in LOSSES),
    ("supervised", {"method": "mixup+cutmix", "switch": "sample", "repeats": 2}),
    ("supervised", {"method": "manifoldmix"}),
    ("supervised", {"method": "saliencymix"}),
    ("supervised", {"method": "augmix", "loss": "mce", "augmix.consistency": 12.0}),
    *(("automix", {"automix.mask_source": source}) for source in ("random_grid", "mixup", "cutmix")),
    ("automix", {"automix.shared_forward": True, "automix.mask_mean": "batch", "automix.mask_loss": "l1_variance"}),
    ("automix", {"automix.mask_adjust": 1.0, "automix.mixblock_every": 2, "automix.ema": False}),
    ("automix", {"method": "samix"}),
    ("adautomix", {"adautomix.samples": 2}),
    ("adautomix", {"adautomix.adv_every": 0, "adautomix.linear_share": 0.0}),
    ("supervised", {"method": "regmixup"}),
    ("fixmatch", {"method": "vanilla", "loss": "mce"}),
    ("fixmatch", {"fixmatch.variant": "released", "fixmatch.hard": False}),
    ("flexmatch", {"method": "saliencymix", "flexmatch.side": "max", "flexmatch.gate": "both"}),
    ("uda", {"method": "mixup+cutmix", "loss": "decoupled_bce", "uda.annealing": "exp"}),
    ("mixmatch", {"method": "fmix", "mixmatch.ratio": 2}),
    ("self_tuning", {"self_tuning.variant": "released"}),
    ("fine_tuning", {"fine_tuning.frozen": "stage2", "method": "vanilla", "loss": "mce"}),
    ("supervised", {"method": "transmix", "backbone": "deit_s", "width": 4}),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_host_never_waits_for_a_gpu_in_a_step(form):
    name, knobs = form
    check_host_never_waits(ALGORITHMS[name], knobs)


def test_an_algorithm_that_is_added_changes_no_id():
    before = {name: configured(kind).config_id for name, kind in ALGORITHMS.items()}
    with listed(Consistency):
        assert {name: configured(ALGORITHMS[name]).config_id for name in before} == before
        assert configured(Consistency).config_id not in before.values()


def test_a_knob_of_an_algorithm_that_no_trial_uses_is_refused():
    with listed(Consistency):
        knobs = {"method": "mixup", "consistency.threshold": 0.5}
        for more, those in (({}, "supervised"), ({"method": "automix"}, "automix")):
            with pytest.raises(
                SpecError, match=f"belongs to algorithm consistency, which knobs.algorithm = {those} does"
            ):
                parse_space({"knobs": knobs | more}, "test")
        space = parse_space({"knobs": knobs | {"algorithm": ["consistency", "supervised"]}}, "test")
        assert "consistency.threshold" in {dimension.name for dimension in space.dimensions}


def test_the_algorithm_of_this_file_gets_what_it_needs():
    with listed(Consistency):
        run = begun(Consistency)
        first, again = run.batches(0), run.batches(0)
        batch, same = next(first), next(again)
        assert isinstance(batch.unlabelled, Images)
        assert [tuple(view.shape) for view in batch.views] == [(32, 8, 8, 1)] * 2
        assert [len(view) for view in batch.unlabelled.views] == [64, 64]
        assert len({*batch.unlabelled.index.tolist()}) == 64
        assert torch.equal(batch.unlabelled.views[1], same.unlabelled.views[1])
        assert not torch.equal(batch.views[0], batch.views[1])
        assert not torch.equal(batch.unlabelled.views[0], batch.unlabelled.views[1])
        *_, last = run.epochs()
        assert run.algorithm.centre.sum() == len(run.train)  # begun once
        assert (run.algorithm.guesses >= 0).any()
        assert 0 < last.extra["guessed"] <= 1
        assert run.config.knobs["consistency.threshold"] == 0.12
        assert [group["scale"] for group in run.optimizer.param_groups] == [1.0, 10.0]
        again = TrainingRun(run.config, digits(), "cpu", steps=3)
        again.load(run.state())
        assert again.algorithm.centre.sum() == len(run.train)
        refused = "consistency.threshold has no effect with method cutmix and algorithm supervised; drop it"
        with pytest.raises(ValueError, match=refused):
            configured(ALGORITHMS["supervised"], {"consistency.threshold": 0.5})
        with pytest.raises(ValueError, match="algorithm has no effect with method automix and algorithm automix"):
            configured(ALGORITHMS["automix"], {"algorithm": "consistency"})
