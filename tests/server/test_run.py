"""The command as a user starts and stops it."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm2clip_search.encoders import load_encoder
from llm2clip_search.indexers import index_folder
from tests.support.commands import RunCli
from tests.support.images import photograph


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "images").mkdir()
    for number in range(3):
        photograph(number, size=(64, 48)).save(folder / "images" / f"{number}.png")
    encoder = load_encoder(f"dir:{tiny_model}", runtime="torch")
    index_folder(folder / "images", encoder=encoder, index=folder / ".llm2clip")
    return folder / ".llm2clip"


@pytest.fixture
def server(index: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "llm2clip_search", "serve", "--port", "0", "--runtime", "torch"]
    process = subprocess.Popen(command, cwd=index.parent, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_and_stops_when_it_is_told_to(server: subprocess.Popen[str], sent: signal.Signals) -> None:
    assert server.stderr is not None
    line = server.stderr.readline()
    match = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert match is not None, line
    with urllib.request.urlopen(f"{match[0]}api/v1/health") as answer:
        assert json.load(answer) == {"status": "ok"}
    server.send_signal(sent)
    assert server.wait(30) == 0
    assert "Traceback" not in server.stderr.read()


def test_a_port_that_is_taken_is_a_sentence(run_cli: RunCli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_cli("serve", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr


def test_a_host_that_is_not_here_is_a_sentence(run_cli: RunCli) -> None:
    for host in ("192.0.2.1", "no.such.host.invalid"):
        done = run_cli("serve", "--host", host, "--port", "0")
        assert done.returncode == 1
        assert host in done.stderr
        assert "Traceback" not in done.stderr
