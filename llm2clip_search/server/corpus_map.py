"""The map of the corpus: made in a process of its own, which leaves the processor to searches, and kept on disk."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Literal

from llm2clip_search.server.opened import Opened
from llm2clip_search.server.problems import Problem

if TYPE_CHECKING:
    import numpy as np

    from llm2clip_search.engine.layout import Layout

NICENESS = 15
"""Added to that of the server."""
PLAIN = (
    "This map is a plain projection, which shows only the coarsest differences; with openTSNE"
    " (pip install 'llm2clip-search[map]') it shows what is alike."
)

State = Literal["none", "computing", "ready", "failed"]


@dataclass(frozen=True, kw_only=True)
class MapState:
    """How far the map is."""

    state: State
    progress: float = 0.0
    """0 to 1."""
    points: int = 0
    """Rows on the map that can be shown now; while it is computed again, that of an earlier state of the index."""
    detail: str = ""
    """A sentence for people."""


class CorpusMap:
    """The layout of the served indices; any number of threads may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._file: Path | None = None
        self._layout: Layout | None = None
        self._making: _Making | None = None
        self._is_closed = False

    def state(self, opened: Opened) -> MapState:
        """How far the map of some indices is. One that was made before the indices changed is brought up to date."""
        with self._lock:
            self._take(opened)
            layout, making = self._layout, self._making
            points = 0 if layout is None else len(layout)
            if making is not None and making.is_running:
                return MapState(state="computing", progress=making.progress, points=points)
            if layout is not None and layout.state == _state_of(opened):
                return MapState(state="ready", progress=1.0, points=points, detail=_remark(layout))
            if making is not None and making.failure and making.state == _state_of(opened):
                return MapState(state="failed", points=points, detail=making.failure)
            if layout is not None:
                self._start(opened)
                return MapState(state="computing", points=points)
            return MapState(state="none")

    def start(self, opened: Opened) -> MapState:
        """Begin to make the map, unless it is there or being made."""
        with self._lock:
            self._take(opened)
            is_there = self._layout is not None and self._layout.state == _state_of(opened)
            if not is_there and not (self._making is not None and self._making.is_running):
                self._start(opened)
        return self.state(opened)

    def layout(self, opened: Opened, *, parameter: str = "") -> "Layout":
        """The layout as it is now, which may be of an earlier state of the indices.

        Args:
            parameter: of the request that needs it.

        Raises:
            Problem: ``not-found``: it has not been made.
        """
        with self._lock:
            self._take(opened)
            if self._layout is None:
                raise Problem(
                    "not-found",
                    "The map of the corpus has not been made yet.",
                    parameter=parameter,
                    hint="POST /map makes it.",
                )
            return self._layout

    def rows_within(self, polygon: Sequence[Sequence[float]], opened: Opened) -> "list[np.ndarray]":
        """Ids of the rows within a polygon on the map, int64 ascending, for each index.

        Raises:
            Problem: as `layout`.
        """
        import numpy as np

        from llm2clip_search.engine.ranking import parts_and_ids

        numbers, ids = parts_and_ids(
            self.layout(opened, parameter="area").within(np.asarray(polygon, dtype=np.float64))
        )
        return [ids[numbers == number] for number in range(len(opened.searcher.parts))]

    def close(self) -> None:
        """Stop making the map."""
        with self._lock:
            self._is_closed = True
            if self._making is not None:
                self._making.stop()

    def _take(self, opened: Opened) -> None:
        """Read what has been made: by an earlier server, or since the last look."""
        from llm2clip_search.encoders.cache import cache_dir
        from llm2clip_search.engine.layout_file import layout_file, read_layout

        file = layout_file(cache_dir() / "maps", opened.searcher.parts)
        is_new = self._making is not None and self._making.is_new
        if file != self._file or is_new:
            self._file, self._layout = file, read_layout(file)
            if self._making is not None and is_new:
                self._making.is_new = False

    def _start(self, opened: Opened) -> None:
        if self._is_closed or self._file is None:
            return
        folders = [str(part.snapshot.folder) for part in opened.searcher.parts]
        self._making = _Making(folders, self._file, _state_of(opened))


class _Making:
    """A process that makes a map, and the thread that listens to it."""

    def __init__(self, folders: Sequence[str], file: Path, state: str) -> None:
        self.state = state
        self.progress = 0.0
        self.failure = ""
        self.is_running, self.is_new = True, False
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=make_map, args=(folders, str(file), sender), daemon=True)
        try:
            self._process.start()
        except OSError as error:
            self.failure = f"The map could not be made: {error.strerror}."
            self.is_running = False
            return
        finally:
            sender.close()
        Thread(target=self._listen, args=(receiver,), name="map", daemon=True).start()

    def stop(self) -> None:
        """End the process; what it was writing is not left behind."""
        with contextlib.suppress(ValueError, AttributeError):  # it has ended, or could not be started
            self._process.terminate()

    def _listen(self, receiver: Connection) -> None:
        with receiver, contextlib.suppress(EOFError, OSError):
            while True:
                said = receiver.recv()
                if isinstance(said, str):
                    self.failure = said
                else:
                    self.progress = said
        self._process.join()
        if self._process.exitcode and not self.failure:
            self.failure = f"The map could not be made: its process ended with code {self._process.exitcode}."
        self._process.close()
        self.is_new = not self.failure
        self.is_running = False


def make_map(folders: Sequence[str], file: str, connection: Connection) -> None:
    """Make or continue the map of some indices: the work of the process.

    Sends its progress, 0 to 1, and a sentence if it fails. It ends when nobody listens any more.
    """
    from llm2clip_search.engine.layout import continued, lay_out
    from llm2clip_search.engine.layout_file import read_layout, write_layout
    from llm2clip_search.engine.search import SearchIndex
    from llm2clip_search.errors import Llm2ClipError
    from llm2clip_search.store import Snapshot

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server is stopped by it, and stops this process
    if hasattr(os, "nice"):
        os.nice(NICENESS)

    def report(task: str, done: int, total: int, _: Mapping[str, float]) -> None:
        begin, end = _SHARES[task]
        connection.send(begin + (end - begin) * done / max(total, 1))

    try:
        parts = [SearchIndex(Snapshot(Path(folder))) for folder in folders]
        before = read_layout(Path(file))
        layout = None if before is None else continued(before, parts, progress=report)
        if layout is None:
            layout = lay_out(parts, progress=report, threads=os.cpu_count() or 1)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # from here on there is a file to clean up
        write_layout(Path(file), layout)
    except Llm2ClipError as error:
        connection.send(str(error))
    except MemoryError:
        connection.send("The map could not be made: there is not enough memory.")
    except BrokenPipeError:
        pass  # the server is gone
    except OSError as error:
        connection.send(f"The map could not be written to {Path(file).parent}: {error.strerror}.")


_SHARES = {"steps": (0.05, 0.6), "rows": (0.6, 1.0)}
"""Of the whole work, by what is reported."""


def _state_of(opened: Opened) -> str:
    from llm2clip_search.engine.layout import state_of

    return state_of(opened.searcher.parts)


def _remark(layout: "Layout") -> str:
    return PLAIN if layout.method == "PCA" else ""
