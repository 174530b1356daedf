"""Looking at every node before work starts: what is missing there is said in a sentence, not in the middle of a run."""

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm2clip_search.cluster.connection import Node, nodes
from llm2clip_search.cluster.staging import Staging
from llm2clip_search.cluster.tasks import enter
from llm2clip_search.cluster.work import EncoderSource, Work
from llm2clip_search.errors import ClusterError, Llm2ClipError, first_line

PROBE_S = 300.0
"""Seconds that a node has to answer in; it may have to import and to hash a model first."""
_PACKAGE = "llm2clip-search"


def check_nodes(work: Work, source: EncoderSource, staging: Staging, alive: Sequence[Node]) -> None:
    """Refuse a cluster of which a node cannot do its part.

    Raises:
        ClusterError: naming the node and what it lacks: the package or its version, the model, the source, or the
            staging place.
    """
    import ray

    versions = _on_each(ray.remote(num_cpus=0, max_retries=1)(_version_there()), alive, _PACKAGE)
    own = importlib.metadata.version(_PACKAGE)
    for node, version in versions:
        if version != own:
            has = f"has version {version} of {_PACKAGE}, not {own}" if version else f"does not have {_PACKAGE} {own}"
            raise ClusterError(
                f"The node {node.name} {has}.",
                hint=f"Install it on every node, for the Python that runs Ray: pip install '{_PACKAGE}[ray]=={own}'.",
            )
    try:
        work.check()
        is_checkable = True
    except (OSError, Llm2ClipError):
        is_checkable = False  # what the driver itself cannot read is a failure of that item
    staging.put("probe", b"")
    look = ray.remote(num_cpus=0, max_retries=1)(_look_around)
    reasons = _on_each(look, alive, work if is_checkable else None, source, staging, str(Path.cwd()))
    for node, (reason, hint) in reasons:
        if reason:
            raise ClusterError(f"On the node {node.name}, {reason}.", hint=hint)


def _on_each(function: Any, alive: Sequence[Node], *arguments: Any) -> list[tuple[Node, Any]]:
    """What a remote function returns on each node, but for nodes that die meanwhile.

    Raises:
        ClusterError: a node does not answer, or cannot start a task.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in alive]
    asked = [function.options(scheduling_strategy=each).remote(*arguments) for each in where]
    found = []
    for node, reference in zip(alive, asked, strict=True):
        try:
            found.append((node, ray.get(reference, timeout=PROBE_S)))
        except ray.exceptions.GetTimeoutError as error:
            raise ClusterError(f"The node {node.name} did not answer within {PROBE_S:.0f} s.") from error
        except ray.exceptions.RayError as error:
            if all(each.id != node.id for each in nodes()):
                continue
            raise ClusterError(f"The node {node.name} cannot run a task: {first_line(error)}.") from error
    return found


def _version_there() -> Any:
    """A function that returns a package's version; it is sent as code, because the node may not have this package."""

    def version(package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return ""

    return version


def _look_around(work: Work | None, source: EncoderSource, staging: Staging, folder: str) -> tuple[str, str]:
    """What a node lacks, as the end of a sentence, and what helps; empty if nothing is missing."""
    enter(folder)
    try:
        staging.get("probe")
        staging.put(f"probe-{os.getpid()}", b"")
    except Llm2ClipError:
        return f"the staging place {staging.place} cannot be used", (
            "Name a folder that all nodes share, or an object store, with --staging."
        )
    try:
        if work is not None:
            work.check()
    except (OSError, Llm2ClipError) as error:
        return f"the source cannot be read: {first_line(error)}", (
            "Every node must see the source under the same path or address, with credentials of its own."
        )
    try:
        source.load()
    except Llm2ClipError as error:
        return f"the model {source.name} cannot be used: {first_line(error)}", (
            error.hint or "Put the same model on every node, for instance with 'llm2clip-search models pull'."
        )
    return "", ""
