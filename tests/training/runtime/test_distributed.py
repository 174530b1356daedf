"""Two ranks train like one, with replicated and with sharded parameters."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from llm2clip_search.errors import ModelError
from llm2clip_search.training.runtime.distributed import World, join_process_group
from llm2clip_search.training.runtime.metrics_log import read_metrics
from tests.support.toy_training import free_port, start, train_here, train_on_ranks

CASES = list(product(("replicate", "shard"), (True, False), (6, 7)))
SHARDINGS = ("replicate", "shard")


def name_of(sharding: str, cache: bool, batch: int) -> str:
    return f"{sharding}-{'cached' if cache else 'whole'}-{batch}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of all runs. Two processes do all distributed runs, because starting processes takes longest."""
    root = tmp_path_factory.mktemp("ranks")
    torch.set_num_threads(1)
    train_here(root / "one-6", batch=6)
    train_here(root / "one-7", batch=7)
    train_here(root / "one-stopped", poison="stop")
    two: list[dict[str, Any]] = [
        {"out": root / name_of(*case), "sharding": case[0], "cache": case[1], "batch": case[2]} for case in CASES
    ]
    for sharding in SHARDINGS:
        two.append({"out": root / f"{sharding}-stopped", "sharding": sharding, "poison": "stop"})
        (root / f"{sharding}-resumed").mkdir()
        (root / f"{sharding}-resumed" / "last.pt").write_bytes((root / "one-stopped" / "last.pt").read_bytes())
        two.append({"out": root / f"{sharding}-resumed", "sharding": sharding})
        two.append({"out": root / f"{sharding}-nan", "sharding": sharding, "poison": "gradient"})
    port = free_port()
    processes = [start(train_on_ranks, rank, port, two) for rank in range(2)]
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    return root


def assert_same_result(out: Path, one: Path) -> None:
    """Weights and metrics equal those of one rank, up to the order of summation."""
    found, wanted = (torch.load(folder / "weights.pt", weights_only=True) for folder in (out, one))
    torch.testing.assert_close(found["weights"], wanted["weights"], rtol=1e-4, atol=1e-5)
    assert found["figures"] == pytest.approx(wanted["figures"], rel=1e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: name_of(*case))
def test_two_ranks_train_like_one_with_the_whole_batch(runs: Path, case: tuple[str, bool, int]) -> None:
    out, one = runs / name_of(*case), runs / f"one-{case[2]}"
    assert_same_result(out, one)
    found, wanted = read_metrics(out / "metrics.jsonl"), read_metrics(one / "metrics.jsonl")
    assert len(found) == len(wanted) == 15  # 12 steps, 3 evaluations
    for left, right in zip(found, wanted, strict=True):
        assert left.keys() == right.keys()
        for name in left.keys() - {"samples_per_second", "seconds"}:
            assert left[name] == pytest.approx(right[name], rel=1e-4, abs=2e-6), name


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_one_rank_resumes_a_run_of_two(runs: Path, sharding: str) -> None:
    assert not (runs / f"{sharding}-stopped" / "weights.pt").exists()
    train_here(runs / f"{sharding}-stopped")
    assert_same_result(runs / f"{sharding}-stopped", runs / "one-7")


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_two_ranks_resume_a_run_of_one(runs: Path, sharding: str) -> None:
    assert_same_result(runs / f"{sharding}-resumed", runs / "one-7")
    assert read_metrics(runs / f"{sharding}-resumed" / "metrics.jsonl")[0]["step"] == 7


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_all_ranks_stop_at_a_non_finite_gradient(runs: Path, sharding: str) -> None:
    errors = [(runs / f"{sharding}-nan" / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert errors[0] == errors[1]
    assert errors[0].startswith("The gradient norm is nan at step 8 of 12")


def test_slices_and_micro_batches() -> None:
    for size, count, micro in product((1, 2, 3, 5), (5, 6, 7, 16), (1, 2, 4)):
        slices = [World(rank, size).slice(count) for rank in range(size)]
        assert [row for own in slices for row in range(count)[own]] == list(range(count))
        (parts,) = {World(rank, size).num_micro_batches(count, size=micro) for rank in range(size)}
        for own in slices:
            lengths = [len(part) for part in torch.arange(count)[own].tensor_split(parts)]
            assert min(lengths) >= 1
            assert max(lengths) <= micro + 1


def test_a_batch_smaller_than_the_ranks_is_refused() -> None:
    with pytest.raises(ModelError, match="A batch of 3 cannot be shared by 4 processes"):
        World(0, 4).num_micro_batches(3, size=2)


@pytest.mark.parametrize(("cores", "threads"), [(64, 8), (4, 1), (None, 1)])
def test_processes_on_a_machine_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, threads: int
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert join_process_group("cpu").threads == threads
