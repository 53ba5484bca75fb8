"""The write of linear memories: a step, and all steps of a sequence at once.

A linear memory is a matrix S, ``[K, V]``. A step decays it, then writes n times, each time erasing
what a key finds before it adds a value, and then reads it::

    S <- Diag(a) S
    S <- (I - k (b . k)^T) S + k (w . v)^T          n times, each with its own k, v, b, w
    r  = S^T q

The functions here take the products ``b . k`` and ``w . v``, and the logarithm of ``a``.

:func:`scan` computes the steps of a chunk as products of matrices. Let ``g_i`` be the sum of the
logarithms of the decays of a chunk up to step i, ``S`` the memory before the chunk and ``u_j`` what
write j adds: its value, less what its key finds. Then::

    S_i = Diag(exp g_i) S + sum_{j <= i} (exp(g_i - g_j) . k_j) u_j^T
    (I + L) U = W - E S,      L_ij = (b . k)_i^T (exp(g_i - g_j) . k_j)  for j < i

where the rows of W are ``w . v`` and those of E are ``exp(g_i) . b . k``. So one triangular system
gives all that a chunk writes (Yang et al. 2024, "Parallelizing Linear Transformers with the Delta
Rule", section 3.2). Without an erase, L is 0. The chunks then follow one another: there are T / C
of them, and the memory before each takes one product.

No exponential here has an argument above 0, whatever the decays: a factor ``exp(-g_j)`` alone would
overflow.

On a CPU with a compiler, :mod:`memnets.kernels.scan` runs in place of the chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.precision import full_precision

__all__ = ["scan", "write"]


@full_precision
def write(
    memory: Tensor,
    keys: Tensor,
    values: Tensor,
    erase: Tensor | None = None,
    log_decay: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of the write: decay the memory, then write n times, one after the other.

    Args:
        memory: S, ``[*B, K, V]``.
        keys: k, ``[*B, n, K]``.
        values: ``w . v``, ``[*B, n, V]``.
        erase: ``b . k``, ``[*B, n, K]``; ``None`` = nothing is erased.
        log_decay: ``log a``, at most 0, ``[*B, 1 or K]``; ``None`` = nothing decays.

    Returns:
        The new memory, ``[*B, K, V]``, and what each write has added at its key: the value less
        what it erased, ``[*B, n, V]``.
    """
    if log_decay is not None:
        memory = log_decay.exp().unsqueeze(-1) * memory
    if erase is None:
        # Writes that erase nothing do not see each other.
        return memory + keys.mT @ values, values
    added = []
    for number in range(keys.shape[-2]):
        one = slice(number, number + 1)
        add = values[..., one, :] - erase[..., one, :] @ memory
        memory = memory + keys[..., one, :].mT * add
        added.append(add)
    return memory, added[0] if len(added) == 1 else torch.cat(added, -2)


@full_precision
def scan(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    memory: Tensor,
    erase: Tensor | None = None,
    log_decay: Tensor | None = None,
    chunk: int = 32,
) -> tuple[Tensor, Tensor]:
    """T steps of write and read at once, in chunks.

    A step whose keys are 0 and whose ``log_decay`` is 0 leaves the memory as it is.

    Args:
        queries: q, ``[B, H, T, K]``.
        keys: k, ``[B, H, T, n, K]``.
        values: ``w . v``, ``[B, H, T, n, V]``.
        memory: S before the first step, ``[B, H, K, V]``.
        erase: ``b . k``, ``[B, H, T, n, K]``; ``None`` = nothing is erased.
        log_decay: ``log a``, at most 0, ``[B, H, T, 1 or K]``; ``None`` = nothing decays.
        chunk: C, the number of steps of a chunk, at least 1. T need not be a multiple of it.

    Returns:
        What each step reads after its writes, ``[B, H, T, V]``, and the memory after the last step.
    """
    twin = fast.find(scan, "", queries, keys, values, memory, erase, log_decay, chunk)
    if twin is not None:
        result: tuple[Tensor, Tensor] = twin(queries, keys, values, memory, erase, log_decay, chunk)
        return result
    steps, writes = keys.shape[-3:-1]
    if steps == 0:
        return values.flatten(-3, -2), memory
    size = min(chunk, steps)
    if log_decay is not None and log_decay.shape[-1] > 1:
        size = 1 << (size - 1).bit_length()  # products with a decay are made of halves
    queries, keys, values = (
        _chunked(queries, -2, size), _chunked(keys, -3, size), _chunked(values, -3, size)
    )  # fmt: skip
    decay = None if log_decay is None else _chunked(log_decay, -2, size).cumsum(-2)
    erase = None if erase is None else _chunked(erase, -3, size)
    # From here on, [B, H, chunks, C, ...]; flattened, with a row for each write of a chunk.
    # What erases and what reads meet the same keys: one product for both.
    left = queries.unsqueeze(-2)
    if erase is not None:
        left = torch.cat([left, erase], -2)
    products = _products(left, keys, decay).unflatten(-2, (size, -1))
    seen = products[..., 0, :]
    added, last = values.flatten(-3, -2), keys.flatten(-3, -2)
    whole = None
    if decay is not None:
        last = last * _each_write((decay[..., -1:, :] - decay).exp(), writes)
        whole = decay[..., -1, :].exp().unsqueeze(-1)
    if erase is None:
        states, memory = _through_chunks(memory, last.mT @ added, whole, None)
    else:
        reads = erase.flatten(-3, -2)
        if decay is not None:
            reads = reads * _each_write(decay.exp(), writes)
        # Of the matrix only what is below the diagonal counts; the diagonal is taken as 1.
        solved = torch.linalg.solve_triangular(
            products[..., 1:, :].flatten(-3, -2),
            torch.cat([added, reads], -1),
            upper=False,
            unitriangular=True,
        )
        widths = values.shape[-1], keys.shape[-1]
        moved, erased = (last.mT @ solved).split(widths, -1)
        states, memory = _through_chunks(memory, moved, whole, erased)
        added, found = solved.split(widths, -1)
        added = _plus_product(added, found, states, -1.0)
    if decay is not None:
        queries = queries * decay.exp()
    read = _plus_product(seen @ added, queries, states)
    return read.flatten(-3, -2)[..., :steps, :], memory


def _plus_product(total: Tensor, left: Tensor, right: Tensor, factor: float = 1.0) -> Tensor:
    """``total + factor (left @ right)`` in one pass over the total, ``[B, H, N, X, Y]``."""
    rows = total.flatten(0, 2)
    product = torch.baddbmm(rows, left.flatten(0, 2), right.flatten(0, 2), alpha=factor)
    return product.view(total.shape)


def _chunked(tensor: Tensor, dim: int, size: int) -> Tensor:
    """Cut the steps into chunks, the last filled up with zeros: ``[.., T, ..]`` in two."""
    missing = -tensor.shape[dim] % size
    if missing:
        tensor = nn.functional.pad(tensor, (0, 0) * (-dim - 1) + (0, missing))
    chunks: Tensor = tensor.unflatten(dim, (-1, size))
    return chunks


def _each_write(tensor: Tensor, writes: int) -> Tensor:
    """A row for each write of a step: ``[.., C, K] -> [.., C n, K]``."""
    return tensor if writes == 1 else tensor.repeat_interleave(writes, -2)


def _products(left: Tensor, keys: Tensor, decay: Tensor | None) -> Tensor:
    """Products of rows with the keys of the same and of earlier steps, as far as those decayed.

    ``left_i^T (exp(g_i - g_j) . k_j)`` for steps ``j <= i``, else 0.

    Args:
        left: ``[.., C, m, K]``.
        keys: ``[.., C, n, K]``.
        decay: g, ``[.., C, 1 or K]``; ``None`` = 0.

    Returns:
        ``[.., C m, C n]``.
    """
    size, rows, columns = left.shape[-3], left.shape[-2], keys.shape[-2]
    if decay is not None and decay.shape[-1] > 1:
        return _products_of_halves(left, keys, decay)
    products = left.flatten(-3, -2) @ keys.flatten(-3, -2).mT
    step = torch.arange(size, device=left.device)
    future = step.unsqueeze(-1) < step
    if decay is None:
        return products.masked_fill(_blown_up(future, rows, columns), 0.0)
    # Masked before the exponential, whose argument would be above 0 there.
    factor = (decay - decay.mT).masked_fill(future, -torch.inf).exp()
    return products * _blown_up(factor, rows, columns)


def _blown_up(tensor: Tensor, rows: int, columns: int) -> Tensor:
    """Repeat each number for the writes of its steps: ``[.., C, C] -> [.., C m, C n]``."""
    if rows > 1:
        tensor = tensor.repeat_interleave(rows, -2)
    return tensor if columns == 1 else tensor.repeat_interleave(columns, -1)


def _products_of_halves(left: Tensor, keys: Tensor, decay: Tensor) -> Tensor:
    """:func:`_products` where each entry of a key has a decay of its own.

    ``exp(g_i - g_j)`` then stands within the product and must be split among its factors. Steps of
    the second half of a stretch meet those of the first half by way of the step between them, m:
    ``exp(g_i - g_m) exp(g_m - g_j)``, where neither factor exceeds 1. Each half does the same
    within itself. So there are log C products, and no tensor ``[C, C, K]``.
    """
    rows, columns = left.shape[-2], keys.shape[-2]
    products = left @ keys.mT  # of steps with themselves, [.., C, m, n]
    size = 1
    while size < left.shape[-3]:
        first, second = decay.unflatten(-2, (-1, 2, size)).unbind(-3)
        middle = second[..., :1, :]
        late = left.unflatten(-3, (-1, 2, size)).select(-4, 1)
        early = keys.unflatten(-3, (-1, 2, size)).select(-4, 0)
        late = late * (second - middle).exp().unsqueeze(-2)
        early = early * (middle - first).exp().unsqueeze(-2)
        across = late.flatten(-3, -2) @ early.flatten(-3, -2).mT
        above, below = products.unflatten(-3, (-1, 2)).unbind(-3)
        above = nn.functional.pad(above, (0, size * columns))
        products = torch.cat([above, torch.cat([across, below], -1)], -2)
        size *= 2
    assert products.shape[-2] == size * rows
    return products.squeeze(-3)


def _through_chunks(
    memory: Tensor, added: Tensor, decay: Tensor | None, erased: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The memory before each chunk, and the one after the last.

    ``S <- Diag(d) S - A S + B``, chunk by chunk.

    Args:
        memory: S, ``[B, H, K, V]``.
        added: B, ``[B, H, N, K, V]``.
        decay: d, ``[B, H, N, 1 or K, 1]``; ``None`` = 1.
        erased: A, ``[B, H, N, K, K]``; ``None`` = 0.

    Returns:
        ``[B, H, N, K, V]`` and ``[B, H, K, V]``.
    """
    if decay is None and erased is None:
        total = memory.unsqueeze(-3) + added.cumsum(-3)
        return torch.cat([memory.unsqueeze(-3), total[..., :-1, :, :]], -3), total.select(-3, -1)
    states = []
    if erased is None:
        assert decay is not None
        for factor, more in zip(decay.unbind(-3), added.unbind(-3), strict=True):
            states.append(memory)
            memory = torch.addcmul(more, factor, memory)
        return torch.stack(states, -3), memory
    # One product a chunk, of Diag(d) - A.
    size = erased.shape[-1]
    kept = torch.eye(size, dtype=erased.dtype, device=erased.device)
    factors = (kept if decay is None else kept * decay) - erased
    shape = memory.shape
    memory = memory.flatten(0, -3)
    pairs = zip(factors.flatten(0, -4).unbind(1), added.flatten(0, -4).unbind(1), strict=True)
    for factor, more in pairs:
        states.append(memory)
        memory = torch.baddbmm(more, factor, memory)
    return torch.stack(states, 1).view(*shape[:-2], len(states), *shape[-2:]), memory.view(shape)
