"""``models average`` as a user runs it."""

import shutil
from pathlib import Path

from tests.support.commands import RunCli, is_one_error


def test_the_average_is_a_model_and_a_refusal_is_one_sentence(
    tmp_path: Path, tiny_model: Path, run_cli: RunCli
) -> None:
    shutil.copytree(tiny_model, tmp_path / "again")
    named = (f"dir:{tiny_model}", f"dir:{tmp_path / 'again'}", "--out", tmp_path / "out")
    refused = run_cli("models", "average", *named)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "differ in text.weights" in refused.stderr
    assert is_one_error(refused.stderr)
    done = run_cli("models", "average", f"dir:{tiny_model}", f"dir:{tiny_model}", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'out'}: the average of 2 models, as dir:{tmp_path / 'out'}\n"
    shown = run_cli("models", "show", f"dir:{tmp_path / 'out'}")
    assert shown.returncode == 0, shown.stderr
