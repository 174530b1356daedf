"""Losses compared with numpy and open_clip, and cached gradients with those of the whole batch."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.gradcache import backward_in_parts, embed_by_length, micro_batches_by_length
from llm2clip_search.training.tasks.losses import clip_loss, info_nce, require_negatives, shared_positives, siglip_loss


def units(rows: int, *, seed: int, dim: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator), dim=-1)


def open_clip_loss(name: str) -> Any:
    ensure_torchvision()
    import open_clip.loss

    return getattr(open_clip.loss, name)()


def info_nce_by_sums(queries: torch.Tensor, gallery: torch.Tensor, scale: float, negatives: np.ndarray) -> float:
    """Row by row, in float64; ``negatives`` bool ``[n, m]``."""
    scores = scale * (queries.double() @ gallery.double().T).numpy()
    losses = []
    for row in range(len(queries)):
        others = sum(np.exp(scores[row, j]) for j in np.flatnonzero(negatives[row]) if j != row)
        losses.append(-np.log(np.exp(scores[row, row]) / (np.exp(scores[row, row]) + others)))
    return float(np.mean(losses))


def test_info_nce_equals_its_formula_with_hard_negatives_and_masks() -> None:
    queries, gallery = units(5, seed=0), units(8, seed=1)
    assert float(info_nce(queries, gallery, 20.0)) == pytest.approx(
        info_nce_by_sums(queries, gallery, 20.0, np.ones((5, 8), bool)), rel=1e-5
    )
    masked = np.random.default_rng(0).random((5, 8)) < 0.4
    masked[2] = True  # only its own item is left: the loss is 0, not NaN
    before = torch.from_numpy(masked.copy())
    loss = info_nce(queries, gallery, 20.0, before)
    assert float(loss) == pytest.approx(info_nce_by_sums(queries, gallery, 20.0, ~masked), rel=1e-5)
    assert np.array_equal(before.numpy(), masked), "the caller's mask is unchanged"


def test_clip_loss_equals_that_of_open_clip() -> None:
    images, captions = units(6, seed=0), units(6, seed=1)
    expected = open_clip_loss("ClipLoss")(images, captions, torch.tensor(14.3))
    assert torch.allclose(clip_loss(images, captions, 14.3), expected)
    assert torch.allclose(clip_loss(images, captions, 14.3, torch.eye(6, dtype=torch.bool)), expected)


def test_siglip_loss_equals_that_of_open_clip() -> None:
    images, captions = units(6, seed=0), units(6, seed=1)
    expected = open_clip_loss("SigLipLoss")(images, captions, torch.tensor(10.0), torch.tensor(-10.0))
    assert torch.allclose(siglip_loss(images, captions, 10.0, -10.0), expected)


def test_losses_are_computed_in_float32() -> None:
    images, captions = units(6, seed=0).bfloat16(), units(6, seed=1).bfloat16()
    assert clip_loss(images, captions, 100.0).dtype == torch.float32
    assert torch.equal(clip_loss(images, captions, 100.0), clip_loss(images.float(), captions.float(), 100.0))
    assert siglip_loss(images, captions, 10.0, -10.0).dtype == torch.float32


def test_equal_captions_are_not_negatives() -> None:
    """Rows 0 and 1 have the same caption, so neither is a negative of the other's image."""
    captions = units(4, seed=1)
    captions[1] = captions[0]
    same = shared_positives(torch.tensor([7, 7, 8, 9]))
    assert same.sum() == 6
    images = units(4, seed=0)
    with_both = info_nce(images, captions, 10.0, same)
    assert with_both < info_nce(images, captions, 10.0)
    expected = info_nce_by_sums(images, captions, 10.0, ~same.numpy())
    assert float(with_both) == pytest.approx(expected, rel=1e-5)

    scores = 10.0 * images @ captions.T - 10.0
    signs = 2.0 * torch.eye(4) - 1.0
    each = -F.logsigmoid(signs * scores)
    each[0, 1] = each[1, 0] = 0.0
    assert torch.allclose(siglip_loss(images, captions, 10.0, -10.0, same), each.sum() / 4)


@pytest.mark.parametrize("groups", [[3], [5, 5, 5]])
def test_a_batch_without_negatives_is_refused(groups: list[int]) -> None:
    with pytest.raises(ModelError, match=rf"batch of {len(groups)} has a single photograph.*two photographs"):
        require_negatives(torch.tensor(groups))
    require_negatives(torch.tensor([*groups, 9]))


PARTS = ([0, 1, 2], [3, 4], [5, 6, 7, 8])


class Towers(nn.Module):
    """Two towers with dropout, so that embedding a part twice needs the same randomness."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.images = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 5))
        self.captions = nn.Linear(4, 5)
        self.log_scale = nn.Parameter(torch.tensor(2.0))


def gradients(*, cache: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[int]]:
    towers, graphs = Towers(), []
    pixels, texts = units(9, seed=2, dim=6), units(9, seed=3, dim=4)

    def encode(part: int) -> torch.Tensor:
        torch.manual_seed(part)
        if torch.is_grad_enabled():
            graphs.append(part)
        return F.normalize(towers.images(pixels[PARTS[part]]), dim=-1)

    def loss_of(images: torch.Tensor) -> torch.Tensor:
        captions = F.normalize(towers.captions(texts), dim=-1)
        return clip_loss(images, captions, towers.log_scale.exp())

    loss = backward_in_parts(encode, len(PARTS), loss_of, cache=cache)
    assert not loss.requires_grad
    found = {name: parameter.grad for name, parameter in towers.named_parameters() if parameter.grad is not None}
    assert len(found) == len(list(towers.parameters()))
    return loss, found, graphs


def test_cached_gradients_equal_those_of_the_whole_batch() -> None:
    whole_loss, whole, _ = gradients(cache=False)
    loss, parts, graphs = gradients(cache=True)
    assert torch.equal(loss, whole_loss)
    assert graphs == [0, 1, 2], "the graph of one part at a time, after the loss"
    for name, gradient in whole.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-7)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 9))
def test_micro_batches_by_length_restore_their_order(lengths: list[int], number: int) -> None:
    parts, inverse = micro_batches_by_length(lengths, number)
    assert len(parts) == number
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    union = torch.cat(parts)
    assert [lengths[row] for row in union.tolist()] == sorted(lengths)
    assert union[inverse].tolist() == list(range(len(lengths)))


class Ungathered(World):
    """A rank of several that shows its own rows, as if there were no others."""

    def gather(self, vectors: torch.Tensor, count: int) -> torch.Tensor:
        return vectors


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 4))
def test_each_rank_embeds_its_share_in_as_many_calls(lengths: list[int], size: int, ranks: int) -> None:
    calls = [list[list[int]]() for _ in range(ranks)]

    def embed(rank: int) -> torch.Tensor:
        def rows_of(rows: list[int]) -> torch.Tensor:
            calls[rank].append(rows)
            return torch.tensor(rows)[:, None]

        return embed_by_length(lengths, size, rows_of, Ungathered(rank, ranks))

    shares = [embed(rank)[:, 0].tolist() for rank in range(ranks)]
    every = list(range(len(lengths)))
    assert shares == [every] * ranks if ranks > len(lengths) else [row for share in shares for row in share] == every
    assert len(set(map(len, calls))) == 1, "a sharded tower is run by all ranks together"
    for batches in calls:
        embedded = [lengths[row] for batch in batches for row in batch]
        assert embedded == sorted(embedded)
        assert all(len(batch) <= size + 1 for batch in batches)
