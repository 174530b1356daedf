"""OpenAI's byte-pair encoding gives the tokens of open_clip's tokenizer, without importing it."""

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search.encoders.clip_byte_pairs import ClipBytePairs
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

ARCHITECTURE = "ViT-B-32"
ODD = (
    "",
    " \t\n",
    "A  photo of\tTWO dogs, they're 12 years old!",
    "l&#39;&amp;amp;été &lt;b&gt;",
    "schÃ¶n “quoted” ﬁne \u00a0 \u200b e\u0301",
    "狗在水里跑 🐕‍🦺 собака कुत्ता",
    "<start_of_text> a <END_OF_TEXT><\u017ftart_of_text>",
    "\x1b[31mred\x1b[0m \x00 \r\n",
    "a" * 300,
)


@pytest.fixture(scope="module")
def pairs() -> tuple[ClipBytePairs, Callable[[str], list[int]]]:
    ensure_torchvision()
    import open_clip

    found = ClipBytePairs.of(ARCHITECTURE)
    assert found is not None
    theirs = open_clip.get_tokenizer(ARCHITECTURE)
    ours = (found.context_length, found.sot_token_id, found.eot_token_id)
    assert ours == (theirs.context_length, theirs.sot_token_id, theirs.eot_token_id)
    return found, theirs.encode


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_texts(pairs: tuple[ClipBytePairs, Callable[[str], list[int]]], text: str) -> None:
    ours, theirs = pairs
    assert ours.encode(text) == theirs(text)


@given(st.one_of(st.text(max_size=40), st.text("abcdef <>&;'\u2019éß1.\n", max_size=40)))
def test_any_text(pairs: tuple[ClipBytePairs, Callable[[str], list[int]]], text: str) -> None:
    ours, theirs = pairs
    assert ours.encode(text) == theirs(text)


def test_words_of_the_vocabulary(pairs: tuple[ClipBytePairs, Callable[[str], list[int]]]) -> None:
    import open_clip

    ours, theirs = pairs
    with gzip.open(Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1:48_895:20]
    text = " ".join("".join(merge.split()).removesuffix("</w>") for merge in merges)
    assert ours.encode(text) == theirs(text)


def test_other_encodings_are_left_to_open_clip() -> None:
    for architecture in ("ViT-B-16-SigLIP", "roberta-ViT-B-32", "ViT-H-14-CLIPA", "nowhere", "../pretrained"):
        assert ClipBytePairs.of(architecture) is None, architecture


def test_neither_open_clip_nor_torch_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To tokenise, and to resolve a model that was resolved before."""
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path))
    config = resolve(f"open_clip:{ARCHITECTURE}/openai").config
    assert config.vision.preprocess.height == 224
    code = (
        "import sys; from llm2clip_search.encoders.registry import resolve; "
        f"model = resolve('open_clip:{ARCHITECTURE}/openai'); "
        "print(model.tokenizer()(['A dog runs.']).ids[0, :6].tolist()); print(model.config); "
        "print(sorted({'torch', 'open_clip', 'ftfy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[49406, 320, 1929, 5586, 269, 49407]", str(config), "[]"]
