"""Decoding: answers of a model on its own, step by step over explicit state.

Greedy search, beam search and sampling work for every model that answers in tokens. ``play`` works
for a model whose answers are actions and whose next input is the reward of the last action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from memnets import functional
from memnets.batches import BEGIN, END, PAD, Places, feedback
from memnets.checks import check_positive
from memnets.core import EncoderDecoder

__all__ = [
    "Hypotheses",
    "beam_search",
    "check_search",
    "feedback",
    "generate",
    "greedy",
    "play",
    "sample",
]

#: Finished rows leave the batch once they are more than this share of it. To remove them at every
#: step would copy the state too often.
_IDLE_SHARE = 0.25

#: Steps on a GPU from one question which answers are finished to the next.
_PATIENCE = 8

#: Added to the score of an answer without an end mark, so that it ranks below every whole one. The
#: scores are in double precision meanwhile, in which the sum keeps the score's digits.
_CUT = -1e9


class Hypotheses(NamedTuple):
    """The n best answers that a beam search found, best first.

    Attributes:
        tokens: ``[B, n, T]``, with the end mark, then padding. An answer without an end mark was
            cut at the greatest length.
        scores: log probability over length penalty, ``[B, n]``. If the search found fewer answers,
            the rest have the score ``-inf`` and tokens of padding alone.
    """

    tokens: Tensor
    scores: Tensor


def check_search(
    beam: int, length_penalty: float, count: int = 1, max_length: int | None = None
) -> None:
    """Check the settings of a :func:`beam_search`; arguments as there.

    Raises:
        ValueError: a number is out of its range.
    """
    check_positive(beam=beam, count=count)
    if count > beam:
        raise ValueError(f"count must be at most beam = {beam}; got {count}")
    if not length_penalty >= 0:
        raise ValueError(f"length_penalty must be at least 0; got {length_penalty}")
    if max_length is not None:
        check_positive(max_length=max_length)


def _limits(
    model: EncoderDecoder, source: Tensor, mask: Tensor | None, max_length: int | None
) -> list[int]:
    """Greatest length of the answer to each source; 0 if the source is too long for the model."""
    if source.dim() < 2 or source.shape[1] == 0:
        raise ValueError(f"source must be [B, S, ...] with S >= 1; got {list(source.shape)}")
    if max_length is not None:
        check_positive(max_length=max_length)
    steps = [source.shape[1]] * len(source) if mask is None else mask.sum(1).tolist()
    # A limit depends on the source's own length, not on the padding: an answer must not change
    # with the batch around it.
    limits = {}
    for count in set(steps):
        most = 2 * count + 10 if max_length is None else max_length
        longest = model.longest_answer(count)
        limits[count] = most if longest is None else min(most, longest)
    return [limits[count] for count in steps]


@torch.no_grad()
def greedy(
    model: EncoderDecoder,
    source: Tensor,
    mask: Tensor | None = None,
    max_length: int | None = None,
    places: Places | None = None,
) -> Tensor:
    """Answer with the likeliest token at each step, until the end mark.

    Args:
        model: a model that answers in tokens.
        source: ``[B, S]`` or ``[B, S, I]``.
        mask: bool ``[B, S]``, False = padding; ``None`` = no padding.
        max_length: most tokens of an answer, at least 1; ``2 S + 10`` by default, and never more
            than :meth:`~memnets.core.EncoderDecoder.longest_answer`.
        places: those of the steps, for a model that is coupled; ``None`` = none.

    Returns:
        Tokens ``[B, T]``, with the end mark, then padding. An answer without an end mark was cut at
        the greatest length.

    Raises:
        ValueError: ``max_length`` is less than 1, or a source is empty or too long for the model.
    """
    return _followed(model, source, mask, max_length, functional.likeliest, places=places)


@torch.no_grad()
def sample(
    model: EncoderDecoder,
    source: Tensor,
    mask: Tensor | None = None,
    max_length: int | None = None,
    temperature: float = 1.0,
    begun: Tensor | None = None,
    never: Sequence[int] = (),
    generator: torch.Generator | None = None,
    places: Places | None = None,
) -> Tensor:
    """Answer with a random token at each step, by its probability, until the end mark.

    Args:
        model: a model that answers in tokens.
        source: ``[B, S]`` or ``[B, S, I]``.
        mask: bool ``[B, S]``, False = padding; ``None`` = no padding.
        max_length: most tokens of an answer, at least 1, with those begun; ``2 S + 10`` by default,
            and never more than :meth:`~memnets.core.EncoderDecoder.longest_answer`.
        temperature: T > 0; a token has the probability ``softmax(logits / T)``. Below 1, likely
            tokens become likelier.
        begun: tokens with which each answer begins, ``[B, P]``, without padding; ``None`` = none.
        never: tokens that are not drawn.
        generator: source of the random numbers, on the device of the source; that of PyTorch by
            default. The answer to a source depends on the other sources of the batch.
        places: those of the steps, for a model that is coupled; ``None`` = none.

    Returns:
        Tokens ``[B, T]``, those begun first, with the end mark, then padding. An answer without an
        end mark was cut at the greatest length.

    Raises:
        ValueError: a number is out of its range, a shape does not fit, or a source is empty or too
            long for the model.
    """
    if not 0 < temperature < torch.inf:
        raise ValueError(f"temperature must be above 0; got {temperature}")
    if begun is not None and (begun.dim() != 2 or len(begun) != len(source)):
        raise ValueError(
            f"begun must be tokens [B, P] with B = {len(source)}; got {list(begun.shape)}"
        )

    def draw(logits: Tensor) -> Tensor:
        logits = logits.float() / temperature
        if never:
            logits[:, list(never)] = -torch.inf
        return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)

    return _followed(model, source, mask, max_length, draw, begun, places)


def _followed(
    model: EncoderDecoder,
    source: Tensor,
    mask: Tensor | None,
    max_length: int | None,
    choose: Callable[[Tensor], Tensor],
    begun: Tensor | None = None,
    places: Places | None = None,
) -> Tensor:
    """One answer to each source, token by token, until the end mark.

    Args:
        model: a model that answers in tokens.
        source: ``[B, S]`` or ``[B, S, I]``.
        mask: bool ``[B, S]`` or ``None``.
        max_length: most tokens of an answer, or ``None``.
        choose: chooses the next token of some answers, ``[R, O] -> [R]``.
        begun: tokens with which each answer begins, ``[B, P]``, or ``None``.
        places: those of the steps, or ``None``.
    """
    lengths = _limits(model, source, mask, max_length)
    longest = max(lengths, default=0)
    limits = torch.tensor(lengths, device=source.device, dtype=torch.long)
    state = model.encode_placed(source, mask, places)
    answers = source.new_full((len(source), longest), PAD, dtype=torch.long)
    # Only rows that still go on are decoded. ``rows`` holds their places in the batch.
    rows = limits.nonzero().squeeze(1)
    if len(rows) < len(source):
        state = model.reorder(state, rows)
    token = torch.full_like(rows, BEGIN)
    first = 0
    if begun is not None and begun.shape[1]:
        first = begun.shape[1]
        if first >= min(lengths):
            raise ValueError(
                f"begun must have fewer tokens than the longest answer, {min(lengths)}; got {first}"
            )
        answers[:, :first] = begun
        past = torch.cat([token.unsqueeze(1), begun[:, :-1]], 1)
        _, state = model.decode(past, state)
        token = begun[:, -1]
    done = torch.zeros_like(rows, dtype=torch.bool)
    # Steps that some row has taken, counted on the device.
    taken = torch.full((), first, dtype=torch.long, device=source.device)
    patience = _patience(source.device)
    for step in range(first, longest):
        logits, state = model.decode(token.unsqueeze(1), state)
        token = choose(logits[:, -1]).masked_fill(done, PAD)
        answers[rows, step] = token
        taken += ~done.all()
        done = done | (token == END) | (limits[rows] == step + 1)
        # A row at its own limit must leave at once: the model may raise an error beyond it.
        ends = step + 1 in lengths
        if not ends and (step + 1) % patience:
            continue
        count = int(done.sum())
        if count == len(rows):
            break
        if ends or count > _IDLE_SHARE * len(rows):
            going = _places(~done, len(rows) - count)
            rows, token, done = rows[going], token[going], done[going]
            state = model.reorder(state, going)
    return answers[:, : int(taken)]


def _patience(device: torch.device) -> int:
    """Number of steps after which a search asks once which answers are finished."""
    # The CPU has the answer at once. A GPU is behind by many operations, and a question waits for
    # all of them; a few steps of finished answers cost less.
    return 1 if device.type == "cpu" else _PATIENCE


def _places(chosen: Tensor, count: int) -> Tensor:
    """Places of the True entries of ``[N]``, of which there are ``count``, in their order."""
    # A sort, since ``nonzero`` would ask the device for the number that is known here.
    return chosen.to(torch.uint8).argsort(descending=True, stable=True)[:count]


@torch.no_grad()
def beam_search(
    model: EncoderDecoder,
    source: Tensor,
    mask: Tensor | None = None,
    beam: int = 5,
    length_penalty: float = 1.0,
    count: int = 1,
    max_length: int | None = None,
    places: Places | None = None,
) -> Hypotheses:
    """Find the best answers by log probability over length penalty, with a beam.

    The penalty of an answer of T tokens, with the end mark, is ``((5 + T) / 6) ** alpha`` (Wu et
    al. 2016, equation 14). The search for an answer ends once it has found ``beam`` whole answers,
    or once no unfinished answer can still become better than the n-th best whole one.

    Args:
        model: a model that answers in tokens.
        source: ``[B, S]`` or ``[B, S, I]``.
        mask: bool ``[B, S]``, False = padding; ``None`` = no padding.
        beam: number of unfinished answers that the search follows at once, at least 1.
        length_penalty: alpha, at least 0; 0 favours short answers.
        count: n, the number of answers to return for each source, 1 to ``beam``.
        max_length: most tokens of an answer, at least 1; ``2 S + 10`` by default, and never more
            than :meth:`~memnets.core.EncoderDecoder.longest_answer`.
        places: those of the steps, for a model that is coupled; ``None`` = none.

    Returns:
        The ``count`` best answers to each source.

    Raises:
        ValueError: a number is out of its range, or a source is empty or too long for the model.
    """
    check_search(beam, length_penalty, count, max_length)
    lengths = _limits(model, source, mask, max_length)
    longest = max(lengths, default=0)
    batch, device = len(source), source.device
    limits = torch.tensor(lengths, device=device, dtype=torch.long)

    state = model.encode_placed(source, mask, places)
    # Places in the batch of the sources that are still searched; a limit of 0 means no answer.
    rows = limits.nonzero().squeeze(1)
    state = model.reorder(state, rows.repeat_interleave(beam))
    # The unfinished answers. At first all rows of a beam are the same, so only one of them counts:
    # the others would fill the beam with copies.
    scores = torch.full((len(rows), beam), -torch.inf, device=device)
    scores[:, 0] = 0.0
    tokens = torch.full((len(rows), beam, longest), PAD, device=device)
    token = torch.full((len(rows), beam), BEGIN, device=device)
    # The whole answers so far, best first.
    best = Hypotheses(
        torch.full((batch, beam, longest), PAD, device=device),
        torch.full((batch, beam), -torch.inf, device=device, dtype=torch.double),
    )
    # Sources whose answers are found, and the steps that some source has taken, on the device.
    settled = torch.zeros_like(rows, dtype=torch.bool)
    taken = torch.zeros((), dtype=torch.long, device=device)
    patience = _patience(device)
    for step in range(longest):
        steps = step + 1
        taken += ~settled.all()
        logits, state = model.decode(token.view(-1, 1), state)
        logits = logits[:, -1].float().view(len(rows), beam, -1)
        # Each unfinished answer can end in one way, so among 2 * beam candidates at least ``beam``
        # go on.
        candidates = min(2 * beam, beam * logits.shape[-1])
        total, parent, chosen = functional.best_tokens(logits, scores, candidates)
        ended = chosen == END

        # An end counts only among the best ``beam`` candidates: an unlikely end must not take the
        # place of a likelier word.
        limit = limits[rows].unsqueeze(1)
        last = limit == steps
        penalty = ((5 + steps) / 6) ** length_penalty
        whole = total[:, :beam].double() / penalty
        cut = torch.where(last, whole + _CUT, -torch.inf)
        whole = torch.where(ended[:, :beam], whole, cut)
        kept, order = torch.cat([best.scores[rows], whole], 1).topk(beam, -1)
        if patience > 1:
            # A source that is settled waits for the others unchanged.
            waits = settled.unsqueeze(1)
            kept = torch.where(waits, best.scores[rows], kept)
            order = torch.where(waits, torch.arange(beam, device=device), order)
        _keep(best, rows, kept, order, tokens, parent[:, :beam], chosen[:, :beam], step)

        going_on = total.masked_fill(ended, -torch.inf)
        scores, order = going_on.topk(beam, -1)
        token, parent = chosen.gather(1, order), parent.gather(1, order)
        tokens = tokens.gather(1, parent.unsqueeze(-1).expand(-1, -1, longest))
        tokens[:, :, step] = token
        # The best score that an unfinished answer can still reach: log probabilities only fall, and
        # the penalty is greatest at the greatest length.
        bound = scores[:, 0] / ((5 + limit.squeeze(1)) / 6) ** length_penalty
        unsettled = (kept[:, -1] == -torch.inf) & (bound > kept[:, count - 1]) & ~last.squeeze(1)
        settled = settled | ~unsettled
        offset = torch.arange(len(rows), device=device).unsqueeze(1) * beam
        chosen_rows = parent + offset
        # While no source leaves, rows stay beside rows of their own source, and a model need not
        # copy its memory of the source.
        if step + 1 in lengths or (step + 1) % patience == 0:
            going_on_count = len(rows) - int(settled.sum())
            if going_on_count == 0:
                break
            if going_on_count < len(rows):
                going = _places(~settled, going_on_count)
                state = model.reorder(state, chosen_rows[going].flatten())
                rows, scores, tokens, token = (
                    rows[going],
                    scores[going],
                    tokens[going],
                    token[going],
                )
                settled = settled[going]
                continue
        state = model.reorder(state, chosen_rows.flatten(), same_source=True)
    found = torch.where(best.scores < _CUT / 2, best.scores - _CUT, best.scores)
    nothing = (found == -torch.inf).unsqueeze(-1)
    answers = best.tokens.masked_fill(nothing, PAD)
    return Hypotheses(answers[:, :count, : int(taken)], found[:, :count].float())


def _keep(
    best: Hypotheses,
    rows: Tensor,
    scores: Tensor,
    order: Tensor,
    tokens: Tensor,
    parent: Tensor,
    chosen: Tensor,
    step: int,
) -> None:
    """Keep the best of the whole answers so far and those of a step; ``best`` changes in place.

    Args:
        best: the whole answers so far, of all sources.
        rows: places of the sources that are still searched, ``[R]``.
        scores: scores of the answers to keep, ``[R, beam]``.
        order: their places among the answers so far and those of the step, ``[R, beam]``.
        tokens: the unfinished answers before the step, ``[R, beam, T]``.
        parent: the place among them of each answer of the step, ``[R, beam]``.
        chosen: its last token, ``[R, beam]``.
        step: the number of the step, from 0.
    """
    longest = tokens.shape[-1]
    new = tokens.gather(1, parent.unsqueeze(-1).expand(-1, -1, longest))
    new[:, :, step] = chosen
    everything = torch.cat([best.tokens[rows], new], 1)
    best.scores[rows] = scores
    best.tokens[rows] = everything.gather(1, order.unsqueeze(-1).expand(-1, -1, longest))


def generate(
    model: EncoderDecoder,
    source: Tensor,
    mask: Tensor | None = None,
    beam: int = 1,
    length_penalty: float = 1.0,
    max_length: int | None = None,
    places: Places | None = None,
) -> Tensor:
    """Answer in tokens, ``[B, T]``: :func:`greedy`, or the best answer of a :func:`beam_search`.

    Args:
        model: a model that answers in tokens.
        source: ``[B, S]`` or ``[B, S, I]``.
        mask: bool ``[B, S]``, False = padding; ``None`` = no padding.
        beam: number of unfinished answers to follow at once, at least 1; 1 = greedy.
        length_penalty: see :func:`beam_search`.
        max_length: most tokens of an answer, at least 1; ``2 S + 10`` by default.
        places: those of the steps, for a model that is coupled; ``None`` = none.

    Raises:
        ValueError: a number is out of its range, or a source is empty or too long for the model.
    """
    check_positive(beam=beam)
    if beam == 1:
        return greedy(model, source, mask, max_length, places)
    found = beam_search(model, source, mask, beam, length_penalty, 1, max_length, places)
    return found.tokens[:, 0]


@torch.no_grad()
def play(
    model: EncoderDecoder, source: Tensor, rewards: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Take the likeliest action at each step; the next input is its :func:`feedback`.

    The first input is zeros.

    Args:
        model: a model whose inputs are an action, one-hot, and its reward.
        source: ``[B, S, O + 1]``.
        rewards: reward of each action at each step, ``[B, T, O]``.
        mask: bool ``[B, S]``, False = padding; ``None`` = no padding.

    Returns:
        The actions, ``[B, T]``.

    Raises:
        ValueError: there is no step to play, or the model has another number of actions than O.
    """
    if rewards.dim() != 3 or rewards.shape[1] == 0:
        raise ValueError(f"rewards must be [B, T, O] with T >= 1; got {list(rewards.shape)}")
    state = model.encode(source, mask)
    told = rewards.new_zeros(len(rewards), rewards.shape[-1] + 1)
    actions = []
    for step_rewards in rewards.unbind(1):
        logits, state = model.decode(told.unsqueeze(1), state)
        if logits.shape[-1] != rewards.shape[-1]:
            raise ValueError(
                f"rewards say what each of {rewards.shape[-1]} actions brings; "
                f"the model has {logits.shape[-1]}"
            )
        actions.append(logits[:, -1].argmax(-1))
        told = feedback(actions[-1], step_rewards)
    return torch.stack(actions, 1)
