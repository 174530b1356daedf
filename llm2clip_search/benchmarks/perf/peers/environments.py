"""Virtual environments in which the programs are installed."""

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from llm2clip_search.errors import Llm2ClipError

_MARK = "installed.json"
"""File in an environment that says what was installed in it; it is written last."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A virtual environment with what `requirements` bring."""

    folder: Path
    requirements: tuple[str, ...]
    """Arguments of ``pip install``."""

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def program(self, name: str) -> str:
        """Path of a program that was installed with a package."""
        return str(self.folder / "bin" / name)

    def install(self) -> None:
        """Create the environment if it is not there.

        Raises:
            Llm2ClipError: pip failed; its last line is quoted.
        """
        mark = self.folder / _MARK
        if mark.is_file() and json.loads(mark.read_text()) == list(self.requirements):
            return
        _run([sys.executable, "-m", "venv", "--clear", str(self.folder)])
        _run([self.python, "-m", "pip", "install", "--quiet", *self.requirements])
        mark.write_text(json.dumps(self.requirements))

    def versions(self, *distributions: str) -> dict[str, str]:
        """Installed versions by distribution."""
        shown = _run([self.python, "-m", "pip", "list", "--format", "json"])
        found = {each["name"].lower(): each["version"] for each in json.loads(shown)}
        return {name: found[name] for name in distributions if name in found}


_DECLARE_NMS = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch
            self.library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                self.library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.modules["llm2clip_torchvision"].finder = self

sys.meta_path.insert(0, Finder())
"""


def mend_torchvision(environment: Environment) -> None:
    """Make torchvision importable where the package index serves it for CUDA but PyTorch is built for CPUs.

    What `encoders.torchvision_ops` does in this process, as a hook that other programs need not know of: two operators
    of detectors are declared when torchvision is imported. A torchvision that can be imported is left alone.
    """
    probe = [environment.python, "-c", "import torchvision"]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        return
    where = "import sysconfig; print(sysconfig.get_path('purelib'), end='')"
    packages = Path(_run([environment.python, "-c", where]))
    (packages / "llm2clip_torchvision.py").write_text(_DECLARE_NMS)
    (packages / "llm2clip_torchvision.pth").write_text("import llm2clip_torchvision\n")
    _run(probe)


def same_torch() -> str:
    """The requirement that installs the PyTorch of this process, whose wheel for CPUs may be at hand."""
    return f"torch=={metadata.version('torch').partition('+')[0]}"


def check_out(repository: Path, commit: str, folder: Path) -> Path:
    """Write the files of a commit into a folder of its own below ``folder``, and return it.

    Raises:
        Llm2ClipError: git does not know the commit, or there is no repository.
    """
    full = _run(["git", "-C", str(repository), "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"]).strip()
    out = folder / full
    if not out.is_dir():
        done = subprocess.run(["git", "-C", str(repository), "archive", full], capture_output=True, check=True)
        out.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", str(out)], input=done.stdout, check=True)
    return out


def commit_of(repository: Path) -> str:
    """The commit that is checked out, with a plus sign if files differ from it; empty where there is no repository."""
    try:
        commit = _run(["git", "-C", str(repository), "rev-parse", "HEAD"]).strip()
        return commit + ("+" if _run(["git", "-C", str(repository), "status", "--porcelain"]) else "")
    except (Llm2ClipError, OSError):
        return ""


def _run(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed no error"])[-1]
        raise Llm2ClipError(f"{' '.join(words)} ended with exit code {done.returncode}: {last}")
    return done.stdout
