"""A contrastive batch in micro-batches: memory of one, loss of all (Gao et al., arXiv 2101.06983)."""

from collections.abc import Callable, Sequence

import torch

Encode = Callable[[int], torch.Tensor]
"""Embeds the micro-batch of that number: unit vectors float ``[n, dim]``. Deterministic: calling it
twice gives the same, dropout included."""


def backward_in_parts(
    encode: Encode, parts: int, loss_of: Callable[[torch.Tensor], torch.Tensor], *, cache: bool
) -> torch.Tensor:
    """Gradients of ``loss_of(all embeddings)``; returns the loss, detached.

    With ``cache`` every part is embedded twice: first without a graph, for the loss and its gradient
    by each embedding; then with one, a part at a time, to carry that gradient on. The graph of one
    part is all that is ever held, and the gradients are the same. Without ``cache`` the graphs of all
    parts are held and each part is embedded once.
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
    """Rows in that many micro-batches of similar length, and the order that restores the rows from their union."""
    order = torch.argsort(torch.tensor(lengths), stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order))
    return list(torch.tensor_split(order, parts)), inverse


def embed_by_length(lengths: Sequence[int], size: int, embed: Callable[[list[int]], torch.Tensor]) -> torch.Tensor:
    """What ``embed`` gives of all rows, in their order; it is handed at most ``size`` of them, of similar length."""
    parts, inverse = micro_batches_by_length(lengths, -(-len(lengths) // size))
    embedded = torch.cat([embed(part.tolist()) for part in parts])
    return embedded[inverse.to(embedded.device)]
