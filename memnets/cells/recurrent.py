"""Recurrent controllers and a feed-forward one, for memory machines and seq2seq models."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.addressing import Content, Recent
from memnets.cells.attention import Slots
from memnets.checks import check_positive
from memnets.core import Addressing, Controller, Memory, Normalizer, State, new_zeros
from memnets.scores import Additive

__all__ = ["GRU", "LSTM", "LSTMN", "Direct", "FeedForward", "LSTMNState", "LSTMState"]


class Direct(Controller[None]):
    """The input itself: the memory's interface is one linear map of the input and what was read.

    A machine with it remembers only what is in its memory. Keys of inputs that are alike are alike
    from the start, and a linear map can do little to learn the inputs of the training by heart.

    Args:
        input_size: width of the input, at least 1; it is the width of the output too.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__()
        check_positive(input_size=input_size)
        self.input_size = self.hidden_size = input_size

    def initial_state(self, batch_size: int) -> None:
        """``None``: the controller has no past."""

    def forward(self, inputs: Tensor, state: None = None) -> tuple[Tensor, None]:
        """``[B, input_size] -> [B, input_size]``, unchanged."""
        return inputs, None

    def unroll(
        self, inputs: Tensor, state: None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """``[B, T, input_size] -> [B, T, input_size]``, unchanged."""
        return inputs, None


class FeedForward(Controller[None]):
    """Layers of ``tanh(W x + b)``; a machine with it remembers only what is in its memory.

    Args:
        input_size: width of the input, at least 1.
        hidden_size: width of every layer, at least 1.
        layers: number of layers, at least 1.
    """

    def __init__(self, input_size: int, hidden_size: int = 100, layers: int = 1) -> None:
        super().__init__()
        check_positive(input_size=input_size, hidden_size=hidden_size, layers=layers)
        self.input_size = input_size
        self.hidden_size = hidden_size
        sizes = [input_size] + [hidden_size] * layers
        self.layers = nn.Sequential()
        for size, next_size in itertools.pairwise(sizes):
            self.layers.extend([nn.Linear(size, next_size), nn.Tanh()])

    def initial_state(self, batch_size: int) -> None:
        """``None``: a feed-forward controller has no past."""

    def forward(self, inputs: Tensor, state: None = None) -> tuple[Tensor, None]:
        """``[B, input_size] -> [B, hidden_size]``."""
        return self.layers(inputs), None

    def unroll(
        self, inputs: Tensor, state: None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """``[B, T, input_size] -> [B, T, hidden_size]``, all steps at once."""
        return self.layers(inputs), None


class _Network(nn.RNNBase):
    """A recurrent network of PyTorch, with the weights of ``nn.LSTM`` or ``nn.GRU``.

    ``torch.compile`` refuses objects of these two classes, but not what they compute.

    Args:
        kind: ``LSTM`` or ``GRU``.
        input_size: width of the input.
        hidden_size: width of every layer.
        layers: number of layers.
    """

    def __init__(
        self, kind: Literal["LSTM", "GRU"], input_size: int, hidden_size: int, layers: int
    ) -> None:
        super().__init__(kind, input_size, hidden_size, layers, batch_first=True)

    def forward(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """All steps, fused.

        Args:
            inputs: ``[B, T, input_size]``.
            state: a tensor of all layers, or for an LSTM a pair of them; zeros by default.

        Returns:
            Outputs ``[B, T, hidden_size]``, and the state after the last step.
        """
        if state is None:
            zeros = inputs.new_zeros(self.num_layers, len(inputs), self.hidden_size)
            state = (zeros, zeros) if self.mode == "LSTM" else zeros
        run: Any = torch.lstm if self.mode == "LSTM" else torch.gru
        # By name: the list that PyTorch keeps of them does not know of weights that
        # ``torch.func.functional_call`` or a parametrization has put in their place.
        weights = [weight for layer in self.all_weights for weight in layer]
        outputs, *last = run(
            inputs, state, weights, True, self.num_layers, 0.0, self.training, False, True
        )
        return outputs, tuple(last) if self.mode == "LSTM" else last[0]


class _Gated(Controller[State]):
    """Base class for controllers around a recurrent network of PyTorch.

    ``unroll`` runs PyTorch's fused network; ``forward`` takes one step with the same weights.

    Args:
        input_size: width of the input, at least 1.
        hidden_size: width of every layer, at least 1.
        layers: number of layers, at least 1.
    """

    #: Name of the attribute that holds the network, and its kind. The name is part of the names of
    #: the parameters, and so of every checkpoint.
    _network: ClassVar[tuple[str, Literal["LSTM", "GRU"]]]

    def __init__(self, input_size: int, hidden_size: int = 100, layers: int = 1) -> None:
        super().__init__()
        check_positive(input_size=input_size, hidden_size=hidden_size, layers=layers)
        self.input_size = input_size
        self.hidden_size = hidden_size
        name, kind = self._network
        self.add_module(name, _Network(kind, input_size, hidden_size, layers))

    def _stacked(self, state: State) -> Any:
        """The state in PyTorch's form: a tensor of all layers, or a tuple of them."""
        raise NotImplementedError

    def _unstacked(self, state: Any) -> State:
        """The inverse of :meth:`_stacked`."""
        raise NotImplementedError

    def _layers(self) -> list[list[Tensor]]:
        """Weights of each layer: of the input, of the last hidden vector, and a bias for each."""
        network: Any = getattr(self, self._network[0])
        # Its own list, ``all_weights``, searches several dictionaries for each weight, which takes
        # a tenth of a step. A weight that is computed from others is no parameter of that name.
        kept = network._parameters
        return [
            [kept[name] if name in kept else getattr(network, name) for name in names]
            for names in network._all_weights
        ]

    def _zeros(self, batch_size: int) -> tuple[Tensor, ...]:
        """A tensor of zeros ``[B, hidden_size]`` for each layer."""
        layers = self._layers()
        return (layers[0][0].new_zeros(batch_size, self.hidden_size),) * len(layers)

    def unroll(
        self, inputs: Tensor, state: State, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """``[B, T, input_size] -> [B, T, hidden_size]``, fused by PyTorch without a mask."""
        # PyTorch's network knows no mask of single steps, only packed sequences, which would have
        # to be sorted and copied.
        if mask is not None or not _fused(inputs):
            return super().unroll(inputs, state, mask)
        stacked = self._stacked(state)
        self._check_state(stacked, len(inputs))
        outputs, last = getattr(self, self._network[0])(inputs, stacked)
        return outputs, self._unstacked(last)

    def _check_state(self, stacked: Any, batch_size: int) -> None:
        """Check that a state fits the inputs: PyTorch's operator does not, and writes elsewhere."""
        expected = (len(self._layers()), batch_size, self.hidden_size)
        for part in stacked if isinstance(stacked, tuple) else (stacked,):
            if part.shape != expected:
                layers, batch, width = part.shape
                raise ValueError(
                    f"a state of {type(self).__name__} must have {expected[0]} tensors "
                    f"[batch, width] = {list(expected[1:])}; got {layers} of {[batch, width]}"
                )


class LSTMState(NamedTuple):
    """State of an :class:`LSTM`: a tensor ``[B, hidden_size]`` for each layer.

    Attributes:
        hidden: h, in ``(-1, 1)``.
        cell: c.
    """

    hidden: tuple[Tensor, ...]
    cell: tuple[Tensor, ...]


class LSTM(_Gated[LSTMState]):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with forget gates).

    Args:
        input_size: width of the input, at least 1.
        hidden_size: width of every layer, at least 1.
        layers: number of layers, at least 1.
        forget_bias: number added to the initial bias of the forget gates. At 0, about half of the
            cell is forgotten at each step, and so is its gradient; with 1 or more, long sequences
            are learnt sooner (Gers et al. 2000, Jozefowicz et al. 2015).

    Attributes:
        lstm: the network that holds the weights, as a ``torch.nn.LSTM`` does. A single step uses
            its weights alone, so hooks on it do not fire; put them on the controller.
    """

    _network = "lstm", "LSTM"
    lstm: nn.RNNBase

    def __init__(
        self, input_size: int, hidden_size: int = 100, layers: int = 1, forget_bias: float = 0.0
    ) -> None:
        super().__init__(input_size, hidden_size, layers)
        # The gates of PyTorch's network: input, forget, candidate, output.
        with torch.no_grad():
            for _, _, bias, _ in self._layers():
                bias[hidden_size : 2 * hidden_size] += forget_bias

    def initial_state(self, batch_size: int) -> LSTMState:
        """Zeros."""
        zeros = self._zeros(batch_size)
        return LSTMState(zeros, zeros)

    def forward(self, inputs: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """``[B, input_size] -> [B, hidden_size]``."""
        hiddens: list[Tensor] = []
        cells: list[Tensor] = []
        for weights, *past in zip(self._layers(), *state, strict=True):
            inputs, cell = _lstm_cell(inputs, *past, *weights)
            hiddens.append(inputs)
            cells.append(cell)
        return inputs, LSTMState(tuple(hiddens), tuple(cells))

    def _stacked(self, state: LSTMState) -> tuple[Tensor, Tensor]:
        return torch.stack(state.hidden), torch.stack(state.cell)

    def _unstacked(self, state: tuple[Tensor, Tensor]) -> LSTMState:
        hidden, cell = state
        return LSTMState(hidden.unbind(0), cell.unbind(0))


class GRU(_Gated[tuple[Tensor, ...]]):
    """Gated recurrent unit (Cho et al. 2014).

    It has ``layers`` layers of width ``hidden_size``. The state is a tensor ``[B, hidden_size]``
    for each layer.

    Attributes:
        gru: the network that holds the weights, as a ``torch.nn.GRU`` does. A single step uses its
            weights alone, so hooks on it do not fire; put them on the controller.
    """

    _network = "gru", "GRU"
    gru: nn.RNNBase

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Zeros."""
        return self._zeros(batch_size)

    def forward(
        self, inputs: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``[B, input_size] -> [B, hidden_size]``."""
        hiddens = []
        for weights, hidden in zip(self._layers(), state, strict=True):
            inputs = _gru_cell(inputs, hidden, *weights)
            hiddens.append(inputs)
        return inputs, tuple(hiddens)

    def _stacked(self, state: tuple[Tensor, ...]) -> Tensor:
        return torch.stack(state)

    def _unstacked(self, state: Tensor) -> tuple[Tensor, ...]:
        return state.unbind(0)


class LSTMNState(NamedTuple):
    """State of an :class:`LSTMN` after t steps; slot 0 is the state before the first.

    Attributes:
        keys: W_h h_i, ``[B, t + 1, K]``.
        values: h_i and c_i, ``[B, t + 1, 2 hidden_size]``.
        summary: s_t, the mean of the h_i that the last step used in place of h,
            ``[B, hidden_size]``.
        mask: bool ``[B, t + 1]``, False = the slot of a skipped step; ``None`` = no sequence has
            skipped a step.
    """

    keys: Tensor
    values: Tensor
    summary: Tensor
    mask: Tensor | None = None


class LSTMN(Controller[LSTMNState]):
    """An LSTM whose memory is a tape of all its states (Cheng, Dong & Lapata 2016, section 3.1).

    The scores are ``a_i = v . tanh(W_h h_i + W_x x_t + W_s s_{t-1})`` over all earlier steps. The
    LSTM then continues from ``s_t = sum_i softmax(a)_i h_i`` and the same mean of the cells, in
    place of ``h_{t-1}`` and ``c_{t-1}``. A step appends its own h_t and c_t.

    Args:
        input_size: width of the input, at least 1.
        hidden_size: width of h and c, at least 1.
        key_size: K, width of the attention, at least 1; ``hidden_size`` by default.
        normalizer: turns scores into weights; softmax by default.
        recency: 0 = as in the paper, whose scores cannot tell an old state from a new one. Another
            number = a learned slope is added for each step that a state is newer, with this value
            at first (:class:`~memnets.addressing.Recent`).
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "over all earlier steps: a_i = v · tanh(W_h h_i + W_x x_t + W_s s_{t-1})"
        "\n(Cheng, Dong & Lapata 2016, section 3.1)"
    }

    #: The state before the first step is a slot too.
    first_slots = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 100,
        key_size: int | None = None,
        normalizer: Normalizer | None = None,
        recency: float = 0.0,
    ) -> None:
        super().__init__()
        key_size = hidden_size if key_size is None else key_size
        check_positive(input_size=input_size, hidden_size=hidden_size, key_size=key_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.key_size = key_size
        # It holds the weights; :func:`_lstm_cell` takes the step.
        self.cell = nn.LSTMCell(input_size, hidden_size)
        self.query = nn.Linear(input_size + hidden_size, key_size)
        self.key = nn.Linear(hidden_size, key_size, bias=False)
        score = Additive(key_size)
        self.addressing = (
            Recent(score, normalizer, recency) if recency else Content(score, normalizer)
        )

    def initial_state(self, batch_size: int) -> LSTMNState:
        """One slot of zeros."""
        return LSTMNState(
            keys=new_zeros((batch_size, 1, self.key_size), self),
            values=new_zeros((batch_size, 1, 2 * self.hidden_size), self),
            summary=new_zeros((batch_size, self.hidden_size), self),
        )

    def forward(self, inputs: Tensor, state: LSTMNState) -> tuple[Tensor, LSTMNState]:
        """``[B, input_size] -> [B, hidden_size]``."""
        slots = Slots(state.keys, state.values, state.mask)
        query = self.query(torch.cat([inputs, state.summary], -1)).unsqueeze(1)
        memory = Memory(slots.keys, slots.values, slots.seen(1))
        vectors, _ = self.addressing.read(query, memory, None)
        summary, cell = vectors.squeeze(1).chunk(2, -1)
        weights = self.cell.weight_ih, self.cell.weight_hh, self.cell.bias_ih, self.cell.bias_hh
        hidden, cell = _lstm_cell(inputs, summary, cell, *weights)
        value = torch.cat([hidden, cell], -1).unsqueeze(1)
        slots = slots.appended(self.key(hidden).unsqueeze(1), value, None)
        return hidden, LSTMNState(slots.keys, slots.values, summary, slots.mask)

    def looks_back(self) -> Addressing:
        """See :meth:`~memnets.core.Cell.looks_back`; a step sees those before it alone."""
        return self.addressing

    def choose(self, mask: Tensor, new: LSTMNState, old: LSTMNState) -> LSTMNState:
        """The new state, with the new slot closed to a sequence that skips the step."""
        # A tensor has one length for the whole batch, so the tape grows for all sequences.
        return new._replace(
            summary=torch.where(mask.unsqueeze(1), new.summary, old.summary),
            mask=Slots(new.keys, new.values, new.mask).chosen(mask).mask,
        )


def _fused(inputs: Tensor) -> bool:
    """Whether PyTorch's kernels for whole sequences can run here.

    They do not support ``torch.func``, and on the CPU they do not support float16.
    """
    if fast.transformed():
        return False
    half = torch.get_autocast_dtype("cpu") == torch.float16
    return not (half and inputs.device.type == "cpu" and torch.is_autocast_enabled("cpu"))


# PyTorch's cells write into tensors that they make from the state alone. Under vmap, a state may be
# shared by all rows, and so would be the result: below, plain operations take the step there.


def _lstm_cell(
    inputs: Tensor, hidden: Tensor, cell: Tensor, into: Tensor, across: Tensor, *biases: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM; the weights and biases are those of ``torch.lstm_cell``."""
    if not fast.transformed():
        return torch.lstm_cell(inputs, (hidden, cell), into, across, *biases)
    gates = nn.functional.linear(inputs, into, biases[0])
    gates = gates + nn.functional.linear(hidden, across, biases[1])
    enter, forget, candidate, leave = gates.chunk(4, -1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def _gru_cell(
    inputs: Tensor, hidden: Tensor, into: Tensor, across: Tensor, *biases: Tensor
) -> Tensor:
    """One step of a GRU; the weights and biases are those of ``torch.gru_cell``."""
    if not fast.transformed():
        return torch.gru_cell(inputs, hidden, into, across, *biases)
    reset, update, new = nn.functional.linear(inputs, into, biases[0]).chunk(3, -1)
    old = nn.functional.linear(hidden, across, biases[1]).chunk(3, -1)
    reset, update = (reset + old[0]).sigmoid(), (update + old[1]).sigmoid()
    return update * hidden + (1 - update) * (new + reset * old[2]).tanh()
