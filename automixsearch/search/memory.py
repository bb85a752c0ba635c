"""How much memory a trial takes, measured: a few training steps of each method, each in a process of its own.

Host memory is what the operating system says of the process, data set and libraries included; a GPU's is what torch
has reserved there, and the CUDA context beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from automixsearch import registry
from automixsearch.cluster.room import Need, Peak
from automixsearch.config.points import suggest
from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.search.failures import cause_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from automixsearch.config.knobs import Scalar

STEPS = 3
CONTEXT = 600 * 2**20
"""Bytes that a process with CUDA takes on a GPU before any tensor."""
TIMEOUT_S = 900.0


def heaviest(space: SearchSpace, method: str, fingerprint: str | None = None) -> list[TrialConfig]:
    """The configs of a method that take the most memory: every searched number at its top (batch size, width, ...), the
    first stage where a stage is searched, and one config for each backbone."""
    backbones = next((d.choices for d in space.dimensions if d.name == "backbone"), None) or (None,)
    return [
        TrialConfig.of(
            space,
            suggest(space, _Heaviest({"method": method, "backbone": backbone})),
            data_fingerprint=fingerprint,
            split_seed=space.seeds.split,
        )
        for backbone in backbones
    ]


class _Heaviest:
    """Answers `suggest` with what takes the most memory, but for what is `given`."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        return high

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        return high

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        if self.given.get(name) is not None:
            return self.given[name]
        return choices[0] if any(isinstance(choice, str) for choice in choices) else max(choices)  # type: ignore[type-var]


def measure(config: TrialConfig, device: torch.device, steps: int = STEPS) -> Peak:
    """Train a few steps, validate and save as a trial does; the most memory that this process has had.

    To be called once in a fresh process, since a process does not forget its peak.
    """
    import torch

    from automixsearch.data import load
    from automixsearch.data.stream import Streamed
    from automixsearch.training.run import TrainingRun

    images = load(config.data, config.plugins)
    run = TrainingRun(config, images, device, steps=steps)
    next(run.epochs())
    run.state()
    beside = () if not isinstance(images.train.images, Streamed) else images.train.images.loaders.pids
    host = peak_rss() + sum(map(peak_rss, beside))  # the processes that decode are the trial's too
    if device.type != "cuda":
        return Peak(host)
    return Peak(host, torch.cuda.max_memory_reserved(device) + CONTEXT, torch.cuda.mem_get_info(device)[1])


def peak_rss(pid: int | str = "self") -> float:
    """The most bytes of memory that a process has had resident."""
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:  # unlike ru_maxrss, it starts anew with the program
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _probe(content: str, cpus: float, texts: dict[str, str]) -> Peak:
    """What runs in the process of a probe."""
    from automixsearch.search.trial import limit_threads
    from automixsearch.training.run import pick_device

    limit_threads(cpus)
    registry.receive(texts)
    return measure(TrialConfig.model_validate_json(content), pick_device())


def probe(
    space: SearchSpace, fingerprint: str, need: Callable[[str], Need], note: Callable[[str], None]
) -> dict[str, Peak]:
    """Measure every method of a space on the connected cluster; each probe holds what a trial holds alone.

    A method whose probe fails (by lack of memory, as a rule) has no limit on the host and a GPU of its own: what its
    trials meet, they will say. `note` is told of it, and of all peaks.
    """
    import ray

    asked, texts = [], registry.texts(space.plugins)
    for method in space.methods:
        held = need(method).held
        gpus = 1.0 if held.get("GPU") else 0.0
        run = ray.remote(max_calls=1, max_retries=0, num_cpus=held["CPU"], num_gpus=gpus)(_probe)
        for config in heaviest(space, method, fingerprint):
            asked.append((method, run.remote(config.model_dump_json(), held["CPU"], texts)))
    peaks: dict[str, Peak] = {}
    for method, answer in asked:
        try:
            peak = cast(Peak, ray.get(answer, timeout=TIMEOUT_S))
        except Exception as error:  # whatever happens in a trial can happen here
            note(f"the memory of {method} could not be measured: {': '.join(cause_of(error))[:300]}")
            peak = Peak(0.0, 1.0, 1.0)
        known = peaks.get(method, Peak(0.0))
        peaks[method] = max(known, peak, key=lambda one: (one.device / (one.of or 1), one.host))
    for method, peak in peaks.items():
        on_gpu = f", {peak.device / 2**30:.1f} of {peak.of / 2**30:.0f} GiB of a GPU" if peak.of > 1 else ""
        note(f"memory of a trial of {method}: {peak.host / 2**30:.2f} GiB{on_gpu}")
    return peaks
