"""How to open an index for searching, several as one, or what was published to a serving engine.

What searching needs is imported when an index is opened, so that an encoder can be loaded meanwhile.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from llm2clip_search.base.files import user_path
from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.encoders import Encoder, TowerEncoder, as_encoder, load_encoder
from llm2clip_search.encoders.inputs import captions_of
from llm2clip_search.encoders.kept_captions import KeepingEncoder, KeptCaptions
from llm2clip_search.encoders.placement import Quantize
from llm2clip_search.encoders.registry import is_at_hand
from llm2clip_search.encoders.towers import Runtime
from llm2clip_search.engine.captions import clean_caption
from llm2clip_search.engine.time_limit import TIME_LIMIT_S
from llm2clip_search.errors import EngineError, InputError, QueryError, StoreError
from llm2clip_search.store import DEFAULT_FOLDER, Manifest, find_index, has_index

if TYPE_CHECKING:
    from llm2clip_search.engine.search import SearchIndex
    from llm2clip_search.engine.searcher import Searcher
    from llm2clip_search.engine.served_index import ServedIndex
    from llm2clip_search.vectorindex.serving.engine import ServingEngine


@overload
def open_index(
    folder: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    encoder: Encoder | str | None = None,
    runtime: Runtime = "auto",
    device: str = "auto",
    quantize: Quantize = "none",
    keep_captions: bool = False,
    captions: str | Iterable[str] = (),
    condition_seconds: float = TIME_LIMIT_S,
) -> "SearchIndex": ...


@overload
def open_index(
    folder: str | os.PathLike[str],
    *,
    model: str | None = None,
    encoder: Encoder | str | None = None,
    runtime: Runtime = "auto",
    device: str = "auto",
    quantize: Quantize = "none",
    keep_captions: bool = False,
    captions: str | Iterable[str] = (),
    condition_seconds: float = TIME_LIMIT_S,
    engine: "str | ServingEngine | None",
) -> "SearchIndex": ...


@overload
def open_index(
    folder: None = None,
    *,
    model: str | None = None,
    encoder: Encoder | str | None = None,
    runtime: Runtime = "auto",
    device: str = "auto",
    quantize: Quantize = "none",
    keep_captions: bool = False,
    captions: str | Iterable[str] = (),
    condition_seconds: float = TIME_LIMIT_S,
    engine: "str | ServingEngine",
) -> "ServedIndex": ...


@overload
def open_index(
    folder: Iterable[str | os.PathLike[str]] | None,
    *,
    model: str | None = None,
    encoder: Encoder | str | None = None,
    runtime: Runtime = "auto",
    device: str = "auto",
    quantize: Quantize = "none",
    keep_captions: bool = False,
    captions: str | Iterable[str] = (),
    condition_seconds: float = TIME_LIMIT_S,
    engine: "str | ServingEngine | None" = None,
) -> "Searcher": ...


def open_index(
    folder: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    *,
    model: str | None = None,
    encoder: Encoder | str | None = None,
    runtime: Runtime = "auto",
    device: str = "auto",
    quantize: Quantize = "none",
    keep_captions: bool = False,
    captions: str | Iterable[str] = (),
    condition_seconds: float = TIME_LIMIT_S,
    engine: "str | ServingEngine | None" = None,
) -> "Searcher":
    """Open an index for searching, or several as one, or what was published to a serving engine.

    Args:
        folder: the index folder, or the folder that holds it as ``.llm2clip``; by default the nearest ``.llm2clip``
            from the current folder upward. ``~`` is the home folder. Several folders are searched together, and their
            images make one ranking.
        model: name of the model to load, by default the one that made the index.
        encoder: an encoder that is loaded already, instead of ``model`` and the options below; a name is ``model``.
        runtime, device, quantize: as for `load_encoder`.
        keep_captions: keep the embeddings of queries' captions in the cache on disk, and use what is there: a caption
            that was searched for before needs no model then. Not of an encoder that is given or a plug-in.
        captions: those of the first query, if they are known: they are embedded, or the model is loaded for them, while
            the index is opened.
        condition_seconds: the most that evaluating a condition may take; strangers should get less than the default.
        engine: URL of a serving engine as of `open_engine`, or an engine. With a folder it searches for that index.
            Without one no index is needed, and what was published is searched by itself.

    Returns:
        A `SearchIndex`; a `SearchIndices` for several folders; a `ServedIndex` for an engine without a folder.

    Raises:
        StoreError: no index there, another model made it, or two indices were made by different models.
        EngineError: the engine cannot be reached, or holds something else.
        ModelError: the model cannot be loaded.
        InputError: something that is not a folder, a caption or the URL of an engine; or an engine for several indices.
    """
    how = _How(
        model=model,
        encoder=encoder,
        runtime=runtime,
        device=device,
        quantize=quantize,
        keep_captions=keep_captions,
    )
    if folder is None and engine is not None:
        from llm2clip_search.engine.served_index import ServedIndex

        served = ServedIndex(_engine_of(engine, None), condition_seconds=condition_seconds)
        made = served.snapshot.manifest.model
        loaded = how.encoder_for(made)
        if loaded.identity.fingerprint != made.fingerprint:
            raise EngineError(
                f"{served.snapshot.folder} was made by {made.name} ({made.fingerprint}), not by"
                f" {loaded.identity.name} ({loaded.identity.fingerprint})."
            )
        return served.searched_with(loaded)
    folders = [find_index()] if folder is None else index_folders(folder)
    if engine is not None and len(folders) > 1:
        raise QueryError(f"An engine holds one index, but {len(folders)} are named.")
    first = captions_of(captions)
    ahead = how.load_ahead(folders[0], first) if first and folders else None
    from llm2clip_search.engine.search import SearchIndex
    from llm2clip_search.store import Snapshot
    from llm2clip_search.store.snapshot import check_model, check_same_model

    snapshots = [Snapshot(each) for each in folders]
    check_same_model(snapshots)
    loaded = how.encoder_for(snapshots[0].manifest.model) if ahead is None else ahead
    for snapshot in snapshots:
        check_model(snapshot, loaded.identity)
    beside = None if engine is None else _engine_of(engine, folders[0])
    opened = [
        SearchIndex(snapshot, loaded, condition_seconds=condition_seconds, engine=beside) for snapshot in snapshots
    ]
    if ahead is not None:
        import pyarrow.parquet  # noqa: F401 - which reads the results, and there is time for it now
    if len(opened) == 1:
        return opened[0]
    from llm2clip_search.engine.several import SearchIndices

    return SearchIndices(opened, loaded)


@dataclass(frozen=True, kw_only=True)
class _How:
    """How the encoder of an index is chosen."""

    model: str | None
    encoder: Encoder | str | None
    runtime: Runtime
    device: str
    quantize: Quantize
    keep_captions: bool

    def encoder_for(self, made: ModelIdentity) -> Encoder:
        """The encoder that was given, or that is loaded by the name that was given, or by that of a model."""
        encoder, model = self.encoder, self.model
        if isinstance(encoder, str):
            encoder, model = None, encoder if model is None else model
        if encoder is None:
            name = model or made.name
            loaded = load_encoder(name, runtime=self.runtime, device=self.device, quantize=self.quantize)
            # An encoder of another package may change without its name, which is all that identifies it.
            if not self.keep_captions or not isinstance(loaded, TowerEncoder):
                return loaded
            return KeepingEncoder(loaded, KeptCaptions(), how=(self.runtime, self.device, self.quantize))
        if model is not None:
            raise StoreError("An index is opened with a model's name or with an encoder, not with both.")
        return as_encoder(encoder)

    def load_ahead(self, folder: Path, captions: Sequence[str]) -> Encoder | None:
        """The encoder of an index that is not open yet, which is being loaded for captions.

        None if it would have to be fetched, or if there is no index: whoever opens it says so.
        """
        try:
            made = Manifest.read(folder).model
        except StoreError:
            return None
        if self.encoder is not None or not is_at_hand(self.model or made.name):
            return None
        encoder = self.encoder_for(made)
        # An encoder of another package need not inherit from ours.
        if (load_for := getattr(encoder, "load_for", None)) is not None:
            load_for([clean_caption(caption) for caption in captions])
        return encoder


def _engine_of(engine: "str | ServingEngine", folder: Path | None) -> "ServingEngine":
    if not isinstance(engine, str):
        return engine
    from llm2clip_search.store.published import default_collection
    from llm2clip_search.vectorindex.serving.opening import open_engine

    return open_engine(engine, collection=None if folder is None else default_collection(folder))


def index_folders(given: object) -> list[Path]:
    """Index folders of one path or several; a folder that holds ``.llm2clip`` stands for it."""
    one = isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable)
    several: list[Any] = [given] if one else list(given)  # type: ignore[call-overload]
    for each in several:
        if not isinstance(each, str | os.PathLike):
            raise InputError(f"The folder of an index is a path, not {type(each).__name__}.")
    paths = [user_path(each) for each in several]
    return [
        path / DEFAULT_FOLDER if not has_index(path) and has_index(path / DEFAULT_FOLDER) else path for path in paths
    ]
