"""All steps of an LSTM on an NTM in one GPU kernel forward and one backward, in Triton.

One program takes one row of the batch through all its steps. It keeps the memory in registers, and
backward the gradient of the memory. So a step costs no launch, and the memory moves only once, to
be kept for the backward pass. The weights of the layers come from the cache of the GPU.

A vector that one product gives and the next one needs goes through global memory, where most of
them must be kept for the backward pass in any case. Between the store of such a vector and its load
stands a barrier, since other threads load it than have stored it. A place that is used again at
the next step has such a barrier on both sides, or there are two places in turn.

This module imports Triton; :mod:`memnets.kernels.triton` imports it at the first run.

Constants are in capital letters. ``MASKED``: rows have lengths of their own. ``NOISE``: the bias of
the interface differs from step to step. ``RECORD``: what the backward pass needs is kept.
``HIDDEN``: C, cells of the LSTM. ``READS``, ``WRITES``: heads, H of them. ``SLOTS``: N. ``WIDTH``:
W. ``SHIFT``: S, the size of the shift kernel. ``EPSILON``: of the cosine. ``LEAST``: lower bound of
the sharpness. ``TINY``: the smallest number before a logarithm. A ``_BLOCK`` is a size rounded up
to a power of two, as Triton needs it, for one load. ``SLOT_TILE``: slots that are in registers at
once; if it is all of them, the memory stays there. ``TILE``: columns of a product's matrix, or rows
where it is transposed, that are loaded at once.
"""

# Triton reads the source of these functions: no annotations of types but ``tl.constexpr``.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["backward", "forward", "trial"]


@triton.jit
def trial(place):
    """Write a number, to see whether Triton works here."""
    tl.store(place, 1)


@triton.jit
def _tanh(numbers):
    # The language has no tanh of its own that its interpreter knows too.
    return 2 * tl.sigmoid(2 * numbers) - 1


@triton.jit
def _softplus(numbers):
    return tl.maximum(numbers, 0.0) + tl.log(1 + tl.exp(-tl.abs(numbers)))


@triton.jit
def _softmax(numbers, open_slots):
    """Softmax of ``[N]``, 0 where ``open_slots`` is False."""
    numbers = tl.where(open_slots, numbers, -float("inf"))
    powers = tl.exp(numbers - tl.max(numbers, 0))
    return powers / tl.sum(powers, 0)


@triton.jit
def _times(matrix, vector, row, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr):
    """``matrix vector`` at the rows ``row``: ``[ROWS, COLUMNS], [COLUMNS] -> [len(row)]``."""
    products = tl.zeros([row.shape[0], TILE], matrix.dtype.element_ty)
    for first in tl.range(0, COLUMNS, TILE, loop_unroll_factor=4):
        column = first + tl.arange(0, TILE)
        inside = column < COLUMNS
        factors = tl.load(vector + column, mask=inside, other=0.0)
        at = row[:, None] * COLUMNS + column[None, :]
        inside = (row < ROWS)[:, None] & inside[None, :]
        products += tl.load(matrix + at, mask=inside, other=0.0) * factors[None, :]
    return tl.sum(products, 1)


@triton.jit
def _times_transposed(
    matrix, vector, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr
):
    """``vector matrix`` at the columns ``column``: ``[ROWS, COLUMNS], [ROWS] -> [len(column)]``."""
    products = tl.zeros([TILE, column.shape[0]], matrix.dtype.element_ty)
    for first in tl.range(0, ROWS, TILE, loop_unroll_factor=4):
        row = first + tl.arange(0, TILE)
        inside = row < ROWS
        factors = tl.load(vector + row, mask=inside, other=0.0)
        at = row[:, None] * COLUMNS + column[None, :]
        inside = inside[:, None] & (column < COLUMNS)[None, :]
        products += tl.load(matrix + at, mask=inside, other=0.0) * factors[:, None]
    return tl.sum(products, 0)


@triton.jit
def _shares(raw, SHIFT: tl.constexpr, SHIFT_BLOCK: tl.constexpr):
    """The softmax of the shifts at ``raw``, with its parts: the largest number and the sum."""
    move = tl.arange(0, SHIFT_BLOCK)
    numbers = tl.load(raw + move, mask=move < SHIFT, other=-float("inf"))
    most = tl.max(numbers, 0)
    powers = tl.exp(numbers - most)
    total = tl.sum(powers, 0)
    return powers / total, most, total


@triton.jit(do_not_specialize=["steps"])
def forward(  # noqa: D417 - the module documents the constants
    of_inputs, of_interface, from_feature, to_interface, lengths, features, cells, gates,
    interfaces, memories, weights, contents, scores, scales, steps,
    MASKED: tl.constexpr, NOISE: tl.constexpr, RECORD: tl.constexpr, HIDDEN: tl.constexpr,
    READS: tl.constexpr, WRITES: tl.constexpr, SLOTS: tl.constexpr, WIDTH: tl.constexpr,
    SHIFT: tl.constexpr, EPSILON: tl.constexpr, LEAST: tl.constexpr, TINY: tl.constexpr,
    HIDDEN_BLOCK: tl.constexpr, INTERFACE_BLOCK: tl.constexpr, SLOT_BLOCK: tl.constexpr,
    SLOT_TILE: tl.constexpr, WIDTH_BLOCK: tl.constexpr, SHIFT_BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Take all steps of one row. F = C + R W is the width of ``[h, r]``, P that of the interface.

    Tensors of steps have T places, and tensors of states T + 1, the given state first. Without
    ``RECORD`` they have two places, which the steps use in turn.

    Args:
        of_inputs: the part of the gates that comes from x and the biases, ``[B, T, 4C]``.
        of_interface: bias of the interface, ``[P]``; with ``NOISE`` bias and noise, ``[B, T, P]``.
        from_feature: weights of the gates for ``[h, r]``, ``[4C, F]``.
        to_interface: weights of the interface, ``[P, C]``.
        lengths: with ``MASKED``, the number of steps of each row, int32 ``[B]``.
        features: states ``[h, r]``, always kept, ``[B, T + 1, F]``.
        cells: states c, ``[B, T + 1, C]``.
        gates: of steps, ``[B, T, 4C]``; not used without ``RECORD``.
        interfaces: of steps, ``[B, T, P]``.
        memories: states M, ``[B, T + 1, N, W]``.
        weights: states w, ``[B, T + 1, H, N]``.
        contents: weights by content, of steps, ``[B, T, H, N]``; not used without ``RECORD``.
        scores: the argument of their softmax, of steps, ``[B, T, H, N]``.
        scales: ``1 / |M|`` of each slot, of steps, ``[B, T, N]``.
        steps: T.
    """
    HEADS: tl.constexpr = READS + WRITES
    FEATURE: tl.constexpr = HIDDEN + READS * WIDTH
    INTERFACE: tl.constexpr = HEADS * (WIDTH + 3 + SHIFT) + 2 * WRITES * WIDTH
    POSITIVE: tl.constexpr = HEADS * WIDTH
    UNIT: tl.constexpr = POSITIVE + 2 * HEADS
    SHIFTS: tl.constexpr = UNIT + HEADS + WRITES * WIDTH
    ADDS: tl.constexpr = SHIFTS + HEADS * SHIFT
    IN_REGISTERS: tl.constexpr = SLOT_TILE == SLOT_BLOCK
    # 64 bits: a long batch of large memories has more numbers than 32 bits can count.
    row = tl.program_id(0).to(tl.int64)
    unit = tl.arange(0, HIDDEN_BLOCK)
    in_hidden = unit < HIDDEN
    slot = tl.arange(0, SLOT_BLOCK)
    in_slots = slot < SLOTS
    column = tl.arange(0, WIDTH_BLOCK)
    in_width = column < WIDTH
    tile = tl.arange(0, SLOT_TILE)
    count = steps
    if MASKED:
        count = tl.load(lengths + row)
    before = row * 2
    if RECORD:
        before = row * (steps + 1)
    cell = tl.load(cells + before * HIDDEN + unit, mask=in_hidden, other=0.0)
    memory = tl.zeros([SLOT_TILE, WIDTH_BLOCK], cell.dtype)
    if IN_REGISTERS:
        place = tile[:, None] * WIDTH + column[None, :]
        inside = (tile < SLOTS)[:, None] & in_width[None, :]
        memory = tl.load(memories + before * SLOTS * WIDTH + place, mask=inside, other=0.0)

    for step in range(count):
        now = row * 2 + step % 2
        before = now
        after = row * 2 + 1 - step % 2
        if RECORD:
            now = row * steps + step
            before = row * (steps + 1) + step
            after = before + 1
        feature = features + (row * (steps + 1) + step) * FEATURE
        interface = interfaces + now * INTERFACE

        # LSTM: the gates of each cell, then its state.
        given = of_inputs + (row * steps + step) * 4 * HIDDEN + unit
        block = from_feature
        enter = _times(block, feature, unit, HIDDEN, FEATURE, TILE)
        enter = tl.sigmoid(enter + tl.load(given, mask=in_hidden, other=0.0))
        block += HIDDEN * FEATURE
        forget = _times(block, feature, unit, HIDDEN, FEATURE, TILE)
        forget = tl.sigmoid(forget + tl.load(given + HIDDEN, mask=in_hidden, other=0.0))
        block += HIDDEN * FEATURE
        candidate = _times(block, feature, unit, HIDDEN, FEATURE, TILE)
        candidate = _tanh(candidate + tl.load(given + 2 * HIDDEN, mask=in_hidden, other=0.0))
        block += HIDDEN * FEATURE
        leave = _times(block, feature, unit, HIDDEN, FEATURE, TILE)
        leave = tl.sigmoid(leave + tl.load(given + 3 * HIDDEN, mask=in_hidden, other=0.0))
        cell = forget * cell + enter * candidate
        feature += FEATURE
        tl.store(feature + unit, leave * _tanh(cell), mask=in_hidden)
        tl.store(cells + after * HIDDEN + unit, cell, mask=in_hidden)
        if RECORD:
            kept = gates + now * 4 * HIDDEN + unit
            tl.store(kept, enter, mask=in_hidden)
            tl.store(kept + HIDDEN, forget, mask=in_hidden)
            tl.store(kept + 2 * HIDDEN, candidate, mask=in_hidden)
            tl.store(kept + 3 * HIDDEN, leave, mask=in_hidden)
        tl.debug_barrier()

        # Interface.
        for first in tl.static_range(0, INTERFACE, INTERFACE_BLOCK):
            entry = first + tl.arange(0, INTERFACE_BLOCK)
            in_interface = entry < INTERFACE
            numbers = _times(to_interface, feature, entry, INTERFACE, HIDDEN, TILE)
            bias = of_interface + entry
            if NOISE:
                bias += (row * steps + step) * INTERFACE
            numbers += tl.load(bias, mask=in_interface, other=0.0)
            tl.store(interface + entry, numbers, mask=in_interface)
        tl.debug_barrier()

        # Scores of all slots, tile by tile.
        for first in range(0, SLOT_BLOCK, SLOT_TILE):
            some = first + tile
            in_some = some < SLOTS
            if not IN_REGISTERS:
                place = some[:, None] * WIDTH + column[None, :]
                inside = in_some[:, None] & in_width[None, :]
                memory = tl.load(memories + before * SLOTS * WIDTH + place, mask=inside, other=0.0)
            scale = tl.rsqrt(tl.sum(memory * memory, 1) + EPSILON)
            tl.store(scales + now * SLOTS + some, scale, mask=in_some)
            for head in tl.static_range(HEADS):
                key = tl.load(interface + head * WIDTH + column, mask=in_width, other=0.0)
                strength = _softplus(tl.load(interface + POSITIVE + head))
                pointed = key * (strength * tl.rsqrt(tl.sum(key * key, 0) + EPSILON))
                score = tl.sum(memory * pointed[None, :], 1) * scale
                tl.store(scores + (now * HEADS + head) * SLOTS + some, score, mask=in_some)
        tl.debug_barrier()

        # Address: content, interpolate, shift, sharpen.
        for head in tl.static_range(HEADS):
            gate = tl.sigmoid(tl.load(interface + UNIT + head))
            sharpness = LEAST + _softplus(tl.load(interface + POSITIVE + HEADS + head))
            score = scores + (now * HEADS + head) * SLOTS + slot
            content = _softmax(tl.load(score, mask=in_slots, other=0.0), in_slots)
            previous = weights + (before * HEADS + head) * SLOTS + slot
            previous = tl.load(previous, mask=in_slots, other=0.0)
            gated = previous + gate * (content - previous)
            raw = interface + SHIFTS + head * SHIFT
            _, most, total = _shares(raw, SHIFT, SHIFT_BLOCK)
            shifted = tl.zeros_like(gated)
            for move in tl.static_range(SHIFT):
                share = tl.exp(tl.load(raw + move) - most) / total
                origin = (slot + (SLOTS + SHIFT // 2 - move)) % SLOTS
                shifted += share * tl.gather(gated, origin, 0)
            # A plain power would underflow; log 0 would be -inf.
            weight = _softmax(sharpness * tl.log(shifted + TINY), in_slots)
            tl.store(weights + (after * HEADS + head) * SLOTS + slot, weight, mask=in_slots)
            if RECORD:
                kept = contents + (now * HEADS + head) * SLOTS + slot
                tl.store(kept, content, mask=in_slots)
        tl.debug_barrier()

        # Read. The pass of the last read head also writes: all heads erase, then all add.
        of_heads = weights + after * HEADS * SLOTS
        for head in tl.static_range(READS):
            vectors = tl.zeros([SLOT_TILE, WIDTH_BLOCK], cell.dtype)
            for first in range(0, SLOT_BLOCK, SLOT_TILE):
                some = first + tile
                in_some = some < SLOTS
                place = some[:, None] * WIDTH + column[None, :]
                inside = in_some[:, None] & in_width[None, :]
                if not IN_REGISTERS:
                    of_memory = memories + before * SLOTS * WIDTH + place
                    memory = tl.load(of_memory, mask=inside, other=0.0)
                reading = tl.load(of_heads + head * SLOTS + some, mask=in_some, other=0.0)
                vectors += reading[:, None] * memory
                if head == READS - 1:
                    for write in tl.static_range(READS, HEADS):
                        writing = of_heads + write * SLOTS + some
                        writing = tl.load(writing, mask=in_some, other=0.0)
                        erase = interface + UNIT + HEADS + (write - READS) * WIDTH + column
                        erase = tl.sigmoid(tl.load(erase, mask=in_width, other=0.0))
                        memory -= memory * (writing[:, None] * erase[None, :])
                    for write in tl.static_range(READS, HEADS):
                        writing = of_heads + write * SLOTS + some
                        writing = tl.load(writing, mask=in_some, other=0.0)
                        add = interface + ADDS + (write - READS) * WIDTH + column
                        add = tl.load(add, mask=in_width, other=0.0)
                        memory += writing[:, None] * add[None, :]
                    tl.store(memories + after * SLOTS * WIDTH + place, memory, mask=inside)
            vector = feature + HIDDEN + head * WIDTH + column
            tl.store(vector, tl.sum(vectors, 0), mask=in_width)
        # The next step loads the state.
        tl.debug_barrier()


@triton.jit(do_not_specialize=["steps"])
def backward(  # noqa: D417 - the module documents the constants
    from_feature, to_interface, lengths, cells, gates, interfaces, memories, weights, contents,
    scores, scales, features_gradient, feature_gradient, cell_gradient, memory_gradient,
    weights_gradient, gates_gradient, interface_gradient, weights_scratch, scores_scratch, steps,
    MASKED: tl.constexpr, HIDDEN: tl.constexpr, READS: tl.constexpr, WRITES: tl.constexpr,
    SLOTS: tl.constexpr, WIDTH: tl.constexpr, SHIFT: tl.constexpr, EPSILON: tl.constexpr,
    LEAST: tl.constexpr, TINY: tl.constexpr, HIDDEN_BLOCK: tl.constexpr,
    FEATURE_BLOCK: tl.constexpr, SLOT_BLOCK: tl.constexpr, SLOT_TILE: tl.constexpr,
    WIDTH_BLOCK: tl.constexpr, SHIFT_BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Take all steps of one row back. Letters and tensors are those of :func:`forward`.

    Args:
        from_feature: ``[4C, F]``.
        to_interface: ``[P, C]``.
        lengths: with ``MASKED``, the number of steps of each row, int32 ``[B]``.
        cells: as ``forward`` wrote it with ``RECORD``, and so the next seven.
        gates: ``[B, T, 4C]``.
        interfaces: ``[B, T, P]``.
        memories: ``[B, T + 1, N, W]``.
        weights: ``[B, T + 1, H, N]``.
        contents: ``[B, T, H, N]``.
        scores: ``[B, T, H, N]``.
        scales: ``[B, T, N]``.
        features_gradient: of the features of all steps, ``[B, T, F]``.
        feature_gradient: of the last feature, ``[B, F]``; here and in the next two, the gradient
            before the first step takes its place.
        cell_gradient: of the last cell, ``[B, C]``.
        memory_gradient: of the last memory, ``[B, N, W]``.
        weights_gradient: of the last weights in its first place, ``[B, 2, H, N]``; those before the
            first step of a row are in the place ``steps of the row % 2``.
        gates_gradient: of the gates before their squashing, ``[B, T, 4C]``, written here.
        interface_gradient: ``[B, T, P]``, written here.
        weights_scratch: gradient of the weights by reads and writes, ``[B, H, N]``.
        scores_scratch: of the products of keys and slots, and last of the squared lengths of the
            slots, ``[B, H + 1, N]``.
        steps: T.
    """
    HEADS: tl.constexpr = READS + WRITES
    FEATURE: tl.constexpr = HIDDEN + READS * WIDTH
    INTERFACE: tl.constexpr = HEADS * (WIDTH + 3 + SHIFT) + 2 * WRITES * WIDTH
    POSITIVE: tl.constexpr = HEADS * WIDTH
    UNIT: tl.constexpr = POSITIVE + 2 * HEADS
    SHIFTS: tl.constexpr = UNIT + HEADS + WRITES * WIDTH
    ADDS: tl.constexpr = SHIFTS + HEADS * SHIFT
    IN_REGISTERS: tl.constexpr = SLOT_TILE == SLOT_BLOCK
    row = tl.program_id(0).to(tl.int64)
    unit = tl.arange(0, HIDDEN_BLOCK)
    in_hidden = unit < HIDDEN
    entry = tl.arange(0, FEATURE_BLOCK)
    slot = tl.arange(0, SLOT_BLOCK)
    in_slots = slot < SLOTS
    column = tl.arange(0, WIDTH_BLOCK)
    in_width = column < WIDTH
    tile = tl.arange(0, SLOT_TILE)
    shift = tl.arange(0, SHIFT_BLOCK)
    count = steps
    if MASKED:
        count = tl.load(lengths + row)
    feature_gradient += row * FEATURE
    memory_gradient += row * SLOTS * WIDTH
    weights_scratch += row * HEADS * SLOTS
    scores_scratch += row * (HEADS + 1) * SLOTS
    to_cell = tl.load(cell_gradient + row * HIDDEN + unit, mask=in_hidden, other=0.0)
    to_memory = tl.zeros([SLOT_TILE, WIDTH_BLOCK], to_cell.dtype)
    if IN_REGISTERS:
        place = tile[:, None] * WIDTH + column[None, :]
        inside = (tile < SLOTS)[:, None] & in_width[None, :]
        to_memory = tl.load(memory_gradient + place, mask=inside, other=0.0)

    for back in range(count):
        step = count - 1 - back
        now = row * steps + step
        before = row * (steps + 1) + step
        interface = interfaces + now * INTERFACE
        to_interfaces = interface_gradient + now * INTERFACE
        of_heads = weights + (before + 1) * HEADS * SLOTS
        to_after = weights_gradient + (row * 2 + back % 2) * HEADS * SLOTS
        to_before = weights_gradient + (row * 2 + 1 - back % 2) * HEADS * SLOTS
        to_feature = features_gradient + now * FEATURE
        of_memory = memories + before * SLOTS * WIDTH

        # Write: M_t = M prod_h (1 - w_h e_h) + sum_h w_h a_h. Then read, in the last pass.
        for head in tl.static_range(WRITES):
            raw = UNIT + HEADS + head * WIDTH + column
            erase = tl.sigmoid(tl.load(interface + raw, mask=in_width, other=0.0))
            add = tl.load(interface + ADDS + head * WIDTH + column, mask=in_width, other=0.0)
            to_add = tl.zeros([SLOT_TILE, WIDTH_BLOCK], to_cell.dtype)
            to_erase = tl.zeros([SLOT_TILE, WIDTH_BLOCK], to_cell.dtype)
            for first in range(0, SLOT_BLOCK, SLOT_TILE):
                some = first + tile
                in_some = some < SLOTS
                place = some[:, None] * WIDTH + column[None, :]
                inside = in_some[:, None] & in_width[None, :]
                memory = tl.load(of_memory + place, mask=inside, other=0.0)
                if not IN_REGISTERS:
                    to_memory = tl.load(memory_gradient + place, mask=inside, other=0.0)
                writing = of_heads + (READS + head) * SLOTS + some
                writing = tl.load(writing, mask=in_some, other=0.0)
                product = to_memory * memory
                for other in tl.static_range(WRITES):
                    # Of the other heads: division by a head's own factor fails where it is 0.
                    if other != head:
                        others = of_heads + (READS + other) * SLOTS + some
                        others = tl.load(others, mask=in_some, other=0.0)
                        erases = interface + UNIT + HEADS + other * WIDTH + column
                        erases = tl.sigmoid(tl.load(erases, mask=in_width, other=0.0))
                        product -= product * (others[:, None] * erases[None, :])
                to_add += writing[:, None] * to_memory
                to_erase += writing[:, None] * product
                to_writing = tl.sum(to_memory * add[None, :] - product * erase[None, :], 1)
                tl.store(weights_scratch + (READS + head) * SLOTS + some, to_writing, mask=in_some)
                if head == WRITES - 1:
                    for other in tl.static_range(WRITES):
                        others = of_heads + (READS + other) * SLOTS + some
                        others = tl.load(others, mask=in_some, other=0.0)
                        erases = interface + UNIT + HEADS + other * WIDTH + column
                        erases = tl.sigmoid(tl.load(erases, mask=in_width, other=0.0))
                        to_memory -= to_memory * (others[:, None] * erases[None, :])
                    for read in tl.static_range(READS):
                        at = HIDDEN + read * WIDTH + column
                        to_vector = tl.load(to_feature + at, mask=in_width, other=0.0)
                        to_vector += tl.load(feature_gradient + at, mask=in_width, other=0.0)
                        to_reading = tl.sum(memory * to_vector[None, :], 1)
                        tl.store(weights_scratch + read * SLOTS + some, to_reading, mask=in_some)
                        reading = tl.load(of_heads + read * SLOTS + some, mask=in_some, other=0.0)
                        to_memory += reading[:, None] * to_vector[None, :]
                    if not IN_REGISTERS:
                        tl.store(memory_gradient + place, to_memory, mask=inside)
            to_add = tl.sum(to_add, 0)
            to_erase = -tl.sum(to_erase, 0) * erase * (1 - erase)
            tl.store(to_interfaces + ADDS + head * WIDTH + column, to_add, mask=in_width)
            tl.store(to_interfaces + raw, to_erase, mask=in_width)
            tl.debug_barrier()

        # Address, from the last operation to the first.
        scale = tl.load(scales + now * SLOTS + slot, mask=in_slots, other=0.0)
        radial = tl.zeros_like(scale)
        for head in tl.static_range(HEADS):
            at = head * SLOTS + slot
            weight = tl.load(of_heads + at, mask=in_slots, other=0.0)
            gradient = tl.load(to_after + at, mask=in_slots, other=0.0)
            gradient += tl.load(weights_scratch + at, mask=in_slots, other=0.0)
            # Sharpen. What the forward pass did not keep comes again.
            kept = now * HEADS * SLOTS + at
            content = tl.load(contents + kept, mask=in_slots, other=0.0)
            previous = weights + before * HEADS * SLOTS + at
            previous = tl.load(previous, mask=in_slots, other=0.0)
            raw_sharpness = tl.load(interface + POSITIVE + HEADS + head)
            sharpness = LEAST + _softplus(raw_sharpness)
            gate = tl.sigmoid(tl.load(interface + UNIT + head))
            gated = previous + gate * (content - previous)
            raw = interface + SHIFTS + head * SHIFT
            shares, most, total = _shares(raw, SHIFT, SHIFT_BLOCK)
            shifted = tl.zeros_like(gated)
            for move in tl.static_range(SHIFT):
                share = tl.exp(tl.load(raw + move) - most) / total
                origin = (slot + (SLOTS + SHIFT // 2 - move)) % SLOTS
                shifted += share * tl.gather(gated, origin, 0)
            shifted += TINY
            gradient = weight * (gradient - tl.sum(weight * gradient, 0))
            to_sharpness = tl.sum(gradient * tl.log(shifted), 0)
            gradient = gradient * sharpness / shifted
            # Shift. The gradient of a circular convolution is one with the kernel turned round.
            to_gated = tl.zeros_like(gradient)
            to_shares = tl.zeros_like(shares)
            for move in tl.static_range(SHIFT):
                share = tl.exp(tl.load(raw + move) - most) / total
                origin = (slot + (SLOTS + SHIFT // 2 - move)) % SLOTS
                moved = tl.sum(gradient * tl.gather(gated, origin, 0), 0)
                to_shares = tl.where(shift == move, moved, to_shares)
                target = (slot + (SLOTS - SHIFT // 2 + move)) % SLOTS
                to_gated += share * tl.gather(gradient, target, 0)
            to_gated = tl.where(in_slots, to_gated, 0.0)
            to_shares = shares * (to_shares - tl.sum(shares * to_shares, 0))
            tl.store(to_interfaces + SHIFTS + head * SHIFT + shift, to_shares, mask=shift < SHIFT)
            # Interpolate.
            to_gate = tl.sum(to_gated * (content - previous), 0)
            looked = to_gated * gate
            tl.store(to_before + at, to_gated - looked, mask=in_slots)
            # Content. The length of a slot is part of its score.
            looked = content * (looked - tl.sum(content * looked, 0)) * scale
            radial += looked * scale * tl.load(scores + kept, mask=in_slots, other=0.0)
            tl.store(scores_scratch + at, looked, mask=in_slots)
            # The slope of softplus(x) is sigmoid(x); that of y = sigmoid(x) is y (1 - y).
            to_sharpness = to_sharpness * tl.sigmoid(raw_sharpness)
            tl.store(to_interfaces + POSITIVE + HEADS + head, to_sharpness)
            tl.store(to_interfaces + UNIT + head, to_gate * gate * (1 - gate))
        tl.store(scores_scratch + HEADS * SLOTS + slot, radial, mask=in_slots)
        tl.debug_barrier()

        # Keys and slots.
        for head in tl.static_range(HEADS):
            to_pointed = tl.zeros([SLOT_TILE, WIDTH_BLOCK], to_cell.dtype)
            for first in range(0, SLOT_BLOCK, SLOT_TILE):
                some = first + tile
                in_some = some < SLOTS
                place = some[:, None] * WIDTH + column[None, :]
                inside = in_some[:, None] & in_width[None, :]
                memory = tl.load(of_memory + place, mask=inside, other=0.0)
                along = tl.load(scores_scratch + head * SLOTS + some, mask=in_some, other=0.0)
                to_pointed += along[:, None] * memory
                if head == HEADS - 1:
                    if not IN_REGISTERS:
                        to_memory = tl.load(memory_gradient + place, mask=inside, other=0.0)
                    lengthwise = scores_scratch + HEADS * SLOTS + some
                    lengthwise = tl.load(lengthwise, mask=in_some, other=0.0)
                    to_memory -= lengthwise[:, None] * memory
                    for other in tl.static_range(HEADS):
                        along = scores_scratch + other * SLOTS + some
                        along = tl.load(along, mask=in_some, other=0.0)
                        key = tl.load(interface + other * WIDTH + column, mask=in_width, other=0.0)
                        key_scale = tl.rsqrt(tl.sum(key * key, 0) + EPSILON)
                        key_scale *= _softplus(tl.load(interface + POSITIVE + other))
                        to_memory += along[:, None] * (key * key_scale)[None, :]
                    if not IN_REGISTERS:
                        tl.store(memory_gradient + place, to_memory, mask=inside)
            to_pointed = tl.sum(to_pointed, 0)
            key = tl.load(interface + head * WIDTH + column, mask=in_width, other=0.0)
            raw_strength = tl.load(interface + POSITIVE + head)
            key_scale = tl.rsqrt(tl.sum(key * key, 0) + EPSILON)
            unit_key = key * key_scale
            # A unit vector moves only across its direction: the part along it is the strength's.
            to_strength = tl.sum(to_pointed * unit_key, 0)
            to_key = (to_pointed - unit_key * to_strength) * (key_scale * _softplus(raw_strength))
            tl.store(to_interfaces + head * WIDTH + column, to_key, mask=in_width)
            to_strength = to_strength * tl.sigmoid(raw_strength)
            tl.store(to_interfaces + POSITIVE + head, to_strength)
        tl.debug_barrier()

        # LSTM: c_t = f c + i g and h = o tanh(c_t).
        to_hidden = _times_transposed(to_interface, to_interfaces, unit, INTERFACE, HIDDEN, TILE)
        to_hidden += tl.load(to_feature + unit, mask=in_hidden, other=0.0)
        to_hidden += tl.load(feature_gradient + unit, mask=in_hidden, other=0.0)
        kept = gates + now * 4 * HIDDEN + unit
        enter = tl.load(kept, mask=in_hidden, other=0.0)
        forget = tl.load(kept + HIDDEN, mask=in_hidden, other=0.0)
        candidate = tl.load(kept + 2 * HIDDEN, mask=in_hidden, other=0.0)
        leave = tl.load(kept + 3 * HIDDEN, mask=in_hidden, other=0.0)
        kept = cells + before * HIDDEN + unit
        cell = tl.load(kept, mask=in_hidden, other=0.0)
        squashed = _tanh(tl.load(kept + HIDDEN, mask=in_hidden, other=0.0))
        to_cell += to_hidden * leave * (1 - squashed * squashed)
        to_gates = gates_gradient + now * 4 * HIDDEN
        at = to_gates + unit
        tl.store(at, to_cell * candidate * enter * (1 - enter), mask=in_hidden)
        tl.store(at + HIDDEN, to_cell * cell * forget * (1 - forget), mask=in_hidden)
        tl.store(at + 2 * HIDDEN, to_cell * enter * (1 - candidate * candidate), mask=in_hidden)
        tl.store(at + 3 * HIDDEN, to_hidden * squashed * leave * (1 - leave), mask=in_hidden)
        to_cell = to_cell * forget
        tl.debug_barrier()

        # The feature before: the gates read it.
        earlier = _times_transposed(from_feature, to_gates, entry, 4 * HIDDEN, FEATURE, TILE)
        tl.store(feature_gradient + entry, earlier, mask=entry < FEATURE)
        tl.debug_barrier()

    if IN_REGISTERS:
        place = tile[:, None] * WIDTH + column[None, :]
        inside = (tile < SLOTS)[:, None] & in_width[None, :]
        tl.store(memory_gradient + place, to_memory, mask=inside)
    tl.store(cell_gradient + row * HIDDEN + unit, to_cell, mask=in_hidden)
