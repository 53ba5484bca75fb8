"""
Positions: what each scheme does to attention
=============================================

Attention sees a set: of two slots with the same content, it cannot tell which came
first. A scheme of *positions* tells it. Here all steps have the same content, so that
all of the differences between the weights come from the scheme. Then we write a scheme
of our own, and check it in one line.
"""

# %%
# Steps that are all alike
# ------------------------
#
# Twelve steps, each of which sees itself and those before it. Schemes that add vectors
# to the embeddings are given to the model, all others act within the attention.

import torch

from memnets.cells import (
    ALiBi,
    HardALiBi,
    NoPositions,
    Placed,
    Positions,
    RandomisedPositions,
    RotaryPositions,
    SinusoidalPositions,
    StickBreaking,
)
from memnets.core import Memory
from memnets.scores import ScaledDot
from memnets.viewing import plots

STEPS, HEADS, WIDTH = 12, 4, 16
causal = torch.ones(STEPS, STEPS, dtype=torch.bool).tril()
counts = torch.arange(STEPS)


def weights(positions):
    """Weights ``[H, T, N]`` of steps that are all alike."""
    content = torch.ones(1, HEADS, STEPS, WIDTH)
    if positions.adds:
        content = content + 2 * positions(positions.places(counts))
    memory = Memory(content, content, causal)
    return Placed(ScaledDot(), positions)(content, memory)[0][0].detach()


torch.manual_seed(0)
rotary = RotaryPositions(base=100.0)
drawn = RandomisedPositions(rotary, spread=4).train()
panels = {
    "no positions": weights(NoPositions())[0],
    "sinusoidal": weights(SinusoidalPositions(WIDTH))[0],
    "rotary": weights(rotary)[0],
    "randomised rotary": weights(drawn)[0],
    "ALiBi, a near head": weights(ALiBi())[0],
    "ALiBi, a far head": weights(ALiBi())[2],
    "hard window of 2": weights(HardALiBi())[1],
    "stick-breaking": weights(StickBreaking())[0],
}

# %%
# One picture
# -----------
#
# A row is a step, a column is a slot; bright is a large weight. Without positions a
# step gives the same weight to all. Sinusoids look alike if they are near; rotary
# positions do the same at any place, and randomised ones at distances that are drawn
# anew in each step of the training. ALiBi weighs by distance alone. A hard window
# closes what is older; other heads see everything. Stick-breaking takes the last slot
# that fits.

names = [str(step) for step in range(STEPS)]
plots.alignment(
    panels,
    names,
    names,
    "positions.png",
    "Weights of steps that all have the same content, by the scheme of positions",
    columns=4,
    across="slot",
    down="step",
)

window = panels["hard window of 2"]
assert (window.tril(-2) == 0).all()
assert (panels["no positions"][-1] - 1 / STEPS).abs().max() < 1e-6
assert panels["stick-breaking"].argmax(1).tolist() == list(range(STEPS))

# %%
# Beyond the lengths of the training
# ----------------------------------
#
# The sinusoids of a place that was never seen in training are new to a model. A scheme
# of distances gives the same weights wherever the steps stand:


def moved(positions):
    """How much weights change if the sequence begins 1000 places later."""
    before, places = weights(positions), positions.places
    positions.places = lambda counts: places(counts) + 1000
    return (weights(positions) - before).abs().max().item()


for scheme in (SinusoidalPositions(WIDTH), RotaryPositions(), ALiBi(), HardALiBi()):
    print(f"{type(scheme).__name__:20} weights change by {moved(scheme):.5f}")

# %%
# A scheme of your own
# --------------------
#
# A scheme is a class that overrides what it does. This one closes every slot at an odd
# distance. :func:`memnets.testing.check_positions` checks that a search step by step
# gives what all steps at once give, that skipped steps take no place, and more.

from memnets import testing


class EveryOther(Positions):
    """Slots at an even distance."""

    relative = True

    def opened(self, distance, heads):
        return distance % 2 == 0


testing.check_positions(EveryOther, max_examples=3)
print(weights(EveryOther())[0, -1])
