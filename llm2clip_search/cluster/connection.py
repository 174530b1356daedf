"""Reaching a Ray cluster: its address, its versions, and what its nodes offer."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm2clip_search.errors import ClusterError, first_line

logger = logging.getLogger(__name__)

REACH_S = 5.0
"""Seconds that the address has to answer in."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine of the cluster."""

    id: str
    name: str
    cpus: float
    gpus: float
    memory: int
    """Bytes that Ray hands out, of tasks and actors."""
    object_store: int
    """Bytes for blocks in flight."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to the cluster at an address, or the one that this process has already.

    Args:
        address: ``HOST:PORT`` of the head; empty for the cluster that runs on this machine, or that ``RAY_ADDRESS``
            names.

    Raises:
        ClusterError: Ray is not installed, there is no cluster, it has another version, or it refuses the token.
    """
    _offer_token()
    try:
        import ray
    except ImportError as error:
        raise ClusterError(
            "Embedding on a cluster needs the package ray, which is not installed.",
            hint="Install it: pip install 'llm2clip-search[ray]'.",
        ) from error
    if ray.is_initialized():
        yield
        return
    _look_at(address)
    # Ray prints what happens to nodes on the driver's stdout, among results, and has no switch for it.
    vars(ray._private.worker)["print_to_stdstream"] = _log
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # read by this process; errors are raised anyway
    try:
        with _silent():
            ray.init(
                address=address or "auto",
                logging_level=logging.ERROR,
                log_to_driver=False,
                configure_logging=False,
                _skip_env_hook=True,
            )
    except (Exception, SystemExit) as error:
        raise _refusal(address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _log(said: dict[str, Any], **_: Any) -> None:
    """What Ray says of the cluster."""
    for line in said.get("lines", ()):
        logger.info("%s", line)


def _offer_token() -> None:
    """Show the token of this user, if there is one: ``ray start`` asks for it by default, and drivers show none by
    default. Ray reads this when it is imported; a cluster that asks for none does not mind."""
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if "ray" not in sys.modules and (named or Path("~/.ray/auth_token").expanduser().is_file()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def _silent() -> Iterator[None]:
    """Without what Ray's native code writes to stderr while it starts; errors are raised anyway."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def nodes() -> list[Node]:
    """The nodes that are alive, by name."""
    import ray

    found = [
        Node(
            id=each["NodeID"],
            name=each["NodeName"],
            cpus=each["Resources"].get("CPU", 0.0),
            gpus=each["Resources"].get("GPU", 0.0),
            memory=int(each["Resources"].get("memory", 0)),
            object_store=int(each["Resources"].get("object_store_memory", 0)),
        )
        for each in ray.nodes()  # type: ignore[no-untyped-call]
        if each["Alive"]
    ]
    return sorted(found, key=lambda node: (node.name, node.id))


def _look_at(address: str) -> None:
    """Refuse an address that does not answer: Ray itself tries for a minute and ends the process."""
    if not address:
        return
    if "://" in address:
        raise ClusterError(
            f"{address} is an address of Ray's client; a run joins the cluster itself.",
            hint="Start Ray on this machine with 'ray start --address HEAD:6379', and name no address.",
        )
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal():
        raise ClusterError(f"{address!r} is not the address of a cluster, HOST:PORT.", hint="Ray's port is 6379.")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S):
            return
    except (OSError, OverflowError) as error:
        raise ClusterError(f"There is no Ray cluster at {address}: {first_line(error)}.", hint=_START) from error


_START = "'ray start --head' starts one; 'ray start --address HEAD:6379' makes another machine a node of it."


def _refusal(address: str, error: BaseException) -> ClusterError:
    import ray

    where = f"at {address}" if address else "on this machine"
    message = str(error)
    if "ersion mismatch" in message:
        own = f"Ray {ray.__version__} and Python {'.'.join(map(str, sys.version_info[:3]))}"
        said = [line.strip().replace(": ", " ") for line in message.splitlines()]
        theirs = [line for line in said if line.startswith(("Ray ", "Python "))][:2]
        return ClusterError(
            f"The cluster {where} runs {' and '.join(theirs)}, and this process {own}.",
            hint="Use the same versions on all machines.",
        )
    if "oken" in message or "uthenticat" in message or "nauthorized" in message:
        return ClusterError(
            f"The cluster {where} refuses the token of this process.",
            hint="Put the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token.",
        )
    if isinstance(error, ConnectionError) and not address:
        return ClusterError("No Ray cluster runs on this machine, and RAY_ADDRESS names none.", hint=_START)
    if isinstance(error, ConnectionError):
        return ClusterError(
            f"What answers at {address} is not Ray's head, or refuses the token of this process.",
            hint="Ray's port is 6379; the cluster's token belongs into RAY_AUTH_TOKEN or ~/.ray/auth_token.",
        )
    return ClusterError(f"The Ray cluster {where} cannot be joined: {first_line(error)}.", hint=_START)  # type: ignore[arg-type]
