"""The programs that are compared, each as the commands by which it indexes and answers."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from llm2clip_search.base.identity import json_sha256
from llm2clip_search.benchmarks.perf.peers.environments import Environment, check_out, mend_torchvision, same_torch
from llm2clip_search.benchmarks.perf.peers.processes import Command, run_measured

TOOLS = ("nano", "b32", "rclip", "clip-retrieval", "script")
"""Names by which programs are chosen; with a baseline, ``baseline`` is one more."""
ARCHITECTURE = "ViT-B-32-256"
"""rclip's model, in open_clip's words."""
CHECKPOINT = f"{ARCHITECTURE}.safetensors"
"""File of weights that open_clip reads."""
RCLIP = "rclip"
"""Folder of what rclip would download into its data folder: two ONNX files and the vocabulary."""
HITS = 10
"""Results of a query."""
ROOT = Path(__file__).parents[4]
"""Folder of this package: its repository, or where it is installed."""
_OFFLINE = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
_OWN_LIBRARIES = ("torch", "onnxruntime", "numpy", "pillow", "tokenizers", "faiss-cpu", "open_clip_torch")


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A program with a model. Its index of a folder of images is a folder of its own."""

    name: str
    program: str
    """As it is shown to people."""
    model: str
    index: Callable[[Path, Path], Command]
    """Index a folder of images into a new folder."""
    query: Callable[[Path, Path, str], Command] | None = None
    """Print the paths of the best `HITS` images for a caption, given the images and the index; None if it cannot."""
    help: Command | None = None
    keeps_captions: bool = False
    """Whether a caption that was asked before is answered without a model."""
    versions: Mapping[str, str]
    """Versions of the program and of the libraries that decide its speed."""

    @property
    def versions_key(self) -> str:
        """Tells indices of other versions apart."""
        return json_sha256(dict(self.versions))[:8]


def make_tool(name: str, folder: Path, *, baseline: str) -> Tool:
    """Install a program, make its weights, and describe it.

    Args:
        name: one of `TOOLS`, or ``baseline``.
        folder: where environments, weights and caches are kept from one call to the next.
        baseline: commit of this repository, for the tool of that name.

    Raises:
        Llm2ClipError: it cannot be installed.
    """
    makers = {
        "nano": lambda: _own(name, folder, model="nano"),
        "b32": lambda: _own(name, folder, model=f"open_clip:{ARCHITECTURE}/{_weights(folder) / CHECKPOINT}"),
        "rclip": lambda: _rclip(folder),
        "clip-retrieval": lambda: _clip_retrieval(folder),
        "script": lambda: _script(folder),
        "baseline": lambda: _baseline(folder, baseline),
    }
    return makers[name]()


def _weights(folder: Path) -> Path:
    out = folder / "weights"
    if not out.is_dir():
        partial = out.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        module = f"{__package__}.weights"
        run_measured(Command(words=(sys.executable, "-m", module, str(partial)), variables={"PYTHONPATH": str(ROOT)}))
        partial.rename(out)
    return out


def _own(name: str, folder: Path, *, model: str) -> Tool:
    versions = {"llm2clip-search": metadata.version("llm2clip-search")}
    versions |= {library: metadata.version(library) for library in _OWN_LIBRARIES}
    return _this_program(
        name,
        program="llm2clip-search",
        python=sys.executable,
        folder=folder,
        variables={"PYTHONPATH": str(ROOT), "LLM2CLIP_CACHE": str(folder / "cache")},
        model=model,
        shown="nano" if model == "nano" else ARCHITECTURE,
        keeps_captions=True,
        versions=versions,
    )


def _baseline(folder: Path, commit: str) -> Tool:
    source = check_out(ROOT, commit, folder / "commits")
    requirements = ("-c", str(source / "constraints.txt"), f"{source}[cpu]")
    environment = Environment(folder=folder / "environments" / source.name[:12], requirements=requirements)
    environment.install()
    return _this_program(
        "baseline",
        program=f"llm2clip-search at {source.name[:7]}",
        python=environment.python,
        folder=folder,
        variables={"LLM2CLIP_CACHE": str(folder / "cache-of-baseline")},
        model="nano",
        shown="its nano",
        keeps_captions=False,
        versions={"commit": source.name, **environment.versions(*_OWN_LIBRARIES)},
    )


def _this_program(
    name: str,
    *,
    program: str,
    python: str,
    folder: Path,
    variables: Mapping[str, str],
    model: str,
    shown: str,
    keeps_captions: bool,
    versions: Mapping[str, str],
) -> Tool:
    def command(*words: str) -> Command:
        # Python looks for a module in the working directory first, and this may be the repository.
        words = (python, "-m", "llm2clip_search", *words)
        return Command(words=words, folder=folder, variables={**_OFFLINE, **variables})

    return Tool(
        name=name,
        program=program,
        model=shown,
        index=lambda images, out: command("index", str(images), "--index", str(out), "--model", model),
        query=lambda images, out, caption: command(
            "query", caption, "--index", str(out), "--paths", "--limit", str(HITS)
        ),
        help=command("--help"),
        keeps_captions=keeps_captions,
        versions=versions,
    )


def _rclip(folder: Path) -> Tool:
    environment = Environment(folder=folder / "environments" / "rclip", requirements=("rclip==3.3.0",))
    environment.install()
    weights = _weights(folder) / RCLIP

    def command(images: Path, out: Path, *words: str) -> Command:
        out.mkdir(parents=True, exist_ok=True)
        for each in weights.iterdir():
            if not (link := out / each.name).exists():
                link.symlink_to(each)
        return Command(
            words=(environment.program("rclip"), *words),
            folder=images,
            variables={**_OFFLINE, "RCLIP_DATADIR": str(out)},
        )

    return Tool(
        name="rclip",
        program="rclip",
        model=ARCHITECTURE,
        # Its only command is a query, which brings the index up to date first.
        index=lambda images, out: command(images, out, "--filepath-only", "--top", "1", "a dog"),
        query=lambda images, out, caption: command(
            images, out, "--no-indexing", "--filepath-only", "--top", str(HITS), caption
        ),
        help=Command(words=(environment.program("rclip"), "--help")),
        versions=environment.versions("rclip", "onnxruntime", "numpy", "pillow"),
    )


def _clip_retrieval(folder: Path) -> Tool:
    environment = _torch_environment(folder)
    # Its default of 256 is meant for GPUs, and it warms up with a whole batch.
    words = (environment.program("clip-retrieval"), "inference", "--enable_text", "False", "--batch_size", "32")
    model = ("--clip_model", f"open_clip:{ARCHITECTURE}/{_weights(folder) / CHECKPOINT}", "--use_jit", "False")
    return Tool(
        name="clip-retrieval",
        program="clip-retrieval inference",
        model=ARCHITECTURE,
        index=lambda images, out: Command(
            words=(*words, *model, "--input_dataset", str(images), "--output_folder", str(out)), variables=_OFFLINE
        ),
        versions=environment.versions("clip-retrieval", "torch", "open_clip_torch", "numpy", "pillow"),
    )


def _torch_environment(folder: Path) -> Environment:
    """That of clip-retrieval, whose dependencies are those of the script as well."""
    environment = Environment(
        folder=folder / "environments" / "clip-retrieval",
        requirements=(same_torch(), "torchvision", "setuptools<81", "clip-retrieval==2.45.0"),  # it needs pkg_resources
    )
    environment.install()
    mend_torchvision(environment)
    return environment


def _script(folder: Path) -> Tool:
    environment = _torch_environment(folder)
    words = (environment.python, "-P", str(Path(__file__).with_name("script.py")))
    weights = str(_weights(folder) / CHECKPOINT)
    return Tool(
        name="script",
        program="script of thirty lines",
        model=ARCHITECTURE,
        index=lambda images, out: Command(words=(*words, "index", str(images), str(out), weights)),
        query=lambda images, out, caption: Command(
            words=(*words, "query", str(out), weights, caption), variables=_OFFLINE
        ),
        versions=environment.versions("torch", "open_clip_torch", "faiss-cpu", "numpy", "pillow"),
    )
