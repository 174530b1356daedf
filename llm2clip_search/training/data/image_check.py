"""Images of shards and folders that cannot be decoded, found before training: one of them would end a run."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.identity import json_sha256
from llm2clip_search.base.progress import Progress
from llm2clip_search.corpora.corpus import Item
from llm2clip_search.corpora.decode import decode_ahead
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.errors import first_line
from llm2clip_search.training.data.image_set import ImageSet
from llm2clip_search.training.runtime.distributed import World

CHECKED = "images_checked.json"
_THUMBNAIL = PreprocessConfig(height=32, width=32, resize="squash")
"""Images are only decoded to see whether they can be; JPEGs are then decoded at reduced size."""
_AHEAD = 64


class ImageCheck:
    """Decodes every image once; the result is kept in a folder, so that a resumed run does not repeat it."""

    def __init__(self, out: Path, world: World, progress: Progress) -> None:
        """Prepare to check images.

        Args:
            out: folder of the stage.
            world: rank 0 checks for all ranks.
        """
        self._path, self._world, self._progress = out / CHECKED, world, progress

    def __call__(self, files: ImageSet, image_ids: Sequence[str]) -> Mapping[str, str]:
        """Why images cannot be read, by id; all ranks have to call this.

        Own data is not checked again: it was decoded when it was read.
        """
        if not isinstance(files, ImageFiles):
            return {}
        listing = _listing(files, image_ids)
        known = self._known()
        if listing not in known and self._world.is_main:
            found = {item.uri: reason for item, reason in self._broken(files, image_ids)}
            replace_file(self._path, json.dumps(known | {listing: found}, indent=1).encode() + b"\n")
        self._world.barrier()
        return self._known()[listing]

    def _known(self) -> dict[str, dict[str, str]]:
        try:
            known: Any = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _broken(self, files: ImageFiles, image_ids: Sequence[str]) -> Iterator[tuple[Item, str]]:
        items = (Item(uri=image_id, version="", size=0) for image_id in image_ids)
        looked = decode_ahead(files, items, _THUMBNAIL, threads=os.cpu_count() or 1, ahead=_AHEAD)
        for done, decoded in enumerate(looked, 1):
            self._progress("looking at images", done, len(image_ids), {})
            if decoded.error is not None:
                yield decoded.item, first_line(decoded.error)


def _listing(files: ImageFiles, image_ids: Sequence[str]) -> str:
    """A digest of the images and of the size and time of every file that holds them."""
    paths = dict.fromkeys(map(files.path, image_ids))
    stats = [(str(path), stat.st_size, stat.st_mtime_ns) for path in paths for stat in [path.stat()]]
    return json_sha256([list(image_ids), stats])[:16]
