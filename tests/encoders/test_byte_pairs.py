"""Texts encoded with a part of the vocabulary equal those that the tokenizers library encodes with all of it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import llm2clip_search
from llm2clip_search.base.memory import private_bytes, return_freed_memory
from llm2clip_search.encoders.byte_pairs import SMALL, BytePairs, is_supported
from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.encoders.tokenization import LibraryTokenizer, caption_tokenizer
from tests.support.models import CAPTIONS, save_tokenizer

NANO = Path(llm2clip_search.__file__).parent / "encoders/models/nano/tokenizer.json"
ODD = [
    *("", " ", "\n", "a\n\nb", "<b>bold</b> and <bos> and <unk>", "<0x41>", "  two  spaces ", "\ttab", "a" * 300),
    *("🤷🏽‍♀️ in ẞ and ﬁ", "١٢٣ ", "ัั้้", "\u0000", "\U0001d4b3\U0001d4ce", "e\u0301", "<end_of_turn", "[multimodal]"),
    *CAPTIONS,
]


def byte_level(path: Path) -> None:
    """A byte-level encoding like Llama's: words by a pattern, added tokens beyond the vocabulary, and a template."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    drawn = random.Random(0)
    words = [
        "".join(drawn.choices("aeioustrnldéß一小狗", k=drawn.randint(5, 9)))  # a text uses few of many tokens
        for _ in range(40_000)
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=60_000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*words, *CAPTIONS], trainer)
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    tokenizer.add_tokens([AddedToken("stripped", lstrip=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>"))]
    )
    tokenizer.save(str(path))


@pytest.fixture(scope="module", params=["nano", "byte-level"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[BytePairs, Tokenizer]:
    """The part and the whole of a vocabulary."""
    path = NANO
    if request.param != "nano":
        path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
        byte_level(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2CLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert BytePairs.of(path) is None
        BytePairs.keep(path, parsing_seconds=2.0)
        pairs = BytePairs.of(path)
    assert pairs is not None
    assert pairs.parsing_seconds == 2.0
    return pairs, Tokenizer.from_file(str(path))


def expected(whole: Tokenizer, texts: list[str], *, special: bool) -> list[list[int]]:
    return [each.ids for each in whole.encode_batch(texts, add_special_tokens=special)]


@pytest.mark.parametrize("special", [True, False])
def test_odd_texts(both: tuple[BytePairs, Tokenizer], special: bool) -> None:
    pairs, whole = both
    for text in ODD:
        assert pairs.encode([text], special=special) == expected(whole, [text], special=special), text
    assert pairs.encode(ODD, special=special) == expected(whole, ODD, special=special)
    assert pairs.encode([], special=special) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
            st.sampled_from(["\n\n", "<table>", " a dog", "ein kleines", "小狗", "<unused7>", "<|end|>", "lärm "]),
        ),
        max_size=12,
    ).map("".join),
    special=st.booleans(),
)
def test_any_text(both: tuple[BytePairs, Tokenizer], text: str, special: bool) -> None:
    pairs, whole = both
    assert pairs.encode([text], special=special) == expected(whole, [text], special=special)


def test_ids_of_tokens(both: tuple[BytePairs, Tokenizer]) -> None:
    pairs, whole = both
    for token in ("<bos>", "<|begin|>", "\n", "a", "▁the", "no such token at all"):
        assert pairs.token_to_id(token) == whole.token_to_id(token), token


def test_what_needs_the_whole_vocabulary_is_left_to_it(both: tuple[BytePairs, Tokenizer]) -> None:
    pairs, whole = both
    assert pairs.encode(["ab " * 30_000, "cd" * 30_000], special=True) is None
    if whole.token_to_id("<|end|>") is not None:
        assert pairs.encode(["a stripped word"], special=True) is None


def small(change: dict[str, Any]) -> dict[str, Any]:
    return {"model": {"type": "BPE", "vocab": dict.fromkeys(map(str, range(SMALL)), 0), "merges": [], **change}}


@pytest.mark.parametrize(
    "change",
    [{"type": "Unigram"}, {"dropout": 0.1}, {"end_of_word_suffix": "</w>"}, {"vocab": {"a": 0}}],
)
def test_other_encodings_are_not_supported(change: dict[str, Any]) -> None:
    assert is_supported(small({}))
    assert not is_supported(small(change))


def test_a_small_vocabulary_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    save_tokenizer(tmp_path)
    BytePairs.keep(tmp_path / "tokenizer.json", parsing_seconds=0.1)
    assert BytePairs.of(tmp_path / "tokenizer.json") is None
    assert not (tmp_path / "cache").exists()


def test_captions_are_the_same_in_the_first_process_and_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsed, from the part, and from a cache that is damaged or cannot be written."""
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").symlink_to(NANO)
    config = TextConfig(library="llm", weights=None, max_tokens=64)

    def tokens() -> list[list[int]]:
        return caption_tokenizer(config, folder)(CAPTIONS).ids.tolist()  # type: ignore[no-any-return]

    parsed = tokens()
    kept = [*(tmp_path / "cache").rglob("*.npy")]
    assert kept
    monkeypatch.setattr(Tokenizer, "from_file", None)
    assert tokens() == parsed, "and nothing was parsed"
    monkeypatch.undo()
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    kept[0].write_bytes(b"damaged")
    assert tokens() == parsed
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "file" / "cache"))
    assert tokens() == parsed


def test_the_vocabulary_is_parsed_when_parts_of_it_have_taken_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    BytePairs.keep(NANO, parsing_seconds=1e-9)  # so any use of a part has taken as long
    config = TextConfig(library="llm", weights=None, max_tokens=64)
    parsed: list[str] = []
    from_file = Tokenizer.from_file

    def counted(path: str) -> Tokenizer:
        parsed.append(path)
        return from_file(path)

    monkeypatch.setattr(Tokenizer, "from_file", counted)
    tokenizer = caption_tokenizer(config, NANO.parent)
    first = tokenizer.count(CAPTIONS)
    assert parsed == [str(NANO)]
    assert first == [len(each.ids) for each in from_file(str(NANO)).encode_batch(CAPTIONS)]
    assert tokenizer.count(CAPTIONS) == first
    assert len(parsed) == 1


def test_a_file_that_is_no_tokenizer_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tokenizer.json"
    for content in ("{", "[]", json.dumps({"model": None})):
        path.write_text(content)
        BytePairs.keep(path, parsing_seconds=1.0)
        assert BytePairs.of(path) is None


@pytest.mark.slow
def test_captions_leave_nothing_behind() -> None:
    """The library remembers words in each thread; a caption is one word to this tokenizer."""
    whole = LibraryTokenizer(NANO)
    pairs = BytePairs.of(NANO)
    assert pairs is not None
    for encode in (whole.encode, pairs.encode):
        before = 0
        for number in range(3000):
            encode([f"A black dog runs through shallow water near a wooden bridge, number {number}"], special=True)
            if number == 1000:
                return_freed_memory()
                before = private_bytes()
        return_freed_memory()
        assert private_bytes() < before + 2e6
