"""Filters: a user's SQL condition to a set of ids, by DuckDB over the index's own Parquet files."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.engine.condition import Checked, read_condition
from llm2clip_search.engine.database import VIEW, Database, Session
from llm2clip_search.engine.kinds import kind_of_column
from llm2clip_search.engine.time_limit import TIME_LIMIT_S
from llm2clip_search.errors import ConditionError, QueryError
from llm2clip_search.store import Snapshot
from llm2clip_search.store.names import encode

OF_MODALITY = {
    None: "true",
    "text": "modality = 'text'",
    "image": "modality IS DISTINCT FROM 'text'",  # null before schema 5
}


class Filter:
    """Conditions over one snapshot, which are untrusted; several threads may ask at the same time."""

    def __init__(self, snapshot: Snapshot, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        """``time_limit_s`` is the most seconds that one condition may take."""
        self.database = Database(snapshot)
        self._limit = time_limit_s
        self._absent: Mapping[str, pa.Field] = {}

    def beside(self, columns: Iterable[pa.Field]) -> "Filter":
        """The same filter for a search over several indices.

        Args:
            columns: of other indices. Those that this index lacks are null in all of its rows.
        """
        other = type(self).__new__(type(self))
        other.database, other._limit = self.database, self._limit
        other._absent = {
            field.name.casefold(): field for field in columns if field.name.casefold() not in self.database.kinds
        }
        return other

    def ids(self, where: str, *, modality: str | None = None, seconds: float | None = None) -> np.ndarray:
        """Ids, ascending int64, of the live rows that meet a condition.

        Args:
            modality: image or text, if only such rows count.
            seconds: the most that it may take, if less than the time limit.

        Raises:
            ConditionError: as `read`, or a condition that takes longer than the time limit.
            DamagedError: the metadata of a shard is damaged.
        """
        import duckdb

        limit = self._limit if seconds is None else min(seconds, self._limit)
        with self.database.session(limit) as session:
            try:
                condition = self._read(session.cursor, where)
                used = condition.columns if modality is None else condition.columns | {"modality"}
                source = self._source(session, used)
                sql = f"SELECT id FROM {source} WHERE (\n{condition.sql}\n) AND {OF_MODALITY[modality]}"
                found = session.arrays(sql)["id"]
            except duckdb.InterruptException as error:
                raise ConditionError(f"The condition took longer than {limit:.2g} s.") from error
            except (duckdb.BinderException, duckdb.ConversionException) as error:
                raise ConditionError(self._sentence(where, error)) from error
            except duckdb.Error as error:  # is the condition at fault, or what it reads?
                self.database.refuse_damage()
                raise ConditionError(self._sentence(where, error)) from error
        ids = np.asarray(found, dtype=np.int64)
        # Each file gives ascending ids; a stable sort merges such runs in a tenth of the time.
        return ids if bool((ids[1:] > ids[:-1]).all()) else np.sort(ids, kind="stable")

    def read(self, where: str) -> Checked:
        """A condition that is safe to run; no row is looked at.

        Raises:
            ConditionError: SQL that is wrong, is more than one condition, uses something that is not on the allow-list,
                or compares what cannot be compared.
        """
        with self.database.session(self._limit) as session:
            return self._read(session.cursor, where)

    def _source(self, session: Session, used: frozenset[str]) -> str:
        """What to read columns from, with nulls for those that only other indices have."""
        absent = {name for name in used if name.casefold() in self._absent}
        source = session.source(used - absent)
        if not absent:
            return source
        schema = pa.schema([self._absent[name] for name in sorted({each.casefold() for each in absent})])
        session.register("absent", schema.empty_table())
        return f"(SELECT * FROM {source} UNION ALL BY NAME SELECT * FROM absent) AS {VIEW}"

    def _read(self, cursor: Any, where: str) -> Checked:
        kinds = {name: kind_of_column(field.type) for name, field in self._absent.items()} | self.database.kinds
        # A name in it is compared with names as they are stored.
        try:
            return read_condition(cursor, encode(where), kinds)
        except QueryError as error:
            raise ConditionError(str(error), hint=error.hint) from error

    def _sentence(self, where: str, error: Exception) -> str:
        return sentence_of(where, error, [*self.database.columns, *(field.name for field in self._absent.values())])


def sentence_of(where: str, error: Exception, columns: Iterable[str]) -> str:
    """What DuckDB has against a condition, as a sentence.

    Args:
        columns: that a condition may name.
    """
    message = str(error)
    if match := re.search(r'column "?([^"\s]+)"? not found', message):
        return (
            f"The condition names a column {match[1]!r} that does not exist; the columns are {', '.join(columns)}, and"
            f" text is written in single quotes."
        )
    first = message.splitlines()[0] if message else type(error).__name__
    return f"{where!r} is not a valid condition: {first.partition(': ')[2] or first}"
