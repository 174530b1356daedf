"""A layout of an index in the plane: rows whose vectors are close to each other lie close to each other.

t-SNE lays out a sample of the rows, the landmarks. Every other row is placed among the landmarks that are nearest to
it, which takes one pass over the vectors however many there are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np

from llm2clip_search.base.identity import json_sha256
from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.base.vectors import unit
from llm2clip_search.engine.candidates import Part, what_to_find
from llm2clip_search.engine.ranking import keys_of, parts_and_ids
from llm2clip_search.vectorindex.clustering import spherical_centroids
from llm2clip_search.vectorindex.faiss_library import import_faiss

LANDMARKS = 20_000
GROUPS = 10
_WIDTH = 64
"""Principal components that are compared. They keep 0.92 of the nearest neighbours of the default model's vectors."""
_NEIGHBOURS = 15
_FEWEST = 10 * _NEIGHBOURS
"""Rows from which on t-SNE is used: fewer ones, of which all attract each other, fall into one point."""
_PLACED_BY = 10
"""Landmarks that place a row."""
_EXAGGERATION = 1.3
"""Attraction of t-SNE's last steps: clear gaps between clusters, while neighbours stay neighbours."""
_STEPS = (250, 500)
_EXACT = 4_096
"""Landmarks up to which all are compared with every row."""
_MARGIN = 0.02
_GROWN, _LOST = 0.2, 0.3
"""Share of new rows, and of landmarks that are gone, above which a layout is made anew."""


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """Rows whose places are known, and how others are placed among them."""

    keys: np.ndarray
    """int64 ``[m]``, ascending; see `ranking.keys_of`."""
    mean: np.ndarray
    """float32 ``[dim]``."""
    basis: np.ndarray
    """Principal components, float32 ``[dim, width]``."""
    vectors: np.ndarray
    """Projected, unit length, float32 ``[m, width]``."""
    places: np.ndarray
    """float32 ``[m, 2]``, each 0 to 1."""
    centres: np.ndarray
    """Of the groups, the largest first: float32 ``[groups, width]``, unit length."""

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors, float32 ``[n, dim]``, as those of the landmarks are: float32 ``[n, width]``."""
        return unit(np.nan_to_num((vectors - self.mean) @ self.basis))

    def groups(self, projected: np.ndarray) -> np.ndarray:
        """The group of each projected vector, uint8 ``[n]``."""
        found: np.ndarray = (projected @ self.centres.T).argmax(axis=1)
        return found.astype(np.uint8)

    def place(self, keys: np.ndarray, projected: np.ndarray) -> np.ndarray:
        """The place of each row, float32 ``[n, 2]``.

        The nearest landmarks may lie in several clusters, and their mean in none. A row therefore goes to the one with
        most of the others around it, and to the mean of these. Rows of equal neighbours are spread by their keys.
        """
        scores, near = self._index.search(projected, min(_PLACED_BY, len(self.keys)))
        weights = np.where(near < 0, 0.0, np.maximum(scores, 1e-3) ** 4).astype(np.float32)
        around = self.places[near]
        apart = ((around[:, :, None] - around[:, None]) ** 2).sum(axis=-1)
        closeness = np.exp(-apart / (2 * (4 * self.spacing) ** 2))
        middle = ((closeness * weights[:, None]).sum(axis=-1) * np.sqrt(weights)).argmax(axis=1)
        weights *= closeness[np.arange(len(middle)), middle]
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        placed = (weights[:, :, None] * around).sum(axis=1) + 0.5 * self.spacing * _in_disc(keys)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        placed = np.where((self.keys[at] == keys)[:, None], self.places[at], placed)
        clipped: np.ndarray = np.clip(placed, 0.0, 1.0).astype(np.float32)
        return clipped

    @cached_property
    def spacing(self) -> float:
        """Median distance of a landmark to the third nearest one in the plane."""
        if len(self.keys) < 2:
            return 0.01
        flat = import_faiss().IndexFlatL2(2)
        some = self.places[:: -(-len(self.places) // 2_000)]
        flat.add(self.places)
        squares = flat.search(some, min(4, len(self.keys)))[0][:, -1]
        return max(1e-4, float(np.sqrt(np.median(squares))))

    @cached_property
    def _index(self) -> Any:
        faiss = import_faiss()
        flat = faiss.IndexFlatIP(self.vectors.shape[1])
        if len(self.keys) <= _EXACT:
            flat.add(self.vectors)
            return flat
        index = faiss.IndexIVFFlat(flat, self.vectors.shape[1], 128, faiss.METRIC_INNER_PRODUCT)
        index.train(self.vectors)
        index.add(self.vectors)
        index.nprobe = 16
        return index


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the rows of some indices lie, at one state of these."""

    keys: np.ndarray
    """int64 ``[n]``, ascending; see `ranking.keys_of`."""
    places: np.ndarray
    """float32 ``[n, 2]``, each 0 to 1."""
    groups: np.ndarray
    """uint8 ``[n]``: clusters of vectors, the largest is 0."""
    landmarks: Landmarks
    state: str
    """Of the indices when it was made, as `state_of`."""
    method: str
    """t-SNE or PCA."""

    def __len__(self) -> int:
        return len(self.keys)

    def within(self, polygon: np.ndarray) -> np.ndarray:
        """Keys, ascending, of the rows that lie within a closed polygon, float ``[corners, 2]``.

        A polygon that crosses itself holds what an odd number of its loops go around.
        """
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        near = np.flatnonzero(((self.places >= low) & (self.places <= high)).all(axis=1))
        x, y = self.places[near].astype(np.float64).T
        inside = np.zeros(len(near), dtype=bool)
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            crossed = np.flatnonzero((y0 > y) != (y1 > y))
            if len(crossed):
                inside[crossed] ^= x[crossed] < x0 + (y[crossed] - y0) * (x1 - x0) / (y1 - y0)
        found: np.ndarray = self.keys[near[inside]]
        return found


def state_of(parts: Sequence[Part]) -> str:
    """16 hex digits that are equal for the same rows of the same indices."""
    manifests = [part.snapshot.manifest for part in parts]
    rows = [
        [
            each.model.fingerprint,
            [each.tombstones, each.tombstones_sha256],
            # Names are numbers, which those of an index in the place of another share.
            *([shard.name, shard.sha256] for shard in each.shards),
        ]
        for each in manifests
    ]
    return json_sha256([rows, [str(part.snapshot.folder) for part in parts]])[:16]


def best_method() -> str:
    """t-SNE if openTSNE is installed, or else PCA."""
    return "PCA" if find_spec("openTSNE") is None else "t-SNE"


def lay_out(parts: Sequence[Part], *, progress: Progress = no_progress, threads: int = 1) -> Layout:
    """Lay out the images of some indices; of indices of texts, the texts.

    A million vectors take minutes on two cores, most of it for the landmarks, and 60 bytes of memory each.

    Raises:
        StoreError: FAISS is not installed.
        DamagedError: the vectors cannot be read.
    """
    keys = _keys(parts)
    method = best_method()
    chosen = np.random.default_rng(0).permutation(len(keys))[:LANDMARKS]
    landmarks = _landmarks(parts, keys[np.sort(chosen)], method, progress, threads)
    return _placed(parts, keys, landmarks, method, progress)


def continued(layout: Layout, parts: Sequence[Part], *, progress: Progress = no_progress) -> Layout | None:
    """The layout after the indices have changed: new rows are placed, and all others stay where they are.

    Returns:
        None if too much has changed, if a better method can be had now, or if the layout is one of other vectors.
    """
    keys = _keys(parts)
    is_known, lost = np.isin(keys, layout.keys), ~np.isin(layout.landmarks.keys, keys)
    new = keys[~is_known]
    if len(new) > _GROWN * len(keys) or lost.mean() > _LOST or layout.method != best_method():
        return None
    if not _is_of(layout.landmarks, parts, layout.landmarks.keys[~lost]):
        return None
    added = _placed(parts, new, layout.landmarks, layout.method, progress)
    kept = np.isin(layout.keys, keys)
    all_keys = np.concatenate([layout.keys[kept], added.keys])
    order = np.argsort(all_keys, kind="stable")
    return replace(
        added,
        keys=all_keys[order],
        places=np.concatenate([layout.places[kept], added.places])[order],
        groups=np.concatenate([layout.groups[kept], added.groups])[order],
    )


def _keys(parts: Sequence[Part]) -> np.ndarray:
    """Rows that a layout shows, ascending."""
    find = what_to_find(parts, None)
    found = [part.matches(None, find) for part in parts]
    ids = [part.indexed.live_ids if some is None else some for part, some in zip(parts, found, strict=True)]
    return np.concatenate([keys_of(number, of_part) for number, of_part in enumerate(ids)])


def _blocks(parts: Sequence[Part], keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some rows, block by block: int64 keys ``[n]``, vectors float32 ``[n, dim]``."""
    numbers, ids = parts_and_ids(keys)
    for number, part in enumerate(parts):
        for found, vectors in part.snapshot.blocks(ids[numbers == number]):
            yield keys_of(number, found), vectors


def _landmarks(parts: Sequence[Part], keys: np.ndarray, method: str, progress: Progress, threads: int) -> Landmarks:
    """Lay out some rows by themselves."""
    dim = parts[0].snapshot.manifest.dim
    vectors = np.empty((len(keys), dim), dtype=np.float32)
    for found, block in _blocks(parts, keys):
        vectors[np.searchsorted(keys, found)] = np.nan_to_num(block)
    mean = vectors.mean(axis=0) if len(vectors) else np.zeros(dim, dtype=np.float32)
    centred = vectors - mean
    basis = np.ascontiguousarray(np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :_WIDTH])
    first = _signed(centred @ basis[:, :2])
    projected = unit(centred @ basis)
    is_enough = method == "t-SNE" and len(keys) >= _FEWEST
    places = _t_sne(projected, first, progress, threads) if is_enough else first
    return Landmarks(
        keys=keys, mean=mean, basis=basis, vectors=projected, places=_in_square(places), centres=_centres(projected)
    )


def _placed(parts: Sequence[Part], keys: np.ndarray, landmarks: Landmarks, method: str, progress: Progress) -> Layout:
    places, groups = np.empty((len(keys), 2), dtype=np.float32), np.empty(len(keys), dtype=np.uint8)
    done = 0
    for found, vectors in _blocks(parts, keys):
        projected, at = landmarks.project(vectors), np.searchsorted(keys, found)
        places[at], groups[at] = landmarks.place(found, projected), landmarks.groups(projected)
        done += len(found)
        progress("rows", done, len(keys), {})
    return Layout(keys=keys, places=places, groups=groups, landmarks=landmarks, state=state_of(parts), method=method)


def _is_of(landmarks: Landmarks, parts: Sequence[Part], keys: np.ndarray) -> bool:
    """True if the indices hold the vectors of some landmarks; another index in the same folder has others."""
    if landmarks.mean.shape != (parts[0].snapshot.manifest.dim,):
        return False
    some = keys[:: max(1, len(keys) // 256)]
    for found, vectors in _blocks(parts, some):
        known = landmarks.vectors[np.searchsorted(landmarks.keys, found)]
        if not (np.einsum("nd,nd->n", landmarks.project(vectors), known) > 0.99).all():
            return False
    return True


def _t_sne(projected: np.ndarray, first: np.ndarray, progress: Progress, threads: int) -> np.ndarray:
    """t-SNE by openTSNE, whose cost grows with the rows only, with affinities that are equal for the nearest rows.

    Source: Böhm, Berens and Kobak, Attraction-Repulsion Spectrum in Neighbor Embeddings, JMLR 2022.
    """
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import Uniform
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    flat = import_faiss().IndexFlatIP(projected.shape[1])
    flat.add(projected)
    scores, near = _without_self(*flat.search(projected, _NEIGHBOURS + 1))
    neighbours = PrecomputedNeighbors(near, np.sqrt(np.maximum(2.0 - 2.0 * scores, 0.0)))
    affinities = Uniform(k_neighbors=_NEIGHBOURS, knn_index=neighbours, n_jobs=threads)
    scale = 1e-4 / max(float(first[:, 0].std()), 1e-12)
    start = first.astype(np.float64) * scale + np.random.default_rng(0).normal(scale=1e-6, size=first.shape)
    embedding = TSNEEmbedding(
        start,
        affinities,
        n_jobs=threads,
        random_state=0,
        negative_gradient_method="fft" if len(start) > 2_000 else "bh",
    )

    def report(before: int) -> Callable[..., bool]:
        def called(step: int, *_: object) -> bool:
            progress("steps", before + step, sum(_STEPS), {})
            return False

        return called

    every = {"callbacks_every_iters": 10}
    embedding = embedding.optimize(_STEPS[0], exaggeration=12, momentum=0.5, callbacks=report(0), **every)
    embedding = embedding.optimize(
        _STEPS[1], exaggeration=_EXAGGERATION, momentum=0.8, callbacks=report(_STEPS[0]), **every
    )
    return np.asarray(embedding, dtype=np.float32)


def _without_self(scores: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours ``[n, k + 1]`` without each row itself, or without the last one where copies have displaced it."""
    others = near != np.arange(len(near))[:, None]
    others[others.all(axis=1), -1] = False
    shape = (len(near), near.shape[1] - 1)
    return scores[others].reshape(shape), near[others].reshape(shape)


def _centres(projected: np.ndarray) -> np.ndarray:
    """Centres of groups, the largest group first."""
    count = min(GROUPS, max(1, len(projected) // 30))
    if not len(projected):
        return np.zeros((1, projected.shape[1]), dtype=np.float32)
    centres = spherical_centroids(projected, count, seed=0)
    sizes = np.bincount((projected @ centres.T).argmax(axis=1), minlength=count)
    return np.ascontiguousarray(centres[np.argsort(-sizes, kind="stable")])


def _signed(components: np.ndarray) -> np.ndarray:
    """Principal components have no sign of their own: the side of the longer tail is made positive."""
    signs = np.where((components**3).sum(axis=0) < 0, -1.0, 1.0)
    signed: np.ndarray = (components * signs).astype(np.float32)
    return signed


def _in_square(places: np.ndarray) -> np.ndarray:
    """Moved and scaled, in both directions alike, to lie between the margins of the square from 0 to 1."""
    if not len(places):
        return places
    low, high = places.min(axis=0), places.max(axis=0)
    scale = (1 - 2 * _MARGIN) / max(float((high - low).max()), 1e-12)
    scaled: np.ndarray = ((places - (low + high) / 2) * scale + 0.5).astype(np.float32)
    return scaled


def _in_disc(keys: np.ndarray) -> np.ndarray:
    """A point of the unit disc for each key, the same at every time: float32 ``[n, 2]``."""
    mixed = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    angle = (mixed >> np.uint64(40)).astype(np.float32) * (2 * np.pi / 2**24)
    radius = np.sqrt(((mixed >> np.uint64(8)) & np.uint64(0xFFFFFF)).astype(np.float32) / 2**24)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)
