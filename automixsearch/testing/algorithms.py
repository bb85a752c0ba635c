"""What holds for every way of training."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, spawn

from automixsearch.algorithms import ALGORITHMS, Algorithm
from automixsearch.algorithms.base import Batch, Clock, Images, Setup
from automixsearch.config.catalogue import catalogue
from automixsearch.config.data import Data
from automixsearch.config.knobs import Scalar
from automixsearch.config.recipe import Recipe
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.data.base import ImageSet
from automixsearch.mixers import MIXERS, Mixer
from automixsearch.models import build_model
from automixsearch.results.schema import columns, schema
from automixsearch.testing.contract import (
    Contract,
    ContractError,
    check_knobs,
    no_global_randomness,
    no_waiting,
    require,
    reseed,
    seeded,
)
from automixsearch.testing.device import can_go_backward, fake_device, without_values
from automixsearch.training.run import TrainingRun
from automixsearch.training.world import World

Knobs = Mapping[str, Scalar]
Trained = Mapping[str, tuple[list[float], dict[str, Tensor]]]
"""By the name of an algorithm: the loss of each step, and the state at the end."""


@contextmanager
def listed(*kinds: type[Algorithm | Mixer]) -> Iterator[None]:
    """Add algorithms to `ALGORITHMS`, and mixers to `MIXERS`, for a while, as lines there would.

    Raises:
        ContractError: one has the name of one that is there.
    """
    added: list[tuple[dict[str, Any], str]] = []
    for kind in kinds:
        there: dict[str, Any] = ALGORITHMS if issubclass(kind, Algorithm) else MIXERS  # type: ignore[assignment]
        require(
            there.get(kind.name, kind) is kind,
            f"{kind.__name__}: name = {kind.name!r} is that of one of this package; choose another",
        )
        if kind.name not in there:
            there[kind.name] = kind
            added.append((there, kind.name))
    _forget()
    try:
        yield
    finally:
        for there, name in added:
            del there[name]
        _forget()


def _forget() -> None:
    for derived in (catalogue, columns, schema):
        derived.cache_clear()


def configured(kind: type[Algorithm], knobs: Knobs | None = None) -> TrialConfig:
    """A config of two epochs on digits: with the mixing method that brings the algorithm, or else with CutMix.

    Args:
        knobs: what shall be otherwise, by full name; none of another method goes with a method that brings its own.
    """
    brings = [name for name, mixer in MIXERS.items() if mixer.algorithm == kind.name]
    chosen: dict[str, Scalar] = {"method": brings[0] if brings and kind.name != "supervised" else "cutmix"}
    if kind.name not in {mixer.algorithm for mixer in MIXERS.values()}:
        chosen["algorithm"] = kind.name
    if kind.pretrained:
        chosen["weights"] = pretrained()
    base: Knobs = {"loss": "decoupled", "epochs": 2, "width": 8, "batch_size": 32, "lr": 0.05, "crop_pad": 1}
    return TrialConfig(data=Data(val_fraction=0.2), knobs={**base, **chosen, **(knobs or {})})


@cache
def pretrained() -> str:
    """A file with weights of the network of `configured`, of twelve classes, that nobody has trained."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    file = str(Path(folder.name, "weights.pt"))
    torch.save(build_model(Recipe(width=8), 1, 12, 0, 8).state_dict(), file)
    return file


@cache
def digits() -> ImageSet:
    """The embedded images of digits."""
    return load(Data())


def begun(kind: type[Algorithm], knobs: Knobs | None = None, world: World | None = None) -> TrainingRun:
    """A run of two epochs of three steps."""
    return TrainingRun(configured(kind, knobs), digits(), "cpu", world, steps=3)


STEADY: Knobs = MappingProxyType({"lr": 0.002})
"""Of runs that are compared between numbers of workers: at higher rates some steps multiply differences of rounding."""


def by_two_workers(kinds: Sequence[type[Algorithm | Mixer]], knobs: Knobs | None = None) -> list[Trained]:
    """What each of two processes has trained, with one algorithm after the other; mixers among `kinds` are there.

    Args:
        knobs: see `configured`; of each algorithm.

    Raises:
        ContractError: a worker failed, or cannot import one of `kinds`.
    """
    for kind in kinds:
        require(
            "<locals>" not in kind.__qualname__,
            f"{kind.__name__} is defined in a function, where workers cannot find it; move it to the top of a module",
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            spawn(_work, (2, folder, tuple(kinds), {**STEADY, **(knobs or {})}), nprocs=2)
        except ProcessException as error:
            raise ContractError(f"training on two workers failed: {error}") from error
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(2)]


def _work(rank: int, size: int, folder: str, kinds: tuple[type[Algorithm | Mixer], ...], knobs: Knobs) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    with listed(*kinds):
        algorithms = [kind for kind in kinds if issubclass(kind, Algorithm)]
        trained = {kind.name: _trained(begun(kind, knobs, World(rank, size))) for kind in algorithms}
    torch.save(trained, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _trained(run: TrainingRun) -> tuple[list[float], dict[str, Tensor]]:
    losses = [loss for metrics in run.epochs() for loss in metrics.losses]
    return losses, run.algorithm.state_dict()


def clock(step: int) -> Clock:
    """When a step of such a run is."""
    return Clock(step, 6, step // 3, 2)


def on(device: torch.device, kind: type[Algorithm], knobs: Knobs | None = None) -> tuple[Algorithm, Batch]:
    """The algorithm and a batch of what it needs, 8 images of 16 x 16 pixels for each view, on a device."""
    config = configured(kind, {"amp": "off", **(knobs or {})})
    mean, std = (torch.full((3,), 0.5, device=device) for _ in range(2))

    def normalise(pixels: Tensor) -> Tensor:
        return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)

    network = build_model(replace(config.recipe, weights=""), 3, 10, 0, 16)
    setup = Setup(config, network, device, World(), 10, 64, 64, 16, normalise, mean, std)
    algorithm = kind.build(setup).to(device, non_blocking=True).train()

    def images(views: tuple[str, ...], count: int) -> Images:
        pixels = torch.zeros(count, 16, 16, 3, dtype=torch.uint8, device=device)
        return Images(tuple(pixels for _ in views), torch.zeros(count, dtype=torch.int64, device=device))

    needs, seen = algorithm.needs, images(algorithm.needs.views, 8)
    beside = images(needs.unlabelled, 8 * needs.ratio) if needs.unlabelled else None
    return algorithm, Batch(seen.views, seen.index, torch.zeros(8, dtype=torch.int64, device=device), beside)


def _emptied(batch: Batch, hidden: Callable[[Tensor], Tensor]) -> Batch:
    """The batch without its values."""
    views, index = tuple(map(hidden, batch.views)), hidden(batch.index)
    beside = batch.unlabelled and Images(tuple(map(hidden, batch.unlabelled.views)), hidden(batch.unlabelled.index))
    return Batch(views, index, hidden(batch.y), beside)


def check_host_never_waits(kind: type[Algorithm], knobs: Knobs | None = None, *mixers: type[Mixer]) -> None:
    """Require that two steps on a GPU read no value of it on the host, backward passes included.

    Args:
        mixers: that come with the algorithm.

    Raises:
        ContractError: it names the line.
    """
    of = f"{kind.__name__}, in a step,"

    def step(device: torch.device) -> dict[str, str]:
        algorithm, batch = on(device, kind, knobs)
        places = {}
        for step in range(2):
            for term in algorithm.terms(batch, clock(step), seeded(step)):
                places |= {f"told[{name!r}]": value.device.type for name, value in term.told.items()}
                places["the loss of a term"] = term.loss.device.type
                if can_go_backward():
                    term.loss.backward()
            algorithm.after_step(clock(step))
        return places | {name: value.device.type for name, value in algorithm.state_dict().items()}

    def backward() -> None:
        algorithm, batch = on(torch.device("cpu"), kind, knobs)
        with without_values(algorithm) as hidden:
            for term in algorithm.terms(_emptied(batch, hidden), clock(0), seeded()):
                term.loss.backward()
            algorithm.after_step(clock(0))

    with listed(kind, *mixers):
        with no_waiting(of, kind), fake_device() as device:
            places = step(device)
        for name, place in places.items():
            require(place == "cuda", f"{of} leaves {name} on {place}, where the batch lies on cuda")
        with no_waiting(of, kind):
            backward()


class AlgorithmContract(Contract):
    """What every way of training is tested for, as methods that pytest runs; on digits, in seconds.

    Attributes:
        algorithm: the class.
        knobs: by full name, what the runs shall have beside the defaults: a method, a loss, its own knobs.
        mixer: the mixing method that comes with it, if one does; its `algorithm` is the algorithm's name.

    Examples:
        >>> from automixsearch.algorithms.supervised import Supervised
        >>> class TestSupervised(AlgorithmContract):
        ...     algorithm = Supervised
        ...     knobs = {"method": "mixup"}
        >>> TestSupervised().test_the_parts_are_what_has_a_gradient()
    """

    algorithm: type[Algorithm]
    knobs: Knobs = MappingProxyType({})
    mixer: type[Mixer] | None = None

    @property
    def _kinds(self) -> list[type[Algorithm | Mixer]]:
        return [self.algorithm, *([self.mixer] if self.mixer else [])]

    @property
    def of(self) -> str:
        """Its name in messages."""
        return self.algorithm.__name__

    def begun(self) -> TrainingRun:
        """A run of two epochs of three steps."""
        with listed(*self._kinds):
            return begun(self.algorithm, self.knobs)

    def by_two_workers(self) -> list[Trained]:
        """What each of two workers has trained."""
        return by_two_workers(self._kinds, self.knobs)

    def _same_state(self, one: TrainingRun, other: TrainingRun, rule: str) -> None:
        theirs = other.algorithm.state_dict()
        differ = [name for name, value in one.algorithm.state_dict().items() if not torch.equal(value, theirs[name])]
        require(
            not differ,
            f"{self.of}: {rule}, and {', '.join(differ[:4])} differ; make all that a step depends on a module, a "
            "parameter or a buffer",
        )

    def test_every_knob_is_checked_and_misspelt_ones_refused(self) -> None:
        """With the name of the knob; and every range that is searched is legal."""
        check_knobs(self.algorithm.knobs())

    def test_the_state_holds_all_that_the_next_step_depends_on(self) -> None:
        """A new algorithm with the state of an old one takes the same step and predicts the same."""
        first, second = self.begun(), self.begun()
        next(first.epochs())
        second.load(first.state())
        self._same_state(first, second, "state_dict and load_state_dict must give the same algorithm")
        x, _ = next(first.val.in_order(8))
        seen = [run.algorithm.eval().predict(x, run.algorithm.heads) for run in (first, second)]
        for head in first.algorithm.heads:
            same = torch.equal(seen[0][head], seen[1][head])
            require(same, f"{self.of}: with the same state, head {head!r} predicts otherwise")
        for run in (first, second):
            run.algorithm.train()
            run.step(next(run.batches(1)), 3, seeded(1))
        self._same_state(first, second, "with the same state, the next step must be the same")

    def test_a_resumed_run_is_bitwise_the_uninterrupted_one(self) -> None:
        """In its losses, what it tells, and its state."""
        whole, first, second = (self.begun() for _ in range(3))
        *_, expected = whole.epochs()
        next(first.epochs())
        second.load(first.state())
        (last,) = second.epochs()
        rule = "a resumed run must go on as the uninterrupted one"
        require(last.losses == expected.losses, f"{self.of}: {rule}: losses {last.losses}, not {expected.losses}")
        require(last.extra == expected.extra, f"{self.of}: {rule}: it tells {last.extra}, not {expected.extra}")
        self._same_state(whole, second, rule)

    def test_two_workers_take_the_steps_of_one(self) -> None:
        """Equal among themselves, and to one up to the order of sums."""
        with listed(*self._kinds):
            alone, state = _trained(begun(self.algorithm, {**STEADY, **self.knobs}))
        (losses, first), (others, second) = (trained[self.algorithm.name] for trained in self.by_two_workers())
        remedy = "use world.share for images, world.gather for what all must know"
        require(losses == others, f"{self.of}: two workers have the losses {losses} and {others}; {remedy}")
        expected, got = torch.tensor(alone), torch.tensor(losses)
        require(
            torch.allclose(got[:1], expected[:1], rtol=1e-5) and torch.allclose(got, expected, rtol=1e-3),
            f"{self.of}: two workers must take the steps of one, and have the losses {losses}, not {alone}; {remedy}",
        )
        for name, value in state.items():
            require(torch.equal(first[name], second[name]), f"{self.of}: {name} differs between two workers; {remedy}")
            require(
                torch.allclose(first[name], value, rtol=1e-3, atol=1e-4),
                f"{self.of}: {name} is another one after the steps of two workers; {remedy}",
            )

    def test_backward_from_each_term_in_turn_gives_the_gradient_of_the_sum(self) -> None:
        """Terms that have activations in common must be one."""
        gradients = []
        for summed in (False, True):
            run = self.begun()
            next(run.epochs())  # at first the blocks of a network are identities
            run.optimizer.zero_grad()
            losses = []
            for term in run.algorithm.train().terms(next(run.batches(1)), clock(3), seeded()):
                losses.append(term.loss)
                if not summed:
                    term.loss.backward()
            if summed:
                torch.stack(losses).sum().backward()
            gradients.append({name: p.grad for name, p in run.algorithm.named_parameters() if p.requires_grad})
        for name, gradient in gradients[0].items():
            other = gradients[1][name]
            same = torch.allclose(gradient, other, rtol=1e-3, atol=1e-5) if gradient is not None else other is None
            require(
                same,
                f"{self.of}: {name} gets other gradients from the terms in turn than from their sum; terms that have "
                "activations in common must be one",
            )

    def test_the_parts_are_what_has_a_gradient(self) -> None:
        """All of it is moved by the optimiser, and nothing else."""
        run = self.begun()
        next(run.epochs())
        names = {id(parameter): name for name, parameter in run.algorithm.named_parameters()}
        parts = {id(parameter): parameter for part in run.algorithm.parts() for parameter in part.module.parameters()}
        trained = {id(parameter) for parameter in run.algorithm.parameters() if parameter.requires_grad}
        require(parts.keys() <= names.keys(), f"{self.of}.parts has what is no module of the algorithm; make it one")
        for missing in trained - parts.keys():
            raise ContractError(f"{self.of}.parts lacks {names[missing]}; add its module, or use requires_grad_(False)")
        for key, parameter in parts.items():
            require(key in trained, f"{self.of}.parts has {names[key]}, which requires no gradient; leave it out")
            require(
                parameter.grad is not None, f"{self.of}: no term gives {names[key]} a gradient; leave it out of parts"
            )

    def test_the_columns_that_are_declared_are_those_that_are_told(self) -> None:
        """By the terms, and `val_top1.<head>` where there are several heads."""
        run = self.begun()
        declared = {column.name for column in run.algorithm.columns}
        for metrics in run.epochs():
            told = set(metrics.extra)
            require(
                told == declared,
                f"{self.of}: columns must be what an epoch tells: {sorted(told - declared)} are not declared, "
                f"{sorted(declared - told)} are not told",
            )
        with listed(*self._kinds):
            known = {column.name for column in columns("epochs")}
        require(declared <= known, f"{self.of}: the ledger lacks {sorted(declared - known)}")

    def test_the_first_head_selects_and_is_the_one_that_is_reported(self) -> None:
        """`reported` is the network of the first head, and another training can start from it."""
        run = self.begun()
        *_, metrics = run.epochs()
        heads, algorithm = run.algorithm.heads, run.algorithm.eval()
        (first, *_) = heads
        if len(heads) > 1:
            require(
                metrics.val_top1 == metrics.extra[f"val_top1.{first}"],
                f"{self.of}: head {first!r} is the first, and another one selects",
            )
        x, _ = next(run.val.in_order(16))
        with torch.no_grad():
            every = algorithm.predict(x, heads)
            for asked in (heads, *([head] for head in heads)):
                given = set(algorithm.predict(x, asked))
                require(given == set(asked), f"{self.of}.predict gives {sorted(given)} where {sorted(asked)} are asked")
            for head in heads:
                alone = algorithm.predict(x, [head])
                same = torch.allclose(alone[head], every[head], rtol=1e-4, atol=1e-5)
                require(same, f"{self.of}.predict of head {head!r} alone differs from that among all heads")
            same = torch.allclose(run.network.eval()(x), every[first], rtol=1e-4, atol=1e-5)
            require(same, f"{self.of}.reported must be the network of the first head, {first!r}")
        fresh = build_model(run.recipe, 1, 10, 5, 8)
        fresh.load_state_dict(run.network.state_dict())
        test, expected = run.finish().test, run._evaluate(run.test, [first])[first].scores()
        require(test == expected, f"{self.of}: the test scores {test} are not those of the first head, {expected}")

    def test_global_random_state_is_neither_read_nor_changed(self) -> None:
        """Of torch, NumPy and Python."""
        losses = []
        for seed in (1, 2):
            reseed(seed)
            with no_global_randomness(self.of):
                losses.append([loss for metrics in self.begun().epochs() for loss in metrics.losses])
        require(losses[0] == losses[1], f"{self.of} depends on a global random state; draw from the generator alone")

    def test_the_host_never_waits_for_a_gpu(self) -> None:
        """In two steps on a GPU that is not there: tensors on it have shapes and no values."""
        check_host_never_waits(self.algorithm, self.knobs, *([self.mixer] if self.mixer else []))


def check_algorithm(algorithm: type[Algorithm], knobs: Knobs | None = None, mixer: type[Mixer] | None = None) -> None:
    """Check that a way of training keeps the contract of `Algorithm`; it trains on digits for some seconds.

    Two of the runs are made by two processes, so a script calls it under `if __name__ == "__main__":`.

    Args:
        algorithm: the class.
        knobs: by full name, what the runs shall have beside the defaults: a method, a loss, its own knobs.
        mixer: the mixing method that comes with it, if one does; its `algorithm` is the algorithm's name.

    Raises:
        ContractError: it does not; one line for each fault.

    Examples:
        >>> from automixsearch.algorithms.supervised import Supervised
        >>> check_algorithm(Supervised)  # doctest: +SKIP
    """
    contract = AlgorithmContract()
    contract.algorithm, contract.knobs, contract.mixer = algorithm, knobs or {}, mixer
    contract.check_all()
