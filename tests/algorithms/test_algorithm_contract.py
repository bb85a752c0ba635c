"""What holds for every way of training: a new one is tested by being in ALGORITHMS.

Beside them stands an algorithm that is written here: it needs what those do not (two views, unlabelled images, buffers
that a step moves, a head of its own, parts with a learning rate of their own), so the run is tested to serve such.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fake_device import can_go_backward, fake_device, without_values
from torch import nn
from torch.nn import functional

from automixsearch.algorithms import ALGORITHMS, Algorithm
from automixsearch.algorithms.base import Batch, Clock, Images, Needs, Part, Setup, Term
from automixsearch.config.catalogue import BROUGHT, _active, catalogue
from automixsearch.config.data import Data
from automixsearch.config.knobs import Knobbed, knob, knobs_of
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.losses import LOSSES
from automixsearch.mixers import MIXERS
from automixsearch.models import build_model
from automixsearch.results.columns import Column
from automixsearch.results.schema import columns, schema
from automixsearch.training.run import TrainingRun
from automixsearch.training.world import World


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


def admit() -> None:
    """Add the algorithm of this file to the list, as one line there would."""
    ALGORITHMS["consistency"] = Consistency
    forget()


def forget() -> None:
    for derived in (catalogue, _active, columns, schema):
        derived.cache_clear()


@pytest.fixture(params=[*ALGORITHMS, "consistency"])
def name(request):
    if request.param == "consistency":
        admit()
    yield request.param
    if ALGORITHMS.pop("consistency", None):
        forget()


@pytest.fixture(scope="module")
def digits():
    return load(Data())


def configured(name: str, **knobs) -> TrialConfig:
    """A config of the algorithm `name`, with the last mixing method that goes with it and is one of pairs."""
    if name in BROUGHT:
        knobs["method"] = next(method for method, mixer in MIXERS.items() if mixer.algorithm == name)
    elif len(ALGORITHMS) > len(BROUGHT) + 1:
        knobs["algorithm"] = name
    base = {"method": "cutmix", "loss": "decoupled", "epochs": 2, "width": 8, "batch_size": 32, "lr": 0.05}
    return TrialConfig(data=Data(val_fraction=0.2), knobs={**base, "crop_pad": 1, **knobs})


def begun(name: str, images, world: World | None = None, **knobs) -> TrainingRun:
    """A run of two epochs of three steps."""
    return TrainingRun(configured(name, **knobs), images, "cpu", world, steps=3)


def equal(first: Algorithm, second: Algorithm) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in first.state_dict().items())


def test_what_is_declared_can_be_read_without_torch(name):
    kind = ALGORITHMS[name]
    assert not issubclass(kind, nn.Module)  # only what is built is one
    assert kind.__doc__
    for declared in knobs_of(kind.knobs).values():
        for value in declared.search or ():
            declared.check(value, declared.name)


def test_the_state_holds_all_that_the_next_step_depends_on(digits, name):
    """A new algorithm with the state of an old one takes the same step and predicts the same."""
    first, second = begun(name, digits), begun(name, digits)
    next(first.epochs())
    second.load(first.state())
    assert equal(first.algorithm, second.algorithm)
    x, _ = next(first.val.in_order(8))
    seen = [run.algorithm.eval().predict(x, run.algorithm.heads) for run in (first, second)]
    assert all(torch.equal(seen[0][head], seen[1][head]) for head in first.algorithm.heads)
    for run in (first, second):
        run.algorithm.train()
        run.step(next(run.batches(1)), 3, torch.Generator().manual_seed(1))
    assert equal(first.algorithm, second.algorithm)


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(digits, name):
    whole, first, second = (begun(name, digits) for _ in range(3))
    *_, expected = whole.epochs()
    next(first.epochs())
    second.load(first.state())
    (last,) = second.epochs()
    assert last.losses == expected.losses
    assert last.extra == expected.extra
    assert equal(whole.algorithm, second.algorithm)


def worker(rank: int, size: int, folder: str) -> None:
    """Train with every algorithm, one after the other."""
    torch.set_num_threads(1)
    admit()
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    trained = {}
    for name in ALGORITHMS:
        run = begun(name, load(Data()), World(rank, size))
        losses = [loss for metrics in run.epochs() for loss in metrics.losses]
        trained[name] = losses, run.algorithm.state_dict()
    torch.save(trained, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def workers():
    """What each of two workers has trained."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (2, folder), nprocs=2)
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(2)]


def test_two_workers_take_the_steps_of_one(digits, workers, name):
    """Equal among themselves, and to one up to the order of sums."""
    alone = begun(name, digits)
    losses = [loss for metrics in alone.epochs() for loss in metrics.losses]
    first, second = (trained[name] for trained in workers)
    assert first[0] == second[0] == pytest.approx(losses, rel=1e-4)
    for key, value in alone.algorithm.state_dict().items():
        assert torch.equal(first[1][key], second[1][key]), key
        torch.testing.assert_close(first[1][key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_backward_from_each_term_in_turn_gives_the_gradient_of_the_sum(digits, name):
    gradients = []
    for summed in (False, True):
        run = begun(name, digits)
        next(run.epochs())  # at first the blocks of a network are identities
        run.optimizer.zero_grad()
        losses = []
        for term in run.algorithm.train().terms(next(run.batches(1)), clock(3), torch.Generator().manual_seed(0)):
            losses.append(term.loss)
            if not summed:
                term.loss.backward()
        if summed:
            torch.stack(losses).sum().backward()
        gradients.append({key: value.grad for key, value in run.algorithm.named_parameters() if value.requires_grad})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][key], rtol=1e-3, atol=1e-5, msg=key)


def clock(step: int) -> Clock:
    return Clock(step, 6, step // 3, 2)


def test_the_parts_are_what_has_a_gradient(digits, name):
    run = begun(name, digits)
    next(run.epochs())
    parts = [parameter for part in run.algorithm.parts() for parameter in part.module.parameters()]
    assert {id(parameter) for parameter in parts} == {
        id(parameter) for parameter in run.algorithm.parameters() if parameter.requires_grad
    }
    assert all(parameter.grad is not None for parameter in parts)


def test_the_columns_that_are_declared_are_those_that_are_told(digits, name):
    run = begun(name, digits)
    declared = [column.name for column in run.algorithm.columns]
    for metrics in run.epochs():
        assert sorted(metrics.extra) == sorted(declared)
    assert set(declared) <= {column.name for column in columns("epochs")}
    told = run.algorithm.train().terms(next(run.batches(0)), clock(0), torch.Generator().manual_seed(0))
    assert {column for term in told for column in term.told} <= set(declared)


def test_the_first_head_selects_and_is_the_one_that_is_reported(digits, name):
    run = begun(name, digits)
    *_, metrics = run.epochs()
    heads, algorithm = run.algorithm.heads, run.algorithm.eval()
    if len(heads) > 1:
        assert metrics.val_top1 == metrics.extra[f"val_top1.{heads[0]}"]
    x, _ = next(run.val.in_order(16))
    with torch.no_grad():
        every = algorithm.predict(x, heads)
        assert set(every) == set(heads)
        for head in heads:
            (alone,) = algorithm.predict(x, [head]).values()
            torch.testing.assert_close(alone, every[head])
        torch.testing.assert_close(run.network.eval()(x), every[heads[0]])
    fresh = build_model(run.recipe, 1, 10, 5, 8)
    fresh.load_state_dict(run.network.state_dict())  # what is kept can start another training
    assert run.finish().test == run._scores(run.test, [heads[0]])[heads[0]]


def test_global_random_state_is_neither_read_nor_changed(digits, name):
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        losses.append([loss for metrics in begun(name, digits).epochs() for loss in metrics.losses])
        assert torch.equal(torch.random.get_rng_state(), state)
    assert losses[0] == losses[1]


def on(device: torch.device, name: str, method: str = "cutmix", **knobs) -> tuple[Algorithm, Batch]:
    """The algorithm `name` and a batch of what it needs, on a device."""
    config = (
        configured(name, amp="off", **knobs) if name in BROUGHT else configured(name, method=method, amp="off", **knobs)
    )
    mean, std = (torch.full((3,), 0.5, device=device) for _ in range(2))

    def normalise(pixels):
        return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)

    network = build_model(config.recipe, 3, 10, 0, 16)
    setup = Setup(config, network, device, World(), 10, 64, 64, 16, normalise, mean, std)
    algorithm = ALGORITHMS[name].build(setup).to(device, non_blocking=True).train()

    def images(views, count):
        pixels = torch.zeros(count, 16, 16, 3, dtype=torch.uint8, device=device)
        return Images(tuple(pixels for _ in views), torch.zeros(count, dtype=torch.int64, device=device))

    needs, seen = algorithm.needs, images(algorithm.needs.views, 8)
    beside = images(needs.unlabelled, 8 * needs.ratio) if needs.unlabelled else None
    return algorithm, Batch(seen.views, seen.index, torch.zeros(8, dtype=torch.int64, device=device), beside)


def emptied(batch: Batch, hidden) -> Batch:
    """The batch without its values."""
    views, index = tuple(map(hidden, batch.views)), hidden(batch.index)
    beside = batch.unlabelled and Images(tuple(map(hidden, batch.unlabelled.views)), hidden(batch.unlabelled.index))
    return Batch(views, index, hidden(batch.y), beside)


FORMS = [
    *((name, {}) for name in (*ALGORITHMS, "consistency")),
    *(("supervised", {"loss": loss}) for loss in LOSSES),
    ("supervised", {"method": "mixup+cutmix", "switch": "sample", "repeats": 2}),
    ("supervised", {"method": "manifoldmix"}),
    ("supervised", {"method": "saliencymix"}),
    ("supervised", {"method": "augmix", "loss": "mce", "augmix.consistency": 12.0}),
    *(("automix", {"automix.mask_source": source}) for source in ("random_grid", "mixup", "cutmix")),
    ("automix", {"automix.shared_forward": True, "automix.mask_mean": "batch", "automix.mask_loss": "l1_variance"}),
    ("automix", {"automix.mask_adjust": 1.0, "automix.mixblock_every": 2, "automix.ema": False}),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_host_never_waits_for_a_gpu_in_a_step(form):
    name, knobs = form
    admit()
    try:
        with fake_device() as device:
            algorithm, batch = on(device, name, **knobs)
            for step in range(2):
                for term in algorithm.terms(batch, clock(step), torch.Generator().manual_seed(step)):
                    assert {value.device.type for value in (term.loss, *term.told.values())} == {"cuda"}
                    if can_go_backward():
                        term.loss.backward()
                algorithm.after_step(clock(step))
            assert {value.device.type for value in algorithm.state_dict().values()} == {"cuda"}
        algorithm, batch = on(torch.device("cpu"), name, **knobs)
        with without_values(algorithm) as hidden:
            for term in algorithm.terms(emptied(batch, hidden), clock(0), torch.Generator().manual_seed(0)):
                term.loss.backward()
            algorithm.after_step(clock(0))
    finally:
        del ALGORITHMS["consistency"]
        forget()


def test_an_algorithm_that_is_added_changes_no_id():
    before = {name: configured(name).config_id for name in ALGORITHMS}
    admit()
    try:
        assert {name: configured(name).config_id for name in before} == before
        assert configured("consistency").config_id not in before.values()
    finally:
        del ALGORITHMS["consistency"]
        forget()


def test_the_algorithm_of_this_file_gets_what_it_needs(digits):
    admit()
    try:
        run = begun("consistency", digits)
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
        again = TrainingRun(run.config, digits, "cpu", steps=3)
        again.load(run.state())
        assert again.algorithm.centre.sum() == len(run.train)
        refused = "consistency.threshold has no effect with method cutmix and algorithm supervised; drop it"
        with pytest.raises(ValueError, match=refused):
            configured("supervised", **{"consistency.threshold": 0.5})
        with pytest.raises(ValueError, match="algorithm has no effect with method automix and algorithm automix"):
            configured("automix", algorithm="consistency")
    finally:
        del ALGORITHMS["consistency"]
        forget()
