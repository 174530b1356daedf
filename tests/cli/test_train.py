"""The training commands: errors say in a sentence what is missing, and hints say what to do."""

from pathlib import Path

import pytest

from tests.support.commands import RunCli
from tests.support.tiny_training import write_nano_data


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (
            ["captions", "mega"],
            "There is no recipe 'mega' among the 26 known ones. hint: llm2clip-search train recipes lists them",
        ),
        (["captions", "nano"], "captions.csv.gz does not exist. hint: --data names the folder"),
        (
            ["embed", "nano"],
            "llm is not a caption-tuned LLM: it has no llm.json. hint: Create one with train captions.",
        ),
        (["clip", "nano"], "llm is not a caption-tuned LLM"),
        (["captions", "nano", "--sharding", "scatter"], "'scatter' is not one of 'replicate', 'shard'"),
        (["embed", "nano", "--dtype", "float8"], "'float8' is not one of 'float16', 'float32'"),
    ],
)
def test_errors_say_what_is_missing(arguments: list[str], shown: str, run_cli: RunCli) -> None:
    done = run_cli("train", *arguments)
    assert done.returncode in (1, 2)
    assert shown in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_shows_the_stages_in_order(run_cli: RunCli) -> None:
    shown = run_cli("train", "--help").stdout
    places = [shown.index(f" {stage} ") for stage in ("captions", "embed", "clip", "recipes")]
    assert places == sorted(places)


def test_an_invalid_llm_folder_is_an_error_not_a_crash(run_cli: RunCli, tmp_path: Path) -> None:
    write_nano_data(tmp_path / "data")
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "llm.json").write_text("{")
    done = run_cli("train", "embed", "nano", "--data", "data")
    assert done.returncode == 1
    assert "llm.json does not describe a caption-tuned LLM" in done.stderr


def test_bench_captions_refuses_an_unknown_data_set(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("bench", "captions", "nosuch", "--root", tmp_path)
    assert done.returncode == 1
    assert "There is no data set 'nosuch'" in done.stderr


def test_a_dry_run_fits_a_terminal(run_cli: RunCli) -> None:
    """Its table is as wide as its content, and fits 80 columns, as most terminals have."""
    done = run_cli("train", "captions", "nano", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "trained" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
