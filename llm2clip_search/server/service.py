"""What all requests share: the open index, which follows commits, and the encoder, which is loaded behind the start."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Literal

from llm2clip_search.base.memory import return_freed_memory
from llm2clip_search.errors import Llm2ClipError
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.corpus_map import CorpusMap
from llm2clip_search.server.hits import as_text
from llm2clip_search.server.location import location_columns
from llm2clip_search.server.opened import Opened
from llm2clip_search.server.pictures.shown import Shown
from llm2clip_search.server.pictures.uploads import Uploads
from llm2clip_search.server.problems import Problem
from llm2clip_search.server.saved_searches import SavedSearches

if TYPE_CHECKING:
    from llm2clip_search.base.identity import ModelIdentity
    from llm2clip_search.encoders import Encoder
    from llm2clip_search.engine import Searcher
    from llm2clip_search.server.queued_encoder import QueuedEncoder
    from llm2clip_search.store import Manifest
    from llm2clip_search.vectorindex.serving.engine import ServingEngine

WATCH_S = 0.5
"""Seconds between looks at the manifests."""
CONDITION_SECONDS = 1.8
"""The most that a condition may take, because strangers may ask. It is stopped at the next 2,048 rows, which take up
to half a second."""
LOADING_S = 1
"""Seconds after which a client asks again while the index is being opened."""

State = Literal["opening", "no-index", "loading", "ready", "failed"]
TowerState = Literal["idle", "loading", "ready", "failed"]

_log = logging.getLogger(__name__)


class Service:
    """The state behind the routes; any number of threads may use it."""

    def __init__(self, config: ServerConfig, *, encoder: "Encoder | None" = None) -> None:
        """Nothing is opened before `start`.

        Args:
            encoder: to take instead of the model that made the index.
        """
        self.config = config
        self.towers: dict[str, TowerState] = {"text": "idle", "vision": "idle"}
        self.shown = Shown()
        self.uploads = Uploads()
        self.map = CorpusMap()
        self.saved = SavedSearches()
        self._given = encoder
        self._encoder: QueuedEncoder | None = None
        """The one that was loaded last, for an index of `_loaded_for`: a name and a fingerprint."""
        self._loaded_for: tuple[str, str] | None = None
        self._served: QueuedEncoder | None = None
        """That of what is open; another one while the index that came last is refused."""
        self._engine: ServingEngine | None = None
        self._opened: Opened | None = None
        self._trouble: tuple[State, str] = ("opening", "The index is being opened.")
        self._said: object = None
        self._seen: list[object] = []
        self._stop, self._turn = Event(), Lock()
        self._watcher = Thread(target=self._watch, name="index watcher", daemon=True)

    def start(self) -> None:
        """Open the index and load the model in the background, and follow the index from then on."""
        self._watcher.start()

    def close(self) -> None:
        """Stop the background threads; requests that wait for a tower are refused."""
        self._stop.set()
        self.shown.close()
        self.map.close()
        for encoder in (self._encoder, self._served):
            if encoder is not None:
                encoder.close()
        if self._engine is not None:
            self._engine.close()

    @property
    def state(self) -> State:
        """How far the server is: ready once captions can be asked without waiting for the model."""
        if self._opened is None:
            return self._trouble[0]
        text = self.towers["text"]
        return text if text in ("ready", "failed") else "loading"

    @property
    def detail(self) -> str:
        """A sentence about what is wrong, or empty."""
        return self._trouble[1]

    @property
    def opened(self) -> Opened:
        """The indices as they are now.

        Raises:
            Problem: ``loading``, ``no-index`` or ``internal``.
        """
        if self._opened is None:
            state, detail = self._trouble
            kind = {"opening": "loading", "no-index": "no-index"}.get(state, "internal")
            raise Problem(kind, detail, retry_after=LOADING_S if kind == "loading" else None)
        return self._opened

    @property
    def generation(self) -> str | None:
        """As of `Opened`; None before the index is open."""
        return None if self._opened is None else self._opened.generation

    def refresh(self) -> None:
        """Open the indices again if one has changed; what is open is served until then, and if that fails."""
        from llm2clip_search.engine.opening import index_folders
        from llm2clip_search.store import find_index, has_index

        with self._turn:
            folders: list[Path] = []
            try:
                folders = index_folders(self.config.indices or [find_index()])
                seen = [_stamp(folder) for folder in folders]
                if seen != self._seen:
                    self._open(folders, seen)
            except Llm2ClipError as error:
                there = bool(folders) and all(has_index(folder) for folder in folders)
                if not there:
                    self._seen = []  # the same one may come back, as when a disk is mounted again
                self._trouble_is("failed" if there else "no-index", str(error))
            except Exception as error:
                self._trouble_is("failed", _unexpected("The index could not be opened"), error)

    def _trouble_is(self, state: State, detail: str, cause: Exception | None = None) -> None:
        """Log it once, with the traceback of a cause that clients are not told."""
        said = (state, detail, repr(cause))
        if said != self._said:
            _log.warning("%s", as_text(detail), exc_info=cause)
        self._said, self._trouble = said, (state, detail)

    def _watch(self) -> None:
        warmed: QueuedEncoder | None = None
        while True:
            self.refresh()
            if self._served is not None and self._served is not warmed:
                warmed = self._served
                Thread(target=self._warm, args=(warmed,), name="warming", daemon=True).start()
            if self._stop.wait(WATCH_S):
                return

    def _open(self, folders: list[Path], seen: list[object]) -> None:
        """Serve what is there now; ``seen`` is what `refresh` saw of it."""
        from llm2clip_search.engine import open_index
        from llm2clip_search.store import Manifest

        models = [Manifest.read(folder).model for folder in folders]
        encoder = self._encoder_for(models[0])
        if any(model.fingerprint != encoder.fingerprint for model in models):
            self._seen = seen  # it is refused below, and only another manifest can change that
        searcher = open_index(
            folders, encoder=encoder, condition_seconds=CONDITION_SECONDS, engine=self._engine_of(folders)
        )
        _read_ahead(searcher)
        manifests = [part.snapshot.manifest for part in searcher.parts]
        hidden = location_columns(searcher) if self.config.hide_location else frozenset[str]()
        before, self._served = self._served, encoder
        if before is not encoder:
            self.towers.update(text="idle", vision="idle")
        self._opened = Opened(searcher=searcher, generation=_generation(manifests), hidden=hidden)
        self._seen, self._trouble, self._said = seen, ("ready", ""), None
        if before is not None and before is not encoder:
            before.close()  # its threads would keep it in memory
        # Loading columns takes seconds for tens of millions of rows; conditions read the files until then.
        Thread(target=_settle, args=(searcher,), name="columns", daemon=True).start()

    def _encoder_for(self, model: "ModelIdentity") -> "QueuedEncoder":
        """The encoder of an index: loaded once for each model, though it may turn out to be another than that."""
        from llm2clip_search.server.queued_encoder import QueuedEncoder

        made = (model.name, model.fingerprint)
        if self._encoder is not None and (self._given is not None or made == self._loaded_for):
            return self._encoder
        loaded = QueuedEncoder(self._given or self._load(model.name), queue=self.config.queue)
        if self._encoder is not None and self._encoder is not self._served:
            self._encoder.close()
        self._encoder, self._loaded_for = loaded, made
        return loaded

    def _engine_of(self, folders: list[Path]) -> "ServingEngine | None":
        """The engine that is searched; it stays open when the index has changed."""
        if self._engine is None and self.config.engine is not None:
            from llm2clip_search.store.published import default_collection
            from llm2clip_search.vectorindex.serving.opening import open_engine

            self._engine = open_engine(self.config.engine, collection=default_collection(folders[0]))
        return self._engine

    def _load(self, name: str) -> "Encoder":
        from llm2clip_search.encoders import load_encoder

        config = self.config
        return load_encoder(
            config.model or name, runtime=config.runtime, device=config.device, quantize=config.quantize
        )

    def _warm(self, encoder: "QueuedEncoder") -> None:
        """Load both towers, first that of captions, which most queries are."""
        import numpy as np

        size = encoder.preprocess
        pixels = np.zeros((1, size.height, size.width, 3), dtype=np.uint8)
        towers: dict[str, Callable[[], object]] = {
            "text": lambda: encoder.encode_texts(["a photograph"]),
            "vision": lambda: encoder.encode_pixels(pixels),
        }
        for tower, embed in towers.items():
            self.towers[tower] = "loading"
            failure: Exception | None = None
            try:
                embed()
            except Exception as error:
                failure = error
            if self._served is not encoder or self._stop.is_set():
                return  # of another model, another thread loads the towers
            self.towers[tower] = "ready" if failure is None else "failed"
            what = f"The {tower} tower could not be loaded"
            if isinstance(failure, Llm2ClipError):
                self._trouble_is("failed", f"{what}: {failure}")
            elif failure is not None:
                self._trouble_is("failed", _unexpected(what), failure)


def _unexpected(what: str) -> str:
    """What clients are told of an error that nobody expected: its message may name things of this machine."""
    return f"{what} for a reason that the server's log names."


def _settle(searcher: "Searcher") -> None:
    """Load columns, and give back the memory of what was open before: each state would leave some of it in pieces."""
    try:
        searcher.hold()
    except Exception:
        _log.debug("Columns could not be loaded.", exc_info=True)  # a request will say why
    return_freed_memory()


def _read_ahead(searcher: "Searcher") -> None:
    """Read what a first search reads, so that no request waits for it."""
    for number, part in enumerate(searcher.parts, start=1):
        for shard in part.indexed.shards[:1]:
            if len(shard.live_ids):
                searcher.query(like=f"{shard.live_ids[0]}@{number}", k=1)


def _stamp(folder: Path) -> object:
    """What changes when a commit replaces the manifest; None if there is none."""
    from llm2clip_search.store.manifest import MANIFEST

    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _generation(manifests: "Sequence[Manifest]") -> str:
    """A name for the state of some indices, in 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    for manifest in manifests:
        # Commits and files are numbered from 1, so that those of an index in the place of another have the same names.
        shards = [(entry.name, sorted(entry.sha256.items())) for entry in manifest.shards]
        tombstones = manifest.tombstones, manifest.tombstones_sha256
        digest.update(repr((manifest.generation, manifest.model.fingerprint, tombstones, shards)).encode())
    return digest.hexdigest()
