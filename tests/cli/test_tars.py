"""``index`` of tar shards, as webdataset and img2dataset write them."""

import json
from pathlib import Path

from tests.support.commands import RunCli
from tests.support.corpus import write_tar
from tests.support.images import png
from tests.support.tables import write_parquet


def write_shard(folder: Path, shard: int, *, images: int = 3) -> Path:
    """A shard of an output of img2dataset: the archive, a table with the same columns, and statistics."""
    members, rows = dict[str, bytes](), []
    for number in range(images):
        key, caption = f"{shard:05d}{number:04d}", f"picture {number}"
        rows.append({"key": key, "caption": caption, "width": 64, "similarity": number / 10, "error_message": None})
        members[f"{key}.jpg"] = png(100 * shard + number)
        members[f"{key}.json"] = json.dumps(rows[-1]).encode()
        members[f"{key}.txt"] = caption.encode()
    write_parquet(folder / f"{shard:05d}.parquet", {name: [row[name] for row in rows] for name in rows[0]})
    (folder / f"{shard:05d}_stats.json").write_text('{"count": 3}')
    return write_tar(folder / f"{shard:05d}.tar", members)


def test_an_output_of_img2dataset_is_its_shards(tmp_path: Path, tiny_model: Path, run_cli: RunCli) -> None:
    (tmp_path / "laion").mkdir()
    for shard in range(2):
        write_shard(tmp_path / "laion", shard)
    first = run_cli("index", "laion", "--model", f"dir:{tiny_model}", cwd=tmp_path)
    assert first.stdout.startswith("6 indexed, 0 moved or copied, 0 unchanged, 0 removed, 0 failed")
    assert run_cli("index", "laion", cwd=tmp_path).stdout.startswith("0 indexed, 0 moved or copied, 6 unchanged")
    found = run_cli("query", "a", "--where", "similarity >= 0.2 and source_width = 64", "--json", cwd=tmp_path)
    hits = {json.loads(line)["path"]: json.loads(line) for line in found.stdout.splitlines()}
    assert hits.keys() == {str(tmp_path / "laion" / f"0000{shard}.tar#0000{shard}0002.jpg") for shard in range(2)}
    assert {hit["caption"] for hit in hits.values()} == {"picture 2"}
    fewer = run_cli("index", "laion", "--columns", "similarity", cwd=tmp_path)
    assert "0 indexed" in fewer.stdout
    [hit] = run_cli("query", "a", "-k", "1", "--json", cwd=tmp_path).stdout.splitlines()
    assert json.loads(hit)["caption"] is None
    assert json.loads(hit)["similarity"] is not None
    assert json.loads(hit)["exists"] is True
    misspelt = run_cli("index", "laion", "--columns", "similarity,captoin", cwd=tmp_path)
    assert "nothing has a column 'captoin', which --columns names" in misspelt.stderr
    assert "similarity" not in misspelt.stderr
    again = run_cli("index", "laion", cwd=tmp_path)
    assert "--columns similarity,captoin, as the last time" in again.stderr
    every = run_cli("index", "laion", "--columns", "*", cwd=tmp_path)
    assert "as the last time" not in every.stderr
    [hit] = run_cli("query", "a", "-k", "1", "--json", cwd=tmp_path).stdout.splitlines()
    assert json.loads(hit)["caption"].startswith("picture")


def test_shards_by_braces_and_what_is_wrong_with_some(tmp_path: Path, tiny_model: Path, run_cli: RunCli) -> None:
    (tmp_path / "s").mkdir()
    shards = [write_shard(tmp_path / "s", shard) for shard in range(3)]
    shards[1].write_bytes(shards[1].read_bytes()[:4000])
    shards[2].write_bytes(b"\x1f\x8b" + bytes(600))
    done = run_cli("index", "s/{00000..00002}.tar", "--model", f"dir:{tiny_model}", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("3 indexed")
    assert "3 failed" in done.stdout  # two shards, and the image that the cut goes through
    assert "'s/00001.tar': cannot be read as a tar to its end: " in done.stderr
    assert "is compressed with gzip" in done.stderr
