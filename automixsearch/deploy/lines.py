"""The lines that put a policy into somebody else's trainer."""

from __future__ import annotations

from automixsearch.config.catalogue import catalogue
from automixsearch.config.knobs import Scalar, knobs_of
from automixsearch.config.policy import Policy, methods_of
from automixsearch.config.trial import TrialConfig
from automixsearch.deploy.policy import MixingPolicy
from automixsearch.errors import SpecError, unknown

STEP = """\
import automixsearch

policy = automixsearch.load_policy({policy})
for x, y in loader:  # x normalised as the network takes it, y int64
    loss = policy.step(model, x, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
ATTACHED = """\
import automixsearch

policy = automixsearch.load_policy({policy})
training = policy.attach(model, side=224, steps=epochs * len(loader))
optimizer = torch.optim.SGD(training.groups(lr=0.1), momentum=0.9)
for x, y in itertools.chain.from_iterable(itertools.repeat(loader, epochs)):
    optimizer.zero_grad()
    training.step(x, y).backward()
    optimizer.step()
    training.after_step()
model = training.model()
"""
TIMM = """\
import automixsearch

mixup_fn = automixsearch.load_policy({policy}, classes=args.num_classes)  # in place of timm.data.Mixup(...)
train_loss_fn = timm.loss.SoftTargetCrossEntropy()
"""
TORCHVISION = """\
import automixsearch

policy = automixsearch.load_policy({policy}, classes=num_classes)
loader = torch.utils.data.DataLoader(dataset, batch_size, sampler=sampler, collate_fn=policy.collate)
"""
LIGHTNING = """\
import automixsearch

policy = automixsearch.load_policy({policy}, classes=num_classes)

class Mixing(lightning.Callback):  # Trainer(callbacks=[Mixing()]); the targets of the module are soft then
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        batch[:] = policy.mix(*batch)
"""
TRANSFORMERS = """\
import automixsearch

policy = automixsearch.load_policy({policy})

class MixingTrainer(transformers.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs or not model.training:
            return super().compute_loss(model, inputs, return_outputs)
        return policy.step(model, inputs["pixel_values"], inputs["labels"])
"""
TRAINERS = {
    "python": STEP,
    "timm": TIMM,
    "torchvision": TORCHVISION,
    "lightning": LIGHTNING,
    "transformers": TRANSFORMERS,
}
"""By trainer: the lines, for a policy written as `{policy}`."""
RESNET = {"stem": "maxpool", "stage1": "layer1", "stage2": "layer2", "stage3": "layer3", "stage4": "layer4"}
"""Where stages end in the ResNets of timm and torchvision, as an example."""


def lines_for(trainer: str, config: TrialConfig) -> str:
    """The lines of Python that train with the policy of a config in one of `TRAINERS`.

    Raises:
        SpecError: there is no such trainer, or it cannot take such a policy.
    """
    if trainer not in TRAINERS:
        raise SpecError(f"--policy: {unknown('trainer', trainer, TRAINERS)}")
    if config.plugins:
        raise SpecError(
            f"--policy: {config.method} comes from outside, and lines of Python cannot carry it; write the config with "
            "best --export FILE, and load_policy(FILE)"
        )
    if config.algorithm != "supervised" and trainer != "python":
        raise SpecError(
            f"--policy {trainer}: {config.method} trains a Mix Block beside the network; use --policy python"
        )
    methods = [catalogue().methods[name] for name in methods_of(config.method)]
    policy = MixingPolicy(config)
    if trainer not in ("python", "transformers"):
        reason = ""
        if any(method.attends for method in methods):
            reason = "its labels follow what the network looks at"
        elif policy.hidden:
            reason = "it mixes hidden features"
        elif policy.mixer.needs & {"gradient", "saliency"}:
            reason = "it needs a gradient of the images"
        elif config.knobs["loss"] != "mce":
            reason = f"its loss is {config.knobs['loss']}, of which soft targets know nothing"
        if reason:
            raise SpecError(f"--policy {trainer}: {config.method}: {reason}; use --policy python or transformers")
    template = ATTACHED if config.algorithm != "supervised" else TRAINERS[trainer]
    given = repr(knobs_of_policy(config))
    if policy.mixer.needs & {"pixels", "mean", "std"}:
        given += ", mean=mean, std=std"
    if policy.hidden:
        given += f", stages={ {stage: RESNET[stage] for stage in policy.hidden} }"
    return template.replace("{policy}", given)


def knobs_of_policy(config: TrialConfig) -> dict[str, Scalar]:
    """The knobs of a config that are its policy: method, loss and what belongs to them, where they are not defaults."""
    known, method, loss = catalogue(config.plugins), config.method, str(config.knobs["loss"])
    owners = {*methods_of(method), loss, config.algorithm}
    chosen: dict[str, Scalar] = {"method": method, "loss": loss}
    if any(known.methods[name].attends for name in methods_of(method)):
        chosen["backbone"] = str(config.knobs["backbone"])
    free = {*knobs_of(Policy), "label_smoothing"}
    for name, value in config.knobs.items():
        default = name in known and known[name].knob.default == value
        if ((name.partition(".")[0] in owners and "." in name) or name in free) and not default:
            chosen[name] = value
    if loss == "mce":
        del chosen["loss"]
    return chosen
