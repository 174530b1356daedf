"""The precision of training steps, chosen by times that are given instead of measured."""

import pytest

from llm2clip_search.training.runtime.mixed_precision import Step, StepKind, Timing, compare_precisions


def times(float32: float, bf16: float) -> Timing:
    """Takes each step once, and answers with these seconds."""

    def timing(first: Step, second: Step) -> tuple[float, float]:
        first()
        second()
        return float32, bf16

    return timing


@pytest.mark.parametrize("kind", ["matrix products", "convolutions"])
@pytest.mark.parametrize(
    ("float32", "bf16", "prefers"), [(0.01, 0.004, True), (0.01, 0.0095, False), (0.01, 0.3, False)]
)
def test_bfloat16_is_taken_if_it_saves_a_tenth_of_the_time(
    kind: StepKind, float32: float, bf16: float, prefers: bool
) -> None:
    assert compare_precisions("cpu", kind, times(float32, bf16)).prefers_bf16 is prefers


def test_what_was_measured_is_said() -> None:
    measured = compare_precisions("cpu", "convolutions", times(0.0123, 0.0041))
    assert (
        str(measured) == "a small training step of convolutions takes 12.3 ms in float32 and 4.1 ms in bfloat16 (cpu)"
    )
    assert compare_precisions("cpu", "convolutions").float32 > 0.0, "the clock is the default"
