"""The command as a user starts and stops it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

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
    assert server.stderr.read() == f"Stopped by {sent.name}.\n"


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


def test_a_server_for_other_machines_prints_its_token(index: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "llm2clip_search",
        "serve",
        "--host",
        "0.0.0.0",
        "--port",
        "0",
        "--runtime",
        "torch",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "LLM2CLIP_TOKEN"}
    with subprocess.Popen(command, cwd=index.parent, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        match = re.search(r"http://[^/]+:(?P<port>\d+)/\?token=(?P<token>[\w-]{43})", line)
        try:
            assert match is not None, line
            asked = Request(f"http://127.0.0.1:{match['port']}/api/v1/openapi.json")
            with pytest.raises(HTTPError, match="401"):
                urllib.request.urlopen(asked)
            asked.add_header("Authorization", f"Bearer {match['token']}")
            with urllib.request.urlopen(asked) as answer:
                assert answer.status == 200
        finally:
            process.terminate()
        assert process.wait(30) == 0


def test_a_token_that_is_easily_guessed_is_refused(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_TOKEN", "secret")
    done = run_cli("serve", "--port", "0")
    assert done.returncode == 1
    assert "at least 16 characters" in done.stderr
    assert "secret" not in done.stderr


def test_a_host_name_that_is_a_url_is_refused(run_cli: RunCli) -> None:
    done = run_cli("serve", "--port", "0", "--allow-host", "https://photos.example.org")
    assert done.returncode == 1
    assert "is not a host name" in done.stderr
