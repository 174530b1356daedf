"""A file that makes its decoder crash is a failure among rows."""

from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.corpora import decode
from llm2clip_search.errors import ImageError
from llm2clip_search.indexers import IndexConfig, index_folder
from llm2clip_search.store import Snapshot
from tests.support import deadly
from tests.support.encoders import PixelEncoder
from tests.support.images import photograph


class WantingProcesses(PixelEncoder):
    """As an encoder on a GPU."""

    wants_processes = True


@pytest.mark.parametrize(("isolate", "encoder"), [(True, PixelEncoder()), (None, WantingProcesses())])
def test_a_file_that_crashes_its_decoder_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolate: bool | None, encoder: PixelEncoder
) -> None:
    monkeypatch.setattr(decode, "read_image", deadly.read_or_crash)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        photograph(number, (80, 60)).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes(deadly.DEADLY)
    (folder / "4.png").write_bytes(deadly.DEADLY + b"again")
    config = IndexConfig(isolate=isolate, threads=2)
    summary = index_folder(folder, index=tmp_path / "i", encoder=encoder, config=config)
    reasons = {Path(each["path"]).name: each["reason"] for each in summary.failures}
    assert reasons == dict.fromkeys(("2.png", "4.png"), "it makes its decoder crash (SIGABRT)")
    assert summary.indexed == 4
    monkeypatch.undo()
    index_folder(folder, index=tmp_path / "j", encoder=PixelEncoder())  # in this process
    apart, here = Snapshot(tmp_path / "i"), Snapshot(tmp_path / "j")
    assert apart.metadata() == here.metadata()
    assert np.array_equal(apart.vectors(range(4)), here.vectors(range(4)))


def test_what_is_said_counts_more_than_what_the_encoder_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where images are decoded here, a change of this process's decoder is seen."""

    def refuse(*args: object) -> None:
        raise ImageError("not today", stage="decode")

    photograph(1, (80, 60)).save(tmp_path / "1.png")
    monkeypatch.setattr(decode, "read_image", refuse)
    config = IndexConfig(isolate=False)
    summary = index_folder(tmp_path, index=tmp_path / "i", encoder=WantingProcesses(), config=config)
    assert [each["reason"] for each in summary.failures] == ["not today"]
