"""The documentation agrees with the code: generated parts, links, commands, public names and code blocks."""

import importlib.util
import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

import llm2clip_search
from llm2clip_search.store.manifest import AnnEntry, Manifest

PACKAGE = Path(llm2clip_search.__file__).parent
ROOT = PACKAGE.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*(ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG")), *PAGES]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """``docs/generate.py``, which is a script and no module of the package."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(path: Path) -> str:
    """A page without its blocks of code, in which a bracket is no link."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """What a link behind ``#`` may name: the headings, as GitHub and the generator both spell them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_generated_parts_are_up_to_date(generate: ModuleType) -> None:
    assert list(generate.stale()) == [], "run python docs/generate.py"


def test_every_block_is_used(generate: ModuleType) -> None:
    used = {match["name"] for path in PAGES for match in generate.BLOCK.finditer(path.read_text(encoding="utf-8"))}
    assert used == set(generate.BLOCKS)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_resolve(path: Path) -> None:
    for match in LINK.finditer(prose(path)):
        target, _, anchor = match["target"].partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = path.parent / target if target else path
        assert file.exists(), f"{path.name} links to {match['target']}"
        if anchor:
            assert anchor in anchors(file), f"{path.name} links to {match['target']}, which has no such heading"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [name for path in PAGES if (name := path.relative_to(DOCS).as_posix()) not in navigation]
    assert missing == []


def test_every_command_is_explained(generate: ModuleType) -> None:
    """In a page that people write, besides the generated reference."""
    written = "\n".join(path.read_text(encoding="utf-8") for path in PAGES if path.name != "cli.md")
    commands = [path.removeprefix("llm2clip-search").strip() for path, _ in generate.commands()]
    assert {"query", "bench retrieval", "train clip"} <= set(commands)
    missing = [name for name in commands if not re.search(rf"(llm2clip-search |`){name}\b", written)]
    assert missing == []


def test_every_public_name_is_documented() -> None:
    named = set(re.findall(r"^::: llm2clip_search\.(\w+)$", (DOCS / "python-api.md").read_text(), re.MULTILINE))
    assert named == set(llm2clip_search.__all__)


def test_every_field_of_the_manifest_is_documented() -> None:
    page = (DOCS / "index-format.md").read_text(encoding="utf-8")
    for kind in (Manifest, AnnEntry):
        missing = [field.name for field in fields(kind) if f"| `{field.name}` |" not in page]
        assert missing == []


def test_every_file_that_is_named_exists() -> None:
    """Files and packages in ARCHITECTURE and CONTRIBUTING, below the package or the root."""
    for name in ("ARCHITECTURE", "CONTRIBUTING"):
        named = re.findall(r"`((?:\w+/)+[\w.]*)`", (ROOT / f"{name}.md").read_text(encoding="utf-8"))
        packages = [ROOT, PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_dir())]
        missing = [each for each in named if not any((folder / each).exists() for folder in packages)]
        assert missing == []


BLOCKS = [
    pytest.param(match["code"], id=f"{path.relative_to(ROOT).as_posix()}-{number}")
    for path in TEXTS
    for number, match in enumerate(BLOCK.finditer(path.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("code", BLOCKS)
def test_python_blocks_compile(code: str) -> None:
    compile(code, "block", "exec")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
