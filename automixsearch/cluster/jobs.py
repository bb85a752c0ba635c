"""Jobs: a search or a study, its place for results and its environment, as a file; sent to a cluster, or run here.

What is sent is a folder of its own: the files of the working directory that git tracks or that the job file lists, and
the search space or study file with every override in it. A secret in any of it is refused. The cluster runs
`automixsearch search` or `study` on that, so a job continues its study exactly as they do.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from automixsearch import __version__, registry
from automixsearch.cluster.scratch import scratch
from automixsearch.cluster.session import reach
from automixsearch.cluster.switches import set_switches
from automixsearch.config.files import build, load_space, read_text
from automixsearch.config.frozen import Frozen
from automixsearch.config.shipped import find_file
from automixsearch.config.space import SearchSpace
from automixsearch.config.yaml import read_value, read_yaml, write_yaml
from automixsearch.errors import AutoMixError, ResourceError, SpecError, unknown
from automixsearch.registry import Plugin
from automixsearch.results.store import Store
from automixsearch.search.failures import TRIES
from automixsearch.secrecy import is_opaque, is_secret_name, redact, secret_in_file, secret_in_text, secret_of_value
from automixsearch.stopping import last_signal
from automixsearch.studies.design import enumerate_runs, space_of
from automixsearch.studies.file import StudyFile, load_study_file
from automixsearch.versions import versions

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

LOCAL = "local"
AGAIN = "AUTOMIXSEARCH_AGAIN"
"""The variable in which the process of a job finds the command that goes on with it."""
SENT = "automixsearch-job"
"""Folder of the package that holds the space or study."""
PLUGINS = "plugins"
"""Folder in it for the files of what comes from outside."""
NEVER = (".git", "__pycache__", ".gitignore", ".rayignore", SENT)
"""Never sent: what is no file of the working directory, and what would make Ray leave out the space."""
REMEDY = "set it on the cluster's nodes instead; what a job is sent with can be read by all who see its dashboard"
_RANDOM = ("commit", "digest", "hash", "id", "rev", "revision", "sha", "uuid", "version")
"""Last words of names whose values may look drawn at random."""
AGENT_S = 60
"""Seconds that a young or busy cluster is given to find the agent that starts jobs."""
NO_AGENT = (
    "; Ray's agent, which starts jobs, is not up on the head node: as a rule another Ray cluster on the same machine "
    "holds its port, 52365; start the head with `ray start --head --dashboard-agent-listen-port=PORT`"
)
STOP_S = 60
"""Seconds that a stopped job has to end its trials."""


class Environment(Frozen):
    """Where the driver and the trials run."""

    working_dir: str | None = None
    """Folder that is packed and sent, from the job file on; None: the cluster has the package installed."""
    files: list[str] | None = None
    """Files, folders and patterns (with * and ?, ** for folders of any depth) in it that are sent; None: what git
    tracks, and outside a checkout the job file and the file that it names."""
    exclude: list[str] = Field(default_factory=list)
    """Names and paths (with * and ?) of these that stay here."""
    pip: Literal["pinned"] | list[str] = Field(default_factory=list)
    """Packages that the cluster installs; pinned: ours, in the versions that are installed here."""
    env_vars: dict[str, str] = Field(default_factory=dict)
    python: str = "python"
    limit_mb: float = Field(default=100, gt=0)
    """Largest size of what is sent."""

    @model_validator(mode="after")
    def _no_secrets(self) -> Environment:
        for name, value in self.env_vars.items():
            random = is_opaque(value) and not name.lower().endswith(_RANDOM) and value.count("/") < 3
            if is_secret_name(name) or secret_of_value(value) or random:
                raise ValueError(f"env_vars.{name} looks like a secret; {REMEDY}")
        for number, entry in enumerate(self.pip if isinstance(self.pip, list) else ()):
            words = [word for word in re.split(r"[/\s=:@#?&]+", entry) if not re.fullmatch("[0-9a-f]+", word)]
            if secret_of_value(entry) or any(map(is_opaque, words)):
                raise ValueError(
                    f"pip entry {number + 1} holds a secret; leave it out, and set PIP_INDEX_URL or ~/.netrc on the "
                    "cluster's nodes instead"
                )
        return self


class Job(Frozen):
    """A job file."""

    search: str | None = None
    """A search space: a file, from the job file on, or the name of one that comes with the package."""
    study: str | None = None
    """Or a study file: from the job file on, or the name of one that comes with the package."""
    about: str = ""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Of the study and the job; None: the job file's."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys of the space, as on the command line of a search: `data.path`, `trials`, `resources.workers`, knobs."""
    results: str = "results"
    """Directory or URI; on a cluster an absolute path or a URI that every node reaches."""
    environment: Environment = Environment()
    driver_cpus: float = Field(default=1.0, ge=0)
    """CPUs that the driver holds on the head node or wherever it runs."""

    @model_validator(mode="after")
    def _one(self) -> Job:
        if (self.search is None) == (self.study is None):
            raise ValueError("name what is run: either `search`, a search space, or `study`, a study file")
        return self


@dataclass(frozen=True)
class Prepared:
    """A job that can be sent: name, what is run, place for results, environment, files to send with their folder."""

    name: str
    what: SearchSpace | StudyFile
    results: str
    environment: Environment
    driver_cpus: float
    root: Path | None
    files: tuple[Path, ...]
    untracked: tuple[Path, ...] = ()
    """Files that stay here because git does not track them."""
    retry_failed: bool = False
    force: bool = False
    again: str = ""
    """The command that goes on with the job, which its process prints: its own names a folder that vanishes."""

    @property
    def size(self) -> int:
        """Bytes that are sent, without the space."""
        return sum((self.root / file).stat().st_size for file in self.files) if self.root else 0

    @property
    def kind(self) -> str:
        """The command that runs it: search or study."""
        return "search" if isinstance(self.what, SearchSpace) else "study"

    @property
    def space(self) -> SearchSpace:
        """The space of all that is run, with the number of trials."""
        if isinstance(self.what, SearchSpace):
            return self.what
        return space_of(self.what, enumerate_runs(self.what))

    def command(self, here: bool) -> list[str]:
        """What runs in the folder that was sent; here: on this machine, with a Ray cluster of its own."""
        python = sys.executable if here else self.environment.python
        words = [python, "-m", "automixsearch", self.kind, f"{SENT}/{self.kind}.yaml", "--results", self.results]
        words += [] if here else ["--lines"]
        words += ["--retry-failed"] if self.retry_failed else []
        words += ["--force"] if self.force else []
        return words + ([] if here else ["--address", "auto"])

    def runtime_env(self, folder: Path) -> dict[str, Any]:
        """Ray's runtime environment, with the folder to send."""
        # Ray sends SIGTERM otherwise, and kills 3 seconds later: Tune saves nothing then.
        stop = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}
        variables = {**self.environment.env_vars, **stop, AGAIN: self.again}
        made: dict[str, Any] = {"working_dir": str(folder), "env_vars": variables}
        if self.environment.pip:
            pip = self.environment.pip
            made["pip"] = [f"{name}=={version}" for name, version in versions().items()] if pip == "pinned" else pip
        return made

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster keeps with the job."""
        about = {"automixsearch": __version__, "job": self.name, "results": self.results}
        space = self.space
        about |= {"trials": str(space.budget.trials), "space_id": space.space_id}
        return about | {f"version.{name}": version for name, version in versions().items()}


def load_job(path: str | Path, overrides: Iterable[str] = ()) -> tuple[Job, SearchSpace | StudyFile]:
    """Read a job file, and its space or study with the overrides of the file, then with those given here.

    `results`, `environment.*` and `driver_cpus` among the overrides belong to the job, all others to what it runs. A
    study file is taken for a job that runs it.

    Raises:
        SpecError: with file, key, rule, value and remedy.
    """
    where, file = str(path), find_file(str(path), "job")
    content = read_yaml(read_text(file, "job"), where)
    if isinstance(content, dict) and "design" in content:
        content = dict[str, Any](study=file.name)
    if not isinstance(content, dict) or not {"search", "study"} & content.keys():
        hint = (
            "; this is a search space: use automixsearch search"
            if isinstance(content, dict) and "knobs" in content
            else ""
        )
        raise SpecError(
            f"{where}: must be a mapping with at least `search`, the space, or `study`, the study file to run{hint}"
        )
    own = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if equals and key in ("results", "driver_cpus"):
            content[key] = read_value(key, text)
        elif equals and key.startswith("environment."):
            environment = content.setdefault("environment", {})
            if not isinstance(environment, dict):
                raise SpecError(f"{where}: environment = {environment!r} must be a mapping of keys to values")
            environment[key.partition(".")[2]] = read_value(key, text)
        else:
            own.append(override)
    job = build(Job, content, where)
    if secret_of_value(job.results):
        raise SpecError(
            f"{where}: results = {redact(job.results)!r} holds a secret, and a job's command line is shown to all; "
            "leave it out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on the cluster's nodes"
        )
    _refuse_secrets(where, job)
    name = job.name or file.stem
    written = [f"{key}={json.dumps(value)}" for key, value in job.overrides.items()]
    words = [*written, f"name={json.dumps(name)}", *own]
    try:
        if job.search is None:
            what = load_study_file(_beside(file, str(job.study)), words)
        else:
            what = load_space(_beside(file, job.search), words)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    _refuse_secrets(where, what)
    return job, what


def _beside(file: Path, name: str) -> str:
    """What a job file names: a file from it on, or the name of one that comes along."""
    path = file.parent / name
    return str(path) if os.path.isfile(path) else name


def _refuse_secrets(where: str, content: Frozen) -> None:
    for key, value in _strings(content.model_dump(mode="json")):
        if kind := secret_of_value(value):
            raise SpecError(f"{where}: {key} holds {kind}; {REMEDY}")


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The strings in plain data, each with its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _strings(inner, f"{key}.{name}".lstrip("."))


def prepare(
    path: str | Path, overrides: Iterable[str], address: str, retry_failed: bool = False, force: bool = False
) -> Prepared:
    """Read a job file and find what must be sent to run it at `address`.

    Raises:
        SpecError: the file is wrong, results would lie in a folder that vanishes, or too much would be sent.
    """
    job, what = load_job(path, overrides)
    file = find_file(str(path), "job")
    results, environment = job.results, job.environment
    if "://" not in results:
        if address == LOCAL:
            results = os.path.abspath(os.path.expanduser(results))
        elif not os.path.isabs(results):
            raise SpecError(
                f"{path}: results = {results!r} would lie in the job's temporary folder on the cluster and vanish with "
                "it; give an absolute path on shared storage, or a URI such as s3://bucket/mixup"
            )
    _refuse_plugins_with_secrets(path, what.plugins)
    root = None if environment.working_dir is None else (file.parent / environment.working_dir).resolve()
    if root is not None and not root.is_dir():
        raise SpecError(f"{path}: environment.working_dir = {environment.working_dir!r}: there is no directory {root}")
    files, untracked = list[Path](), list[Path]()
    if root is not None:
        named = [file, *(file.parent / name for name in (job.search, job.study) if name)]
        files, untracked = files_to_send(root, environment.files, environment.exclude, named)
        _refuse_files_with_secrets(path, root, files)
    sent, left = tuple(files), tuple(untracked)
    made = Prepared(what.name, what, results, environment, job.driver_cpus, root, sent, left, retry_failed, force)
    if made.size > environment.limit_mb * 1e6:
        assert root is not None
        largest = sorted(files, key=lambda file: -(root / file).stat().st_size)[:5]
        named = ", ".join(f"{file} ({(root / file).stat().st_size / 1e6:.1f} MB)" for file in largest)
        raise SpecError(
            f"{path}: {made.size / 1e6:.1f} MB would be sent and environment.limit_mb is {environment.limit_mb:g}; the "
            f"largest: {named}; name them in environment.exclude, or raise the limit"
        )
    return made


def files_to_send(
    root: Path, listed: list[str] | None, exclude: Iterable[str], named: Iterable[Path] = ()
) -> tuple[list[Path], list[Path]]:
    """The files below `root` that are sent, and those that are not because git does not track them; relative, sorted.

    Sent is what is `listed`; without a list what git tracks, and outside a checkout those of `named` that lie below
    `root`. `NEVER` and `exclude` stay here, and so does a link to a file that is not sent itself.

    Raises:
        SpecError: what is listed is not there, or git cannot tell what it tracks.
    """
    untracked: list[Path] = []
    if listed is not None:
        files = [file for pattern in listed for file in _matching(root, pattern)]
    elif (tracked := _git(root, "--cached")) is not None:
        files, untracked = tracked, _git(root, "--others", "--exclude-standard") or []
    else:
        files = [file.resolve().relative_to(root) for file in named if file.resolve().is_relative_to(root)]
    patterns = (*NEVER, *exclude)

    def wanted(file: Path) -> bool:
        tops = ["/" + "/".join(file.parts[:depth]) for depth in range(1, len(file.parts) + 1)]
        names = [*file.parts, *tops, *(top[1:] for top in tops)]
        return (root / file).is_file() and not any(
            fnmatch.fnmatch(name, pattern.rstrip("/")) for name in names for pattern in patterns
        )

    kept = set(filter(wanted, files))
    places = {root / file for file in kept}
    return sorted(file for file in kept if (root / file).resolve() in places), sorted(filter(wanted, untracked))


def _matching(root: Path, pattern: str) -> Iterator[Path]:
    """The files that a pattern names, in folders that it names too."""
    parts = Path(pattern).parts
    if not parts or ".." in parts or Path(pattern).is_absolute():
        found = [root] if pattern.rstrip("/") == "." else []
    else:
        found = sorted(root.glob(pattern))
    if not found:
        raise SpecError(
            f"environment.files: {pattern!r} is nothing below {root}; give files, folders or patterns there"
        )
    for place in found:
        inner = (Path(folder, name) for folder, _, names in os.walk(place) for name in names)
        yield from (file.relative_to(root) for file in (inner if place.is_dir() else [place]))


def _git(root: Path, *which: str) -> list[Path] | None:
    """The files below `root` that git lists; None outside a checkout."""
    checkout = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), None)
    if checkout is None:
        return None
    command = ["git", "-C", str(root), "ls-files", "-z", *which]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        problem = done.stderr.decode(errors="replace").strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        done, problem = None, str(error)
    if done is None or done.returncode:
        raise SpecError(
            f"{checkout}: git cannot list the files that it tracks: {problem}; list what is sent in environment.files"
        )
    return [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]


def _refuse_files_with_secrets(path: str | Path, root: Path, files: Iterable[Path]) -> None:
    found = {file: kind for file in files if (kind := secret_in_file(root / file, file))}
    if found:
        named = "\n".join(f"  {file}: {kind}" for file, kind in list(found.items())[:20])
        raise SpecError(
            f"{path}: nothing was sent, since {len(found)} of the files seem to hold secrets:\n{named}\n"
            "Name them in environment.exclude; whoever has the repository can read those that git tracks, so make such "
            "a secret invalid and take it out"
        )


def _refuse_plugins_with_secrets(path: str | Path, plugins: Iterable[Plugin]) -> None:
    for plugin in plugins:
        if plugin.file is not None and (kind := secret_in_text(registry.text_of(plugin), plugin.file)):
            raise SpecError(
                f"{path}: nothing was sent, since {plugin.file}, which {plugin.name} comes from, seems to hold a "
                f"secret: {kind}; take it out of the file, and let the code read it from the cluster's nodes"
            )


@contextmanager
def packed(job: Prepared) -> Iterator[Path]:
    """A temporary folder with all that is sent."""
    with scratch() as place:
        folder = place / "job"
        folder.mkdir()
        for file in job.files:
            assert job.root is not None
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(job.root / file, folder / file)
        (folder / SENT).mkdir()
        content = job.what.model_dump(mode="json", exclude={"recipe"})
        for plugin, written in zip(job.what.plugins, content["plugins"], strict=True):
            if plugin.file is not None:
                inside = Path(PLUGINS, plugin.digest[:16], plugin.file.name)
                (folder / SENT / inside).parent.mkdir(parents=True, exist_ok=True)
                (folder / SENT / inside).write_text(registry.text_of(plugin), encoding="utf-8")
                written["ref"] = f"{inside}:{plugin.ref.rpartition(':')[2]}"
        (folder / SENT / f"{job.kind}.yaml").write_text(write_yaml(content), encoding="utf-8")
        yield folder


def run_local(job: Prepared) -> int:
    """Run a job on this machine, as a cluster would: the same files, the same command; returns its exit status."""
    with packed(job) as folder:
        environment = {**os.environ, **job.environment.env_vars, AGAIN: job.again}
        process = subprocess.Popen(job.command(here=True), cwd=folder, env=environment)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                if last_signal() != signal.SIGINT:  # of which a terminal tells the child too
                    process.send_signal(last_signal())


def nothing_to_do(job: Prepared) -> str:
    """Why going on with a job, or trying again what failed, would start nothing; empty where it would, or where the
    results cannot be read from here."""
    try:
        store = Store(job.results, job.name)
        if not store.exists():
            return ""
        rows = store.trial_rows(["state", "attempts"])
    except (AutoMixError, OSError):
        return ""
    failed = [row for row in rows if row["state"] == "failed"]
    said = f"{job.name} in {job.results}: nothing to do: "
    if job.retry_failed:
        if any(job.force or (row["attempts"] or 1) < TRIES for row in failed):
            return ""
        return said + (
            f"all {len(failed)} that failed have done so {TRIES} times of one cause; --force tries them all the same"
            if failed
            else "no trial has failed"
        )
    if len(rows) < job.space.budget.trials:
        return ""
    return said + f"its {len(rows)} trials have ended" + (f", {len(failed)} failed" if failed else "")


# On a cluster --------------------------------------------------------------------------------------------------


def connect(address: str | None) -> JobSubmissionClient:
    """A client of the jobs API at `address` (http://head:8265; None: RAY_API_SERVER_ADDRESS or RAY_ADDRESS).

    The token, where the cluster wants one, is taken from where Ray expects it: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or
    ~/.ray/auth_token.

    Raises:
        ResourceError: nobody answers there, the token is not the cluster's, or others can read its file.
    """
    known = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if known is None:
        raise ResourceError("no cluster is named; give --address http://HEAD:8265, or --address local to run here")
    try:
        reach(known)
    except OSError as error:
        raise _unsendable(known, str(error)) from None
    set_switches(known)
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(known)
        client.list_jobs()
        for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every package that they upload
    except Exception as error:  # requests', Ray's and urllib's own types
        text = " ".join(str(error).split())
        token = "oken" in text or "401" in text or "uthent" in text
        raise _unsendable(known, text, token) from None
    return client


def _unsendable(address: str, text: str, token: bool = False) -> ResourceError:
    remedy = (
        "put the cluster's token into ~/.ray/auth_token, which only you may read (or into RAY_AUTH_TOKEN)"
        if token
        else "check the address (the dashboard's, as a rule port 8265) and that the cluster runs"
    )
    return ResourceError(f"no jobs can be sent to {address!r}: {text[:300]}; {remedy}")


def submissions(client: JobSubmissionClient, name: str | None = None) -> list[JobDetails]:
    """Our jobs on the cluster, of one name or all, the latest first."""
    ours = [job for job in client.list_jobs() if "automixsearch" in (job.metadata or {})]
    ours = [job for job in ours if name in (None, (job.metadata or {}).get("job"))]
    return sorted(ours, key=lambda job: -(job.start_time or 0))


def latest(client: JobSubmissionClient, name: str) -> JobDetails:
    """The latest submission of a job.

    Raises:
        SpecError: there was none.
    """
    found = submissions(client, name)
    if not found:
        names = sorted({str((job.metadata or {})["job"]) for job in submissions(client)})
        raise SpecError(f"the cluster has {unknown('job', name, names)}")
    return found[0]


def is_over(job: JobDetails) -> bool:
    """Whether a submission has ended, one way or another."""
    return job.status.is_terminal()


def submit(client: JobSubmissionClient, job: Prepared) -> tuple[str, bool]:
    """Send a job: its submission id, and whether it is new; one that is still running is not sent again.

    Raises:
        ResourceError: the cluster refused it.
    """
    before = submissions(client, job.name)
    for running in before:
        if not is_over(running):
            return str(running.submission_id), False
    submission = f"{job.name}-{len(before) + 1}-{int(time.time())}"
    with packed(job) as folder:
        until = time.monotonic() + AGENT_S
        while True:
            try:
                client.submit_job(
                    entrypoint=shlex.join(job.command(here=False)),
                    submission_id=submission,
                    runtime_env=job.runtime_env(folder),
                    metadata=job.metadata,
                    entrypoint_num_cpus=job.driver_cpus or None,
                )
                return submission, True
            except Exception as error:  # requests', Ray's and urllib's own types
                text = " ".join(str(error).split())
                agent = "No available agent" in text
                if not agent or time.monotonic() > until:
                    more = NO_AGENT if agent else ""
                    raise ResourceError(f"the cluster refused job {job.name}: {text[:500]}{more}") from None
                time.sleep(1)
