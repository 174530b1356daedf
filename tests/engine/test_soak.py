"""Threads that query one open index while another process adds, deletes, compacts and rebuilds."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from llm2clip_search.engine import SearchIndex
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Snapshot, Writer
from tests.support.vectors import DIM, MODEL, add, clustered, prefer_approximate

ROOT = Path(__file__).parents[2]
WRITE = """
import sys, time
from pathlib import Path
import numpy as np
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Writer
from llm2clip_search.store.compaction import compact
from tests.support.vectors import DIM, MODEL, add, clustered, prefer_approximate

folder, until = Path(sys.argv[1]), time.monotonic() + float(sys.argv[2])
generation = 0
while time.monotonic() < until or generation < 8:
    generation += 1
    with Writer.open(folder, model=MODEL, dim=DIM) as writer:
        dying = np.random.default_rng(generation).choice(writer.snapshot.live_ids, 40, replace=False)
        add(writer, clustered(1000 + generation, 60), removed=tuple(dying.tolist()))
        compact(writer, everything=generation % 3 == 0)
        build_ann(writer, AnnConfig(kind=("ivf", "ivfrabitq", "ivf", "hnsw")[generation % 4], tail_rows=50))
        prefer_approximate(writer)
print(generation)
"""


def test_every_answer_is_of_one_snapshot(tmp_path: Path) -> None:
    """Answers of the open index stay what they were, and those of each new snapshot hold its own rows only."""
    with Writer.open(tmp_path, model=MODEL, dim=DIM) as writer:
        add(writer, clustered(1, 2000))
        build_ann(writer, AnnConfig(kind="ivfrabitq"))
        add(writer, clustered(2, 300))
        prefer_approximate(writer)
    index, queries = SearchIndex(Snapshot(tmp_path)), clustered(99, 40)
    where = "width < 40"
    ranked = [index.search(query[None, :], k=10)[1][0].tolist() for query in queries]
    filtered = [[hit.id for hit in index.query(like=like, where=where).hits] for like in range(40)]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(tmp_path), "5"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    opened: set[int] = set()

    def ask(seed: int) -> int:
        generator, answers = np.random.default_rng(seed), 0
        while process.poll() is None:
            which = int(generator.integers(40))
            assert index.search(queries[which : which + 1], k=10)[1][0].tolist() == ranked[which]
            hits = index.query(like=which, where=where).hits
            assert [hit.id for hit in hits] == filtered[which]
            assert all(hit.uri.endswith(f"/{hit.id}.jpg") and hit.metadata["width"] < 40 for hit in hits)
            if answers % 20 == 0:
                newest = SearchIndex(Snapshot(tmp_path))
                opened.add(newest.snapshot.manifest.generation)
                found = newest.search(queries, k=10)[1]
                assert np.isin(found, newest.snapshot.live_ids).all()
                assert all(hit.id in newest.snapshot for hit in newest.query(like=int(found[0, 0]), where=where).hits)
            answers += 1
        return answers

    with ThreadPoolExecutor(4) as pool:
        answers = sum(pool.map(ask, range(4)))
    rounds, _ = process.communicate()
    assert process.returncode == 0
    assert int(rounds) >= 8
    assert answers
    assert len(opened) > 3
