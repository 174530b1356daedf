"""The files of ``examples/cluster``: the script indexes on two nodes, and the rest names options that exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import llm2clip_search
from llm2clip_search.engine import open_index
from tests.support.images import photograph

CLUSTER = Path(llm2clip_search.__file__).parents[1] / "examples/cluster"


@pytest.mark.slow
def test_two_nodes_index_a_folder(tmp_path: Path, tiny_model: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(5):
        photograph(number, (64, 48)).save(images / f"{number}.png")
    script = [sys.executable, str(CLUSTER / "two_nodes.py"), str(images), "--index", str(tmp_path / "index")]
    environment = {**os.environ, "PYTHONPATH": str(CLUSTER.parents[1]), "RAY_worker_niceness": "0"}
    done = subprocess.run(
        [*script, "--model", f"dir:{tiny_model}"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "\n5 indexed" in f"\n{done.stdout}"  # Ray may say before it that there was another cluster
    assert len(open_index(tmp_path / "index", model=f"dir:{tiny_model}")) == 5
    script[2] = "missing"
    refused = subprocess.run(script, capture_output=True, text=True, check=False, env=environment)
    assert refused.returncode == 1, "the status is that of the run"


def test_commands_of_the_files_have_options_that_exist() -> None:
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text(encoding="utf-8"))
    readme = (CLUSTER / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [job["spec"]["entrypoint"], *re.findall(r"^llm2clip-search .*$", readme, flags=re.MULTILINE)]
    assert len(commands) >= 6
    for command in commands:
        _, name, *words = shlex.split(command)
        shown = subprocess.run(
            [sys.executable, "-m", "llm2clip_search", name, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for option in (word for word in words if word.startswith("-")):
            assert re.search(rf"{option}\b", shown), (name, option)


def test_versions_are_those_of_the_constraints() -> None:
    pins = (CLUSTER.parents[1] / "constraints.txt").read_text(encoding="utf-8")
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text(encoding="utf-8"))
    assert f"ray=={job['spec']['rayClusterSpec']['rayVersion']}\n" in pins
    image = re.search(r"rayproject/ray:([\d.]+)-", (CLUSTER / "Dockerfile").read_text(encoding="utf-8"))
    assert image is not None
    assert f"ray=={image[1]}\n" in pins
    compose = yaml.safe_load((CLUSTER / "compose.yaml").read_text(encoding="utf-8"))
    server = compose["services"]["qdrant"]["image"].rpartition(":v")[2]
    assert f"qdrant-client=={server}\n" in pins, "a client works with servers of its own minor version"
