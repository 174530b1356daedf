"""Repairing what is on disk: damaged files are set aside, and rebuilt from what is sound.

Nothing is embedded here. The images of a shard that cannot be rebuilt leave the index, and their paths are written to
``damaged/lost.parquet``, from which `indexers.repair` embeds them again.

Every step is a commit of its own or changes nothing that the index depends on, so a kill at any instant leaves an index
that can be repaired again.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.errors import DamagedError
from llm2clip_search.store.aside import set_aside
from llm2clip_search.store.contents import DamagedFile
from llm2clip_search.store.faults import writing
from llm2clip_search.store.lock import writer_lock
from llm2clip_search.store.lost import LOST_SCHEMA, as_lost, lost_images, write_lost_images
from llm2clip_search.store.manifest import MANIFEST, SHARDS, Manifest
from llm2clip_search.store.salvage import TwinShard, readable, rebuild_manifest, superseded
from llm2clip_search.store.shard import METADATA, ROWS, VECTORS, Shard
from llm2clip_search.store.snapshot import ANN, FAILURES, index_folder
from llm2clip_search.store.tombstones import Tombstones
from llm2clip_search.store.verification import verify_files
from llm2clip_search.store.writer import Writer
from llm2clip_search.vectorindex.policy import AnnConfig


@dataclass(kw_only=True)
class FileRepair:
    """What was damaged, and what became of it."""

    damaged: list[DamagedFile] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)
    """Names below the index folder under which damaged files are kept."""
    rebuilt: int = 0
    """Images of shards that were rebuilt with their vectors."""
    lost: int = 0
    """Images of shards that could not be rebuilt; they are not in the index any more."""
    unnamed: int = 0
    """Those of them whose paths no file gives."""
    revived: int = 0
    """Deleted images that may be back, because tombstones were damaged."""


def repair_files(folder: Path, *, model: ModelIdentity | None = None, progress: Progress = no_progress) -> FileRepair:
    """Check every file of an index, set aside what is damaged, and rebuild it as far as other files allow.

    Args:
        model: the one that made the index; needed only if the manifest and all of the shards do not say it.
        progress: as of `verify_index`.

    Raises:
        StoreError: there is no index, another process writes it, it cannot be written, or nothing of it can be read.
    """
    folder = index_folder(folder)
    done = FileRepair()
    manifest = _manifest(folder, model, done)
    before = manifest.dead

    def tombstones() -> Tombstones | None:
        return _tombstones(folder, Manifest.read(folder), done)

    with Writer.open(folder, model=manifest.model, dim=manifest.dim, tombstones=tombstones) as writer:
        found = verify_files(folder, writer.manifest, full=True, progress=progress).damaged
        done.damaged += found
        named = {file.path: file for file in found}
        shards = {shard.name: shard for shard in writer.snapshot.shards}
        suspect: dict[str, set[str]] = {}
        for path in named:
            if path.startswith(f"{SHARDS}/"):
                suspect.setdefault(path.split("/")[1], set()).add(Path(path).name)
        merged, dropped = _mend_shards(writer, {shards[name]: frozenset(each) for name, each in suspect.items()}, done)
        if merged or dropped or writer.manifest.tombstones in named:
            done.revived = max(0, before - len(writer.snapshot.tombstones))
            writer.replace_shards(merged, dropped=dropped)
        if any(path.startswith(f"{ANN}/") for path in named):
            if writer.snapshot.ann_path is not None and writer.snapshot.ann_path.exists():
                done.set_aside.append(set_aside(folder, writer.snapshot.ann_path))
            writer.set_ann(None, writer.manifest.ann_config or AnnConfig())
        if FAILURES in named:
            done.set_aside.append(set_aside(folder, folder / FAILURES))
            (folder / FAILURES).unlink()
            writer.replace_failures(())
    return done


def _manifest(folder: Path, model: ModelIdentity | None, done: FileRepair) -> Manifest:
    """The manifest, rebuilt from the shards if it is damaged."""
    try:
        return Manifest.read(folder)
    except DamagedError as error:
        with writer_lock(folder), writing(folder):
            reason = str(error).removeprefix(f"{folder / MANIFEST} ").rstrip(".")
            done.damaged.append(DamagedFile(path=MANIFEST, reason=reason, images=None))
            # The new manifest names neither old tombstones nor shards that cannot be read, and the writer sweeps those.
            for path in (folder / MANIFEST, *folder.glob("tombstones-*"), *(folder / ANN).glob("*")):
                if path.is_file():
                    done.set_aside.append(set_aside(folder, path))
            named = {path.name for path in (folder / SHARDS).iterdir() if path.name.isdecimal()}
            manifest = rebuild_manifest(folder, model)
            for name in sorted(named - {entry.name for entry in manifest.shards}):
                done.set_aside.append(set_aside(folder, folder / SHARDS / name))
            return manifest


def _tombstones(folder: Path, manifest: Manifest, done: FileRepair) -> Tombstones | None:
    """Tombstones made of the shards if those on disk are damaged; otherwise None."""
    if manifest.tombstones is None:
        return None
    path = folder / manifest.tombstones
    try:
        Tombstones.read(path, manifest.tombstones_sha256)
        return None
    except DamagedError:
        if path.exists():
            done.set_aside.append(set_aside(folder, path))
        shards = [Shard(folder / SHARDS / e.name, e, np.empty(0, np.int64), manifest.dim) for e in manifest.shards]
        return superseded([each for shard in shards if (each := readable(shard, manifest.dim))], Tombstones())


def _mend_shards(
    writer: Writer, suspect: dict[Shard, frozenset[str]], done: FileRepair
) -> tuple[dict[str, list[Shard]], list[str]]:
    """Set damaged shards aside, and list the images of those that are lost.

    Returns:
        Shards to rebuild, by the names of the new ones, and names of those to drop.
    """
    folder, dim = writer.snapshot.folder, writer.manifest.dim
    rebuilt: list[Shard] = []
    dropped: list[str] = []
    lost = lost_images(folder)
    for shard, files in suspect.items():
        if shard.folder.is_dir():
            done.set_aside.append(set_aside(folder, shard.folder))
        live = shard.entry.rows - len(shard.dead)
        has_rows = ROWS in shard.entry.sha256 and ROWS not in files
        if live and VECTORS not in files and (METADATA not in files or has_rows):
            rebuilt.append(TwinShard(shard.folder, shard.entry, shard.dead, dim) if METADATA in files else shard)
            done.rebuilt += live
            continue
        dropped.append(shard.name)
        done.lost += live
        source = readable(shard, dim, suspect=files) if live else None
        if source is None:
            done.unnamed += live
            continue
        table = source.read(LOST_SCHEMA.names).take(pa.array(source.live_rows))
        lost = pa.concat_tables([lost, as_lost(table)])
    if len(lost):
        write_lost_images(folder, lost)
    number = writer.manifest.next_shard
    return {f"{number + i:06d}": [shard] for i, shard in enumerate(rebuilt)}, dropped
