"""``bench ann`` as a user runs it."""

import json
from pathlib import Path

import pytest

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.benchmarks.perf.synthetic import SphereMixture
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Row, Writer
from tests.support.commands import RunCli, is_one_error


def test_drawn_vectors_give_a_table_and_a_picture(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("bench", "ann", "--synthetic", "300", "--dim", "16", "--kinds", "flat, ivf", "--out", "plots")
    assert done.returncode == 0
    about, head, *rows = done.stdout.splitlines()
    assert about == "300 vectors of 16 dimensions, 200 queries (synthetic, 17 clusters, seed 0)"
    assert head.split("  ")[0] == "index"
    assert "recall@10  queries/s" in head
    cells = [row.replace("*", " ").split() for row in rows]
    assert cells[0][:3] == ["flat", "exact", "1.0000"]
    # What an index's points share stands in its first row only.
    assert (cells[1][0], cells[1][3], len(cells[1])) == ("IVF7,SQfp16", "candidates", 13)
    assert {len(row) for row in cells[2:-1]} <= {8}
    assert (cells[-1][0], len(cells[-1])) == ("engine", 6)
    assert any("* " in row for row in rows)
    assert done.stderr.splitlines()[-2:] == ["wrote plots/ann.jsonl", "wrote plots/ann.png"]
    assert (tmp_path / "plots" / "ann.png").read_bytes().startswith(b"\x89PNG")


def test_the_index_at_hand_is_measured(run_cli: RunCli, tmp_path: Path) -> None:
    """The nearest index from the current folder upward; the model that made it need not exist."""
    model = ModelIdentity(name="dir:nowhere", revision="r", weights_sha256="w", preprocess_sha256="p")
    with Writer.open(tmp_path / ".llm2clip", model=model, dim=16) as writer:
        rows = [Row(id=i, path=str(i), content_hash=str(i), size=1, mtime_ns=0, width=1, height=1) for i in range(12)]
        writer.commit(rows, SphereMixture.of(12, 16).draw(12, stream=1))
        build_ann(writer, AnnConfig(kind="hnsw"))
    done = run_cli("bench", "ann", "-k", "3", "--queries", "5", "--json")
    points = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(point["rows"], point["dim"], point["k"], point["queries"]) for point in points} == {(12, 16, 3, 5)}
    assert {point["vectors"] for point in points} == {str(tmp_path / ".llm2clip")}
    assert points[0]["recall"] == 1.0
    assert points[-1]["recall"] >= 0.95
    assert {point["kind"] for point in points} == {"flat", "hnsw"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--synthetic", "50", "--index", "here"], "--synthetic 50 and --index here cannot be combined"),
        (
            ["--synthetic", "50", "--kinds", "hnsw,lsh"],
            "There is no kind of index 'lsh'; there are flat, hnsw, ivf, ivfpq",
        ),
        (["--index", "."], "holds no index"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(run_cli: RunCli, arguments: list[str], message: str) -> None:
    done = run_cli("bench", "ann", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert is_one_error(done.stderr)
