"""The files in jobs/cluster, against the schemas that their readers publish.

Ray carries the launcher's schema, kubernetes-validate those of Kubernetes. KubeRay publishes its own in its repository
only: golden/kuberay.json.xz holds those of ray.io/v1.
"""

from __future__ import annotations

import copy
import json
import lzma
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from automixsearch.cli import parse
from automixsearch.cluster.jobs import load_job
from automixsearch.config.files import load_space

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "jobs" / "cluster"
SEARCH = ROOT / "jobs" / "search" / "cifar100_resnet18.yaml"
KUBERNETES = "1.37"


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


# Schemas -------------------------------------------------------------------------------------------------------


def core_problems(resource: dict[str, Any], where: str) -> Iterator[str]:
    try:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{where}: {error.message}"


@cache
def published() -> dict[str, jsonschema.Draft202012Validator]:
    """KubeRay's own schemas by kind, closed: Kubernetes' strict validation refuses fields that they do not name."""
    packed = (ROOT / "tests" / "golden" / "kuberay.json.xz").read_bytes()
    schemas = json.loads(lzma.decompress(packed))
    for schema in schemas.values():
        schema["properties"]["metadata"] = {}
    return {kind: jsonschema.Draft202012Validator(close(schema)) for kind, schema in schemas.items()}


def problems(manifest: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a manifest, by KubeRay's schema and, of its pods, by Kubernetes' own."""
    found = [f"{error.json_path}: {error.message}" for error in published()[manifest["kind"]].iter_errors(manifest)]
    yield from found
    if not found:
        spec = manifest["spec"]
        for number, template in enumerate(templates(spec.get("rayClusterSpec", spec))):
            metadata = {"name": "x", **template.get("metadata", {})}
            yield from core_problems({"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}, str(number))


def close(schema: Any) -> Any:
    if isinstance(schema, list):
        return [close(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: close(item) for name, item in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema and "type" in schema:
        closed["additionalProperties"] = False
    return closed


# The files -----------------------------------------------------------------------------------------------------

RAY_SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
MANIFESTS = ("kuberay-cluster.yaml", "kuberay-job.yaml")


def test_the_launcher_file_fits_rays_schema():
    jsonschema.Draft7Validator(RAY_SCHEMA).validate(read("launcher-aws.yaml"))


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_fit_the_schemas_that_kuberay_and_kubernetes_publish(name):
    manifest = read(name)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert list(problems(manifest)) == []


def test_the_claim_fits_kubernetes_and_is_the_one_that_the_pods_mount():
    claim = read("kuberay-storage.yaml")
    assert list(core_problems(claim, "claim")) == []
    for template in templates(read("kuberay-cluster.yaml")["spec"]):
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        mounts = [mount for item in template["spec"]["containers"] for mount in item["volumeMounts"]]
        assert {mount["mountPath"] for mount in mounts} == {"/mnt/data", "/mnt/results"}


TYPOS: list[tuple[str, tuple[Any, ...], str, str | None, Any]] = [
    # file, where, the field, its mistyped name or None, its value
    ("launcher-aws.yaml", (), "idle_timeout_minutes", "idle_timeout", 10),
    ("launcher-aws.yaml", ("available_node_types", "gpu_spot"), "max_workers", None, "8"),
    ("kuberay-cluster.yaml", ("spec",), "enableInTreeAutoscaling", "enableIntreeAutoscaling", True),
    ("kuberay-cluster.yaml", ("spec", "authOptions"), "mode", None, "tokens"),
    ("kuberay-cluster.yaml", ("spec", "autoscalerOptions", "resources"), "limits", "limit", {"cpu": "1"}),
    ("kuberay-cluster.yaml", ("spec", "headGroupSpec", "rayStartParams"), "num-cpus", None, 0),
    ("kuberay-cluster.yaml", ("spec", "workerGroupSpecs", 0), "minReplicas", "minReplica", 0),
    ("kuberay-cluster.yaml", ("spec", "workerGroupSpecs", 1, "template", "spec"), "nodeSelector", "nodeSelectors", {}),
    ("kuberay-cluster.yaml", ("spec", "headGroupSpec", "template", "spec", "containers", 0), "image", None, 7),
    ("kuberay-job.yaml", ("spec",), "backoffLimit", "backofLimit", 3),
    ("kuberay-job.yaml", ("spec",), "ttlSecondsAfterFinished", None, "600"),
]


def edited(content: dict[str, Any], where: tuple[Any, ...], name: str, mistyped: str | None, value: Any) -> Any:
    changed = copy.deepcopy(content)
    inner = changed
    for key in where:
        inner = inner[key]
    del inner[name]
    inner[mistyped or name] = value
    return changed


@pytest.mark.parametrize(("name", "where", "field", "mistyped", "value"), TYPOS)
def test_a_typo_is_found(name, where, field, mistyped, value):
    content = edited(read(name), where, field, mistyped, value)
    if name == "launcher-aws.yaml":
        assert not jsonschema.Draft7Validator(RAY_SCHEMA).is_valid(content)
    else:
        assert list(problems(content))


# What must hold between them -----------------------------------------------------------------------------------


def templates(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]


def test_the_cluster_of_the_job_is_the_cluster_but_for_the_numbers_of_workers():
    made, known = read("kuberay-job.yaml")["spec"]["rayClusterSpec"], read("kuberay-cluster.yaml")["spec"]
    for spec in (made, known):
        for group in spec["workerGroupSpecs"]:
            del group["replicas"], group["minReplicas"]
    assert made == known


def test_the_job_runs_the_search_of_the_job_file():
    job = read("kuberay-job.yaml")["spec"]
    words = shlex.split(job["entrypoint"])
    assert words[:3] == ["python", "-m", "automixsearch"]
    assert job["entrypoint"] == " ".join(words), "KubeRay pastes it into a shell: no quotes"
    args = parse(words[3:])
    ours, sent = load_space(args.space, args.overrides), load_job(SEARCH)[1]
    assert (ours.space_id, ours.name) == (sent.space_id, sent.name)
    expected = {"job": sent.name, "results": args.results, "trials": str(sent.budget.trials)}
    assert job["metadata"].items() >= expected.items()
    gpus = sum(group["minReplicas"] for group in job["rayClusterSpec"]["workerGroupSpecs"])
    assert ours.resources.concurrent == gpus == 8


@pytest.mark.parametrize("name", MANIFESTS)
def test_everything_is_of_one_version_of_ray_that_this_package_takes(name):
    spec = read(name)["spec"]
    version = spec.get("rayClusterSpec", spec)["rayVersion"]
    assert f"rayproject/ray:{version}-" in (FOLDER / "Dockerfile").read_text()
    assert read("launcher-aws.yaml")["docker"]["image"].startswith(f"rayproject/ray:{version}-")


def test_no_trial_runs_on_a_head_and_eight_gpus_can_be_had():
    launcher = read("launcher-aws.yaml")
    groups = launcher["available_node_types"]
    assert groups[launcher["head_node_type"]]["resources"] == {"CPU": 0}
    start = launcher["head_start_ray_commands"][-1]
    assert "--num-cpus=0" in start
    assert "--dashboard-host=127.0.0.1" in start
    workers = [group for name, group in groups.items() if name != launcher["head_node_type"]]
    assert {group["resources"]["GPU"] * group["max_workers"] for group in workers} == {launcher["max_workers"]} == {8}
    cluster = read("kuberay-cluster.yaml")["spec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["nvidia.com/gpu"]) * group["maxReplicas"] == 8


def test_clusters_want_a_token_that_stands_in_no_file():
    launcher = read("launcher-aws.yaml")
    assert "--env RAY_AUTH_MODE=token" in launcher["docker"]["run_options"]
    assert launcher["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    secret = read("kuberay-cluster.yaml")["spec"]["authOptions"]
    assert secret["mode"] == "token"
    assert f"secret generic {secret['secretName']} --from-file=auth_token=" in (FOLDER / "README.md").read_text()
    for file in FOLDER.iterdir():
        text = file.read_text()
        assert "RAY_AUTH_TOKEN=" not in text
        assert not re.search(r"\b[0-9a-f]{32,}\b", text), f"{file.name} seems to hold a token"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.name)
def test_heads_say_how_where_how_long_and_what(file):
    head = [line for line in file.read_text().splitlines() if line.startswith("# ")]
    assert [word for line in head for word in re.findall(r"^# ([A-Z]{4,})  ", line)] == [
        "COMMAND", "HARDWARE", "TIME", "EXPECTED",
    ]  # fmt: skip
    assert any("not run on a real cluster" in line for line in head)


# The README and what it runs -----------------------------------------------------------------------------------


def commands(program: str) -> list[list[str]]:
    text = (FOLDER / "README.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(f"{program} ")]


def test_commands_of_the_readme_are_ours_and_leave_the_heads_cpus_alone():
    found = [parse(words) for words in commands("automixsearch")]
    submitted = [args for args in found if hasattr(args, "job") and args.job.endswith(".yaml")]
    assert submitted
    for args in submitted:
        job, space = load_job(ROOT / args.job, args.overrides)
        assert job.driver_cpus == 0
        assert job.results == "/mnt/results"
        assert space.resources.gpus == 1
        assert space.resources.most is not None
        assert space.resources.most.gpus == (8 if args.job == "jobs/search/cifar100_resnet18.yaml" else 1)


def test_links_and_files_of_the_readme_exist():
    text = (FOLDER / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#:=]+)\)", text):
        assert (FOLDER / link).exists(), link
    for path in re.findall(r"jobs/[\w./-]+\.\w+", text):
        assert (ROOT / path).exists(), path
