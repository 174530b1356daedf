"""A photographer's folder by the command line: RAW files beside JPEGs, and sidecars."""

import json
from pathlib import Path

from tests.support.commands import run_in_process
from tests.support.images import photograph
from tests.support.raws import dng, jpeg

SIDECAR = (
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
    ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    ' xmp:Rating="{}" dc:subject="{}"/></rdf:RDF>'
)


def test_raw_files_jpegs_and_sidecars(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        picture = photograph(number, (320, 240))
        (folder / f"IMG_{number}.DNG").write_bytes(dng(picture, preview=jpeg(picture)))
        if number < 2:
            (folder / f"img_{number}.jpg").write_bytes(jpeg(picture))
        (folder / f"IMG_{number}.xmp").write_text(SIDECAR.format(number + 1, "sea" if number % 2 else "land"))

    def found(condition: str) -> dict[str, tuple[int, list[str]]]:
        done = run_in_process("query", "a photograph", "--where", condition, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return {Path(row["path"]).name: (row["rating"], row["keywords"]) for row in rows}

    first = run_in_process("index", "photos", "--model", f"dir:{tiny_model}", cwd=tmp_path)
    assert first.stdout.startswith("4 indexed"), first.stderr
    assert "2 RAW files skipped: a JPEG or other image of the same name is beside them" in first.stderr
    assert found("rating >= 2 and list_contains(keywords, 'sea')") == {
        "img_1.jpg": (2, ["sea"]),
        "IMG_3.DNG": (4, ["sea"]),
    }
    assert list(found("format = 'RAW' and camera like 'Testmaker%' and rating = 3")) == ["IMG_2.DNG"]
    assert "4 unchanged" in run_in_process("index", "photos", cwd=tmp_path).stdout
    (folder / "IMG_3.xmp").write_text(SIDECAR.format(5, "lighthouse"))
    assert run_in_process("index", "photos", cwd=tmp_path).stdout.startswith(
        "0 indexed, 0 moved or copied, 1 with new columns, 3 unchanged"
    )
    assert found("rating = 5") == {"IMG_3.DNG": (5, ["lighthouse"])}
    both = run_in_process("index", "photos", "--separate-raw", cwd=tmp_path)
    assert both.stdout.startswith("2 indexed"), both.stderr
