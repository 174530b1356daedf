"""What is measured of a served index, at sizes that take no time."""

import pytest

from llm2clip_search.benchmarks.perf.serving import measure_serving
from llm2clip_search.benchmarks.perf.serving_load import measure_load
from llm2clip_search.benchmarks.perf.serving_pictures import measure_pictures
from llm2clip_search.encoders import Encoder


def test_the_parts_of_a_search_are_its_whole(tiny_encoder: Encoder) -> None:
    [cost] = measure_serving(tiny_encoder, [300])
    assert cost.rows == 300
    assert cost.listening_s > 0
    assert cost.ready_s > 0
    assert 0 < cost.encode_ms < cost.search_ms
    assert 0 < cost.overhead_ms < cost.search_ms
    assert cost.next_page_ms > 0


def test_pictures_are_made_and_cached(tiny_encoder: Encoder) -> None:
    cost = measure_pictures(tiny_encoder, photographs=2)
    assert 0 < cost.fresh < cost.cached
    assert 0 < cost.page_bytes < 60_000


@pytest.mark.slow
def test_a_server_needs_no_more_after_two_minutes_than_after_one(tiny_encoder: Encoder) -> None:
    """``bench serve --clients 8 --seconds 3600`` is the long form."""
    cost = measure_load(tiny_encoder, rows=2000, clients=8, seconds=120)
    assert set(cost.answers) <= {200, 429}
    assert cost.commits > 1
    assert cost.memory_mb[100] <= 1.1 * cost.memory_mb[50]
    assert cost.descriptors[100] <= cost.descriptors[50] + 2
    assert cost.threads[100] <= cost.threads[50] + 2


@pytest.mark.slow
def test_clients_are_answered_while_rows_are_replaced(tiny_encoder: Encoder) -> None:
    cost = measure_load(tiny_encoder, rows=500, clients=4, seconds=8)
    assert cost.commits > 0
    assert set(cost.answers) <= {200, 429}
    assert cost.answers[200] > 10
    assert 0 < cost.search_ms <= cost.slow_ms
    assert cost.rows == 500
    assert list(cost.memory_mb) == [25, 50, 100]
    assert all(each > 0 for each in cost.memory_mb.values())
