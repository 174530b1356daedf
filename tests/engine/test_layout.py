"""A layout keeps neighbours together, places new rows among the old ones, and finds what lies within a polygon."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from llm2clip_search.engine import SearchIndex, layout, layout_file
from llm2clip_search.engine.layout import Landmarks, Layout, continued, lay_out, state_of
from llm2clip_search.engine.layout_file import read_layout, write_layout
from llm2clip_search.store import Snapshot, Writer
from tests.support.several import index_of
from tests.support.vectors import DIM, add, clustered


def neighbours(points: np.ndarray, count: int) -> np.ndarray:
    """The nearest other rows of each row, int64 ``[n, count]``."""
    squares = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(squares, np.inf)
    return np.asarray(np.argsort(squares, axis=1)[:, :count])


def trustworthiness(vectors: np.ndarray, places: np.ndarray, count: int = 10) -> float:
    """1 if the nearest rows in the plane are the nearest ones by vectors, 0.5 if they are any rows.

    Source: Venna and Kaski, Neighborhood preservation in nonlinear projection methods, ICANN 2001.
    """
    rows = len(vectors)
    ranks = np.empty((rows, rows), dtype=np.int64)
    ranks[np.arange(rows)[:, None], neighbours(vectors, rows)] = np.arange(1, rows + 1)
    near = ranks[np.arange(rows)[:, None], neighbours(places, count)]
    return 1 - 2 * float(np.maximum(near - count, 0).sum()) / (rows * count * (2 * rows - 3 * count - 1))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    return index_of(tmp_path_factory.mktemp("layout") / "i", clustered(1, 500), clustered(2, 100))


def vectors_of(laid: Layout, parts: Sequence[SearchIndex]) -> np.ndarray:
    return parts[0].snapshot.vectors(laid.keys.tolist())


@pytest.mark.parametrize("method", ["t-SNE", "PCA"])
def test_neighbours_stay_neighbours(index: SearchIndex, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(layout, "best_method", lambda: method)
    laid = lay_out([index])
    assert laid.keys.tolist() == index.snapshot.live_ids.tolist()
    assert laid.method == method
    assert laid.places.min() >= 0
    assert laid.places.max() <= 1
    least = {"t-SNE": 0.93, "PCA": 0.6}[method]
    assert trustworthiness(vectors_of(laid, [index]), laid.places) > least
    random = np.random.default_rng(0).random((len(laid), 2))
    assert trustworthiness(vectors_of(laid, [index]), random) < 0.55


def test_rows_beyond_the_landmarks_lie_among_their_neighbours(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "LANDMARKS", 200)
    laid = lay_out([index])
    assert len(laid.landmarks.keys) == 200
    at = np.searchsorted(laid.keys, laid.landmarks.keys)
    assert (laid.places[at] == laid.landmarks.places).all()
    assert len(np.unique(laid.places, axis=0)) == len(laid)
    assert trustworthiness(vectors_of(laid, [index]), laid.places) > 0.88


def test_the_same_index_gives_the_same_layout(index: SearchIndex) -> None:
    one, other = lay_out([index]), lay_out([index])
    assert (one.places == other.places).all()
    assert (one.groups == other.groups).all()


def test_groups_hold_alike_rows_and_the_largest_is_the_first(index: SearchIndex) -> None:
    laid = lay_out([index])
    sizes = np.bincount(laid.groups)
    assert 2 <= len(sizes) <= layout.GROUPS
    assert sizes[0] == sizes.max()
    vectors = vectors_of(laid, [index])
    cosines = vectors @ vectors.T
    same = laid.groups[:, None] == laid.groups[None]
    assert cosines[same].mean() > cosines[~same].mean() + 0.2


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 40, 150, 160])
def test_few_rows_and_copies_have_places(tmp_path: Path, rows: int) -> None:
    copies = np.repeat(clustered(3, 1), rows, axis=0)
    laid = lay_out([index_of(tmp_path / "copies", copies)])
    assert len(laid) == rows
    assert np.isfinite(laid.places).all()
    laid = lay_out([index_of(tmp_path / "different", clustered(3, rows))])
    assert len(laid) == rows
    assert ((laid.places >= 0) & (laid.places <= 1)).all()
    if rows > 1:
        assert np.ptp(laid.places, axis=0).max() > 0.9  # they do not fall into one point


def test_several_indices_share_one_layout(tmp_path: Path) -> None:
    parts = [index_of(tmp_path / "a", clustered(1, 60)), index_of(tmp_path / "b", clustered(1, 60))]
    laid = lay_out(parts)
    assert len(laid) == 120
    apart = np.linalg.norm(laid.places[:60] - laid.places[60:], axis=1)  # the same vectors
    assert np.median(apart) < 0.1


def test_the_same_numbers_of_other_vectors_are_another_state(tmp_path: Path) -> None:
    """As after an index was deleted and made of another folder: its commit and its shard have the same names."""
    states = []
    for seed in (1, 2, 1):
        shutil.rmtree(tmp_path / "i", ignore_errors=True)
        states.append(state_of([index_of(tmp_path / "i", clustered(seed, 20))]))
    assert states[0] == states[2] != states[1]


def test_after_a_small_change_rows_stay_where_they_are(tmp_path: Path) -> None:
    first = index_of(tmp_path / "i", clustered(1, 200))
    before = lay_out([first])
    assert continued(before, [first]) is not None
    with Writer.open(tmp_path / "i", model=first.snapshot.manifest.model, dim=DIM) as writer:
        add(writer, clustered(5, 20), removed=(3, 4))
    changed = SearchIndex(Snapshot(tmp_path / "i"))
    after = continued(before, [changed])
    assert after is not None
    assert after.state != before.state
    assert after.keys.tolist() == changed.snapshot.live_ids.tolist()
    stayed = np.isin(before.keys, after.keys)
    assert (after.places[np.isin(after.keys, before.keys)] == before.places[stayed]).all()
    new = ~np.isin(after.keys, before.keys)
    vectors = vectors_of(after, [changed])
    cosines = vectors[new] @ vectors[~new].T
    nearest = after.places[~new][cosines.argmax(axis=1)]
    assert np.median(np.linalg.norm(after.places[new] - nearest, axis=1)) < 0.1


def test_another_layout_is_made_after_a_large_change_or_for_other_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index_of(tmp_path / "i", clustered(1, 200))
    before = lay_out([first])
    assert continued(before, [index_of(tmp_path / "larger", clustered(1, 200), clustered(2, 90))]) is None
    assert continued(before, [index_of(tmp_path / "smaller", clustered(1, 90))]) is None
    assert continued(before, [index_of(tmp_path / "other", clustered(9, 200))]) is None
    assert continued(before, [index_of(tmp_path / "wider", np.eye(32, dtype=np.float32))]) is None
    monkeypatch.setattr(layout, "best_method", lambda: "PCA")
    assert continued(before, [first]) is None


coordinate = st.floats(-0.25, 1.25, width=32, allow_subnormal=False)
share = st.floats(0, 1, width=32, allow_subnormal=False)


@settings(deadline=None)
@given(
    places=st.lists(st.tuples(share, share), max_size=40),
    corners=st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=12),
)
def test_within_a_polygon_is_what_matplotlib_finds_there(
    places: list[tuple[float, float]], corners: list[tuple[float, float]]
) -> None:
    points = np.array(places, dtype=np.float32).reshape(-1, 2)
    polygon = np.array(corners, dtype=np.float64)
    laid = at_places(points)
    found = laid.within(polygon)
    outline = Outline(np.concatenate([polygon, polygon[:1]]), closed=True)
    surely = outline.contains_points(points.astype(np.float64))
    ends = np.roll(polygon, -1, axis=0)
    along = ends - polygon
    squares = np.maximum((along**2).sum(axis=1), 1e-30)
    at = np.clip(((points[:, None] - polygon) * along).sum(axis=-1) / squares, 0, 1)
    to_border = np.linalg.norm(points[:, None] - polygon - at[:, :, None] * along, axis=-1).min(axis=1)
    clear = to_border > 1e-6  # on the border itself either answer is right
    inside = np.isin(laid.keys, found)
    assert (inside[clear] == surely[clear]).all()


def test_a_layout_is_read_as_it_was_written(index: SearchIndex, tmp_path: Path) -> None:
    laid, path = lay_out([index]), tmp_path / "maps" / "one.npz"
    write_layout(path, laid)
    read = read_layout(path)
    assert read is not None
    assert (read.places == laid.places).all()
    assert (read.state, read.method) == (laid.state, laid.method)
    assert continued(read, [index]) is not None
    data = path.read_bytes()
    for damaged in (b"", b"PK", data[: len(data) // 2], b"x" + data[1:]):
        path.write_bytes(damaged)
        assert read_layout(path) is None


def test_old_layouts_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid = at_places(np.zeros((10, 2), dtype=np.float32))
    write_layout(tmp_path / "0.npz", laid)
    size = (tmp_path / "0.npz").stat().st_size
    monkeypatch.setattr(layout_file, "MOST_BYTES", 3 * size)
    for number in range(1, 6):
        write_layout(tmp_path / f"{number}.npz", laid)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 3
    assert "5.npz" in left


def at_places(points: np.ndarray) -> Layout:
    """A layout of rows that lie at some points."""
    keys = np.arange(len(points), dtype=np.int64)
    one = np.eye(2, dtype=np.float32)
    landmarks = Landmarks(keys=keys, mean=one[0], basis=one, vectors=np.zeros_like(points), places=points, centres=one)
    groups = np.zeros(len(points), dtype=np.uint8)
    return Layout(keys=keys, places=points, groups=groups, landmarks=landmarks, state="", method="PCA")
