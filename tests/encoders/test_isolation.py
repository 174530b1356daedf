"""What a file can do to its decoder ends a process, and is a failure of that file only."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from llm2clip_search.corpora.decode import read_image
from llm2clip_search.encoders.decode_memory import MEMORY
from llm2clip_search.encoders.isolation import IsolatedProcesses, Limits
from llm2clip_search.errors import ImageError
from tests.support import deadly
from tests.support.images import PREPROCESS
from tests.support.odd_files import saved


@pytest.fixture(scope="module")
def processes() -> Iterator[IsolatedProcesses]:
    made = IsolatedProcesses(Limits(seconds=1, memory=256 << 20))
    yield made
    made.close()


def test_a_crash_is_a_failure_and_the_next_call_works(processes: IsolatedProcesses) -> None:
    with pytest.raises(ImageError, match=r"it makes its decoder crash \(SIGABRT\)") as caught:
        processes.run(deadly.crash)
    assert caught.value.stage == "decode"
    assert processes.run(deadly.allocate, 1000) == 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_is_the_business_of_the_parent(processes: IsolatedProcesses, number: int) -> None:
    """The images in work would be failures, because their decoders ended."""
    assert processes.run(deadly.interrupted, int(number)) == number


def test_what_never_ends_is_ended(processes: IsolatedProcesses) -> None:
    with pytest.raises(ImageError, match="takes too much processor time"):
        processes.run(deadly.work_for_ever)
    impatient = IsolatedProcesses(Limits(wall_seconds=0.2))
    with pytest.raises(ImageError, match="does not end"):
        impatient.run(deadly.wait_for_ever)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound address space")
def test_memory_is_that_which_the_header_announces(processes: IsolatedProcesses) -> None:
    assert processes.run(deadly.allocate, 100 << 20) == 100 << 20
    with pytest.raises(ImageError, match="takes more memory than it may"):
        processes.run(deadly.allocate, 1 << 30)
    assert processes.run(deadly.allocate_announced, 300 << 20, 200_000_000) == 300 << 20
    with pytest.raises(ImageError, match=r"decoding it would take 0.3 GB, over the limit of 0.2 GB"):
        processes.run(deadly.allocate_announced, 300 << 20, 10_000_000, max_pixels=10_000_000)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound address space")
def test_a_large_png_without_exif_data_is_sound() -> None:
    """Looking for them takes no memory before the header has announced it."""
    processes = IsolatedProcesses(Limits(memory=64 << 20))
    data = saved(Image.new("RGB", (6000, 5000), "red"), "PNG", compress_level=1)
    facts, _ = processes.run(read_image, data, PREPROCESS, 200_000_000, True)
    processes.close()
    assert (facts.width, facts.damage) == (6000, None)


def test_memory_is_shared_with_this_process(processes: IsolatedProcesses) -> None:
    """A process that announces what it will take waits for what threads have here, and gives it back."""
    with MEMORY.hold(100, max_pixels=10):
        pass
    for _ in range(3):
        assert processes.run(deadly.allocate_announced, 150, 10, max_pixels=10) == 150


def test_what_a_library_prints_is_no_answer(processes: IsolatedProcesses) -> None:
    assert processes.run(deadly.print_and_answer, "an answer") == "an answer"


def test_an_error_that_cannot_be_sent_is_its_sentence(processes: IsolatedProcesses) -> None:
    with pytest.raises(ImageError, match="a reason that only this process knows"):
        processes.run(deadly.raise_what_cannot_be_sent)
    with pytest.raises(TypeError):
        processes.run(deadly.allocate, "x")


def test_modules_of_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a folder of strangers."""
    (tmp_path / "json.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    processes = IsolatedProcesses()
    _, folder, names = processes.run(deadly.environment)
    processes.close()
    assert names == ["json.py"]
    assert Path(folder) != tmp_path


def test_a_forked_process_has_processes_of_its_own() -> None:
    """Both would read each other's answers."""
    code = """
import operator, os
from llm2clip_search.encoders.isolation import PROCESSES
PROCESSES.run(operator.add, 0, 0)
child = os.fork()
own = 0 if child else 1000
wrong = [n for n in range(own, own + 100) if PROCESSES.run(operator.add, n, 0) != n]
PROCESSES.close()
if not child:
    os._exit(len(wrong))
print(wrong, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "[] 0\n", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_end_with_their_parent() -> None:
    code = (
        "import os, signal; from tests.support import deadly\n"
        "from llm2clip_search.encoders.isolation import PROCESSES\n"
        "print(PROCESSES.run(deadly.environment)[0], flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    child = Path("/proc") / done.stdout.strip()
    for _ in range(1000):
        if not child.exists() or "\nState:\tZ" in (child / "status").read_text():
            return
        time.sleep(0.02)
    raise AssertionError("it is still there")
