"""Key-value memory networks: questions answered from facts (Miller et al. 2016)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from memnets.addressing import Content
from memnets.checks import check_positive
from memnets.models.memory_network import MemoryNetwork

__all__ = ["KeyValueNetwork"]


class KeyValueNetwork(MemoryNetwork):
    """Key-value memory network (Miller et al. 2016): a key finds a slot, which gives its value.

    The source is N facts, ``[B, N, 2, L]``, such as "France capital" and "Paris". A question is a
    bag of words ``[B, T, L]``. Questions, keys, values and the candidates for the answer, which are
    all words, share one embedding::

        p = softmax(u_k . keys)    o_k = sum_i p_i values_i

    ``update`` says how the query goes on:

    - ``query``: a matrix turns the query alone, ``u_{k+1} = R_k u_k + o_k``, and the last read
      alone, ``o_K``, is compared with the candidates. So a name that is in the facts can be an
      answer, though it never was one in the training, and the name that is asked about is none;
    - ``sum``: ``u_{k+1} = R_k (u_k + o_k)``, and ``u_{K+1}`` is compared with the candidates, as in
      section 3.2 of the paper. The words of the question then speak for themselves in the answer,
      which takes many questions to unlearn.

    Args:
        input_size: number of words, at least 1; the word 0 is padding.
        output_size: number of candidates: the number of words.
        width: width of the embedding, at least 1. The mean of n values is told from other words if
            the width is well above n.
        hops: K, number of reads, at least 1: of facts on the way to the answer.
        update: ``query`` or ``sum``.
        strength: mean product of a word's vector with itself at the start, more than 0. A small one
            does not tell keys apart; a large one makes the weights sharp before anything is learnt.
        attention: addressing of the slots; by content with the dot product by default.
        settings: see :class:`~memnets.models.Model`.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        width: int = 256,
        hops: int = 1,
        update: Literal["query", "sum"] = "query",
        strength: float = 10.0,
        attention: Content | None = None,
        **settings: Any,
    ) -> None:
        if update not in ("query", "sum"):
            raise ValueError(f"update must be 'query' or 'sum'; got {update!r}")
        if input_size != output_size:
            raise ValueError(
                "the candidates for an answer are the words, so output_size must be input_size; "
                f"got {output_size} and {input_size}"
            )
        check_positive(width=width)
        if not strength > 0:
            raise ValueError(f"strength must be more than 0; got {strength}")
        super().__init__(
            input_size,
            output_size,
            width,
            hops,
            tying="single",
            encoding="bag",
            memory_size=None,
            noise=0.0,
            spread=(strength / width) ** 0.5,
            attention=attention,
            **settings,
        )
        self.update = update
        if update == "query":
            del self.matrices[-1]  # no query comes after the last read
        for matrix in self.matrices:
            assert isinstance(matrix, nn.Linear)
            # At first, all of the next query is what was read; the training adds what it needs of
            # the question. A query that goes on whole would find the same slots again.
            (nn.init.zeros_ if update == "query" else nn.init.eye_)(matrix.weight)

    def next_query(self, hop: int, query: Tensor, found: Tensor) -> Tensor:
        """See :meth:`MemoryNetwork.next_query`."""
        if self.update == "sum":
            return super().next_query(hop, query, found)
        if hop == len(self.matrices):
            return found
        turned: Tensor = self.matrices[hop](query)
        return turned + found
