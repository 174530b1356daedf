"""How a batch of captions is divided by their length."""

from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search.training.runtime.gradcache import micro_batches_by_length
from llm2clip_search.training.runtime.micro_batches import MicroBatches, division_by_length


@given(
    st.lists(st.integers(1, 128), max_size=300),
    st.integers(1, 64),
    st.floats(1.0, 64.0, allow_nan=False),
    st.booleans(),
)
def test_what_is_in_memory_at_once_stays_within_the_plan(
    lengths: list[int], size: int, planned: float, is_cached: bool
) -> None:
    """All micro-batches together without gradient caching, one of them with it; or a single caption that is longer."""
    whole = MicroBatches(size=size, cached=is_cached)
    division = division_by_length(whole, lengths, planned=planned)
    assert division.cached or division is whole
    assert division.size <= size
    if not lengths:
        return
    parts, _ = micro_batches_by_length(lengths, -(-len(lengths) // division.size))
    tokens = [len(part) * max(lengths[row] for row in part.tolist()) for part in parts]
    if division is whole:
        assert sum(tokens) <= planned * len(lengths)
    else:
        assert max(tokens) <= max(planned * size, *lengths)


def test_captions_as_long_as_planned_leave_a_division_as_it_is() -> None:
    division = MicroBatches(size=8, cached=False)
    assert division_by_length(division, [10] * 64, planned=15.0) is division
    assert division_by_length(division, [], planned=15.0) is division
    assert division_by_length(division, [60] * 64, planned=15.0) == MicroBatches(size=2, cached=True)
