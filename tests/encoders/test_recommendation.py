"""Which published model suits, as the catalogue's figures say."""

from dataclasses import replace

import pytest

from llm2clip_search.encoders.catalogue import ReportedRecalls, catalogue_models
from llm2clip_search.encoders.memory_fit import DeviceMemory
from llm2clip_search.encoders.recommendation import Needs, Recommendation, recommend

CATALOGUE = catalogue_models()


def recommended(needs: Needs = Needs(), gigabytes: float = 1000.0) -> list[Recommendation]:
    device = DeviceMemory(device="cuda", bytes=int(gigabytes * 1e9), bytes_per_parameter=2.0)
    return recommend(CATALOGUE.values(), needs, [device])


def names(needs: Needs = Needs(), gigabytes: float = 1000.0) -> list[str]:
    return [each.model.name for each in recommended(needs, gigabytes)]


def test_published_recalls_decide_the_order() -> None:
    """Image R@1 of the paper's first table, of the row with less training data where there are two."""
    first, second, *_ = recommended()
    assert first.model.name == "llm2clip-llama3.1-8b-siglip2-so400m-patch14-224"
    assert first.short == pytest.approx((84.6 + 57.6) / 2)
    assert first.long == pytest.approx((99.4 + 97.3 + 92.9) / 3)
    assert second.model.name == "llm2clip-eva02-l-14-336"
    assert second.short == pytest.approx((85.1 + 58.5) / 2)
    unknown = [each for each in recommended() if each.short is None]
    assert sorted(names()) == sorted(CATALOGUE)
    assert recommended()[-len(unknown) :] == unknown
    sizes = [each.model.vision_parameters + each.model.text_parameters for each in unknown]
    assert sizes == sorted(sizes, reverse=True)


def test_captions_of_many_tokens_need_an_llm() -> None:
    found = recommended(Needs(tokens=78))
    assert {each.model.name for each in found} == {n for n in CATALOGUE if n == "nano" or n.startswith("llm2clip-")}
    assert names(Needs(tokens=513)) == []


@pytest.mark.parametrize("language", ["zh", "ZH"])
def test_languages(language: str) -> None:
    found = recommended(Needs(languages=(language,)))
    assert "nano" in {each.model.name for each in found}
    assert {each.model.languages for each in found} == {"multilingual", "en, de, fr, cs, zh"}
    assert "nano" not in names(Needs(languages=(language, "sw")))
    assert sorted(names(Needs(languages=("en",)))) == sorted(CATALOGUE)


def test_licences_of_both_parts_count() -> None:
    found = recommended(Needs(free=True))
    assert {each.model.licence for each in found} == {"apache-2.0", "mit"}
    assert "llm2clip-eva02-l-14-336" in names(Needs(free=True))
    assert "llm2clip-llama3.1-8b-siglip2-so400m-patch14-224" not in names(Needs(free=True)), "its LLM's is unknown"


def test_both_towers_have_to_fit() -> None:
    assert "llm2clip-openai-b-16" not in names(gigabytes=16)
    assert "llm2clip-llama3.2-1b-eva02-l-14-336" in names(gigabytes=16)
    assert names(gigabytes=0.001) == []


def test_figures_of_some_sets_only_are_none() -> None:
    short = ReportedRecalls(
        source="nano", row="a", recalls={"flickr30k": (50.0, 40.0), "mscoco_captions": (30.0, 20.0)}
    )
    half = replace(short, recalls={"flickr30k": (99.0, 99.0)})
    model = replace(CATALOGUE["nano"], recalls=(half, short))
    device = DeviceMemory(device="cuda", bytes=10**12, bytes_per_parameter=2.0)
    [found] = recommend([model], Needs(), [device])
    assert (found.short, found.long) == (30.0, None)
