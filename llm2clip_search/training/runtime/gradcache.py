"""Gradient caching: the contrastive loss of a large batch with the memory of one micro-batch.

Gao et al., arXiv 2101.06983.
"""

from collections.abc import Callable, Sequence

import torch

from llm2clip_search.training.runtime.distributed import World

Encode = Callable[[int], torch.Tensor]
"""Embeds the micro-batch with this index: unit vectors, float ``[n, dim]``. It has to be deterministic: two calls
return the same vectors, dropout included."""


def backward_in_parts(
    encode: Encode, parts: int, loss_of: Callable[[torch.Tensor], torch.Tensor], *, cache: bool
) -> torch.Tensor:
    """Backpropagate ``loss_of(all embeddings)``; returns the detached loss.

    With ``cache``, every part is embedded twice: first without a graph, to compute the loss and its gradient with
    respect to each embedding; then with a graph, one part at a time, to propagate that gradient. Only one part's
    graph is in memory at a time, and the gradients are the same. Without ``cache``, each part is embedded once and
    the graphs of all parts are in memory.
    """
    if not cache:
        loss = loss_of(torch.cat([encode(part) for part in range(parts)]))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()
    with torch.no_grad():
        embedded = [encode(part) for part in range(parts)]
    leaf = torch.cat(embedded).requires_grad_()
    loss = loss_of(leaf)
    loss.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    for part, gradient in enumerate(torch.split(leaf.grad, [len(rows) for rows in embedded])):
        encode(part).backward(gradient)  # type: ignore[no-untyped-call]
    return loss.detach()


def micro_batches_by_length(lengths: Sequence[int], parts: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Split rows into ``parts`` micro-batches of similar length and nearly equal size.

    Equal sizes, unlike the full batches and remainder of `base.vectors.batches_by_length`: every rank needs the
    same number of micro-batches, and none may be empty. The sizes also decide how sums are rounded, so changing
    them would change the bits of trained models.

    Returns:
        The row indices of each micro-batch, and the index that restores the order of rows in their concatenation.
    """
    order = torch.argsort(torch.tensor(lengths), stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order))
    return list(torch.tensor_split(order, parts)), inverse


def embed_by_length(
    lengths: Sequence[int], size: int, embed: Callable[[list[int]], torch.Tensor], world: World = World()
) -> torch.Tensor:
    """Embed all rows and return them in their order; ``embed`` gets about ``size`` rows of similar length at once.

    Each rank of ``world`` embeds its share, and all get all rows: all ranks have to call this.
    """
    count = len(lengths)
    is_shared = world.size <= count
    own = world.slice(count) if is_shared else slice(0, count)
    number = world.num_micro_batches(count, size=size) if is_shared else -(-count // size)
    parts, inverse = micro_batches_by_length(lengths[own], number)
    embedded = torch.cat([embed((part + own.start).tolist()) for part in parts])
    embedded = embedded[inverse.to(embedded.device)]
    return world.gather(embedded, count) if is_shared else embedded
