"""A pytest plugin that prints the largest difference of the arrays that each test compares.

pytest -q -p tests.support.differences tests/encoders/checkpoints
"""

from collections.abc import Generator
from unittest import mock

import numpy as np
import pytest

FOUND = dict[str, float]()
"""By test."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Note what goes through ``np.testing.assert_allclose`` while a test runs."""
    compare = np.testing.assert_allclose

    def noted(found: np.ndarray, expected: np.ndarray, *arguments: object, **options: object) -> None:
        difference = float(np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64)).max())
        FOUND[item.nodeid] = max(difference, FOUND.get(item.nodeid, 0.0))
        compare(found, expected, *arguments, **options)  # type: ignore[call-overload]

    with mock.patch.object(np.testing, "assert_allclose", noted):
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print them all."""
    for name, difference in FOUND.items():
        terminalreporter.write_line(f"{difference:.1e}  {name}")
