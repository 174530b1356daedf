"""Units as a source of Ray Data: one task each."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from llm2clip_search.cluster.work import BLOCK_BYTES


class Units(Datasource):
    """Functions that read one unit each, on whichever node."""

    def __init__(self, readers: Sequence[Callable[[], Iterator[pa.Table]]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._readers = readers

    def estimate_inmemory_data_size(self) -> int:
        return BLOCK_BYTES * len(self._readers)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One for each unit, whatever parallelism is asked for."""
        metadata = BlockMetadata(num_rows=None, size_bytes=BLOCK_BYTES, input_files=None, exec_stats=None)
        return [ReadTask(reader, metadata) for reader in self._readers]
