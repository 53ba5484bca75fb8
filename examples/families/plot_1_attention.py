"""
Attention: a source that is not forgotten
=========================================

A sequence-to-sequence model reads a source with one recurrent network and answers
with another. Without attention, all that passes from one to the other is one vector
(Sutskever et al. 2014). With attention, the decoder looks at the source again at
every step (Bahdanau et al. 2015). Here both learn to repeat symbols.
"""

# %%
# Two models, one line apart
# --------------------------
#
# ``attention`` is an addressing: here by content, with the additive score of the paper.
# The score, the normalizer and the cells can be swapped.

from functools import partial

import torch
from torch import nn

from memnets.addressing import Content
from memnets.cells import GRU
from memnets.encoders import Recurrent
from memnets.models import Seq2Seq
from memnets.objectives import Tokens
from memnets.scores import Additive
from tasks import CopyingTokens

task = CopyingTokens(
    symbols=10, min_length=1, max_length=10, batch_size=64, test_sequences=400
)


def seq2seq(attention):
    torch.manual_seed(0)
    return Seq2Seq(
        task.input_size,
        task.output_size,
        encoder=partial(Recurrent, controller=partial(GRU, hidden_size=32)),
        decoder=partial(GRU, hidden_size=64),
        attention=attention,
        width=32,
        key_size=None if attention is None else 32,
        objective=Tokens(),
    )


models = {"without": seq2seq(None), "with attention": seq2seq(Content(Additive(32)))}

# %%
# Both see the same 300 batches of 64 sequences.


def train(model, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        loss = model.loss(task.batch("train", step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


for model in models.values():
    train(model, steps=300)

# %%
# Exact answers by length
# -----------------------
#
# ``generate`` answers freely: each step is given what the model itself said before. An
# answer counts if every symbol and the end are right.

import matplotlib.pyplot as plt

from tasks.tokens import said

batch = task.batch("test", 0)
targets = [said(row) for row in batch.targets]
figure, panel = plt.subplots(figsize=(5, 2.6), layout="constrained")
exact = {}
for name, model in models.items():
    answers = [said(row) for row in model.generate(batch.source, batch.source_mask)]
    right = [answer == target for answer, target in zip(answers, targets)]
    exact[name] = sum(right) / len(right)
    by_length = [
        [ok for ok, target in zip(right, targets) if len(target) == length + 1]
        for length in range(1, 11)
    ]
    panel.plot(
        range(1, 11), [100 * sum(one) / len(one) for one in by_length], "o-", label=name
    )
    print(f"{name}: {exact[name]:.1%} of the answers are exact")
panel.set(xlabel="symbols in the sequence", ylabel="exact answers, %", ylim=(-3, 103))
panel.legend()
plt.show()

assert exact["with attention"] > 0.95 > exact["without"] + 0.2

# %%
# Where it looks
# --------------
#
# A row for each word of the answer, a column for each word of the source; white is all
# of the weight. For a copy the right place is the diagonal. The model found it by
# itself.

from memnets import trace

eight = CopyingTokens(symbols=10, min_length=8, max_length=8)
batch = eight.batch("val", 0)
model = models["with attention"]
with torch.no_grad(), trace.record(model) as tape:
    model.logits(batch)
source, answer = eight.labels(batch, 0)
tape.plot_alignment("alignment.png", model.alignments(), source, answer)

# sphinx_gallery_thumbnail_number = 2

looked = tape.over_time("attention").mean(0)[:8].argmax(-1)
print("looks at", looked.tolist())
assert (looked == torch.arange(8)).float().mean() > 0.7

# %%
# On text
# -------
#
# .. code-block:: sh
#
#    memnets fit --config translation/bahdanau
#    run=runs/translation/bahdanau/version_0
#    memnets translate --checkpoint $run/checkpoints/best.ckpt < input.txt
#
# trains the same model on localised phrases in English and French, for which no file is
# needed, and translates lines of text. Luong's forms of attention, local attention and
# hard attention are configs beside it: see :doc:`/command_line`.
