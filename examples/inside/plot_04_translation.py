"""
The alignments of a translation
===============================

A sequence-to-sequence model reads a sentence with one network and says its translation
with another. Without attention, all that passes from one to the other is one vector
(Sutskever et al. 2014). With attention, the second looks at the words again at every
step (Bahdanau et al. 2015). Where it looks is the *alignment*: which word became which.
Here a model learns a little English and French in seconds. The two have another order
of words, so the alignments must cross.
"""

# %%
# Sentences
# ---------
#
# "The black cat follows a wolf" is "le chat noir suit un loup": in French the adjective
# comes behind its noun. We make all such sentences of some words, and keep 3000. A file
# with two columns is all the data that :class:`tasks.Translation` needs.

import itertools
import random
import tempfile
from pathlib import Path

articles = {"the": "le", "a": "un", "my": "mon"}
adjectives = {"black": "noir", "white": "blanc", "green": "vert", "quiet": "calme"}
nouns = {
    "cat": "chat",
    "dog": "chien",
    "wolf": "loup",
    "duck": "canard",
    "bear": "ours",
}
verbs = {"sees": "voit", "follows": "suit", "loves": "aime", "fears": "craint"}

phrases = [
    (f"{article} {adjective} {noun}", f"{articles[article]} {nouns[noun]} {french}")
    for article, (adjective, french), noun in itertools.product(
        articles, adjectives.items(), nouns
    )
]
phrases += [
    (f"{article} {noun}", f"{articles[article]} {nouns[noun]}")
    for article, noun in itertools.product(articles, nouns)
]
sentences = [
    (f"{one[0]} {verb} {other[0]}", f"{one[1]} {verbs[verb]} {other[1]}")
    for one, verb, other in itertools.product(phrases, verbs, phrases)
]
random.seed(0)
chosen = random.sample(sentences, 3000)
path = Path(tempfile.mkdtemp()) / "sentences.tsv"
path.write_text("\n".join("\t".join(pair) for pair in chosen))
print(f"{len(chosen)} of {len(sentences)} sentences, such as: {' = '.join(chosen[0])}")

# %%
# The model
# ---------
#
# It is the one of Bahdanau et al., small. ``attention`` is an addressing: here by
# content, with the additive score of the paper. The score, the normalizer and the cells
# can be swapped. Of the sentences, 5 % are held out for the test.

from functools import partial

import torch

import memnets as mn
from memnets.addressing import Content
from memnets.encoders import Recurrent
from memnets.scores import Additive
from memnets.training import Tokens
from tasks import Translation

torch.set_num_threads(1)
torch.manual_seed(0)
task = Translation(
    source="files",
    train=[str(path)],
    vocabulary_size=(100, 100),
    batch_tokens=768,
    max_tokens=40,
)
model = mn.Seq2Seq(
    task.input_size,
    task.output_size,
    encoder=partial(Recurrent, controller=partial(mn.GRU, hidden_size=32)),
    decoder=partial(mn.GRU, hidden_size=64),
    attention=Content(Additive(32)),
    width=32,
    key_size=32,
    objective=Tokens(),
)

steps = 300
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, steps, pct_start=0.1)
for step in range(steps):
    loss = model.loss(task.batch("train", step))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
model.eval()

# %%
# Sentences that it has never seen
# --------------------------------
#
# ``generate`` answers freely: each step is given what the model itself said before.

exact, total = 0, 0
for number in range(task.batches("test")):
    batch = task.batch("test", number)
    answers = task.says(batch, model.generate(batch.source, batch.source_mask))
    references = task.says(batch, batch.targets)
    exact += sum(map(str.__eq__, answers, references))
    total += len(answers)
print(f"{exact} of {total} translations are exact, such as: {answers[0]}")
assert exact > 0.8 * total

# %%
# Which word became which
# -----------------------
#
# A row for each word of the translation, a column for each word of the sentence. Where
# the order is the same, the weights go down the diagonal; at an adjective and its noun
# they cross. Nobody told the model which words belong together. (The sign before a word
# is the space of the vocabulary.)

batch = task.asked(["the black cat follows my quiet duck"])
said = model.generate(batch.source)
batch = batch._replace(inputs=torch.cat([batch.inputs, said[:, :-1]], 1), targets=said)
with torch.no_grad(), mn.record(model) as tape:
    model.logits(batch)
source, answer = task.labels(batch, 0)
tape.plot_alignment("crossing.png", model.alignments(), source, answer)

# %%
# How often is it right? Of each adjective and noun in the test, we ask for the English
# word with the most weight.

english = {french: word for word, french in (*adjectives.items(), *nouns.items())}
found, asked = 0, 0
for number in range(task.batches("test")):
    batch = task.batch("test", number)
    with torch.no_grad(), mn.record(model) as tape:
        model.logits(batch)
    for row in range(len(batch.source)):
        source, target = (
            [word.strip("▁") for word in words] for words in task.labels(batch, row)
        )
        for word, weights in zip(target, tape.over_time("attention", row)[0]):
            if word in english:
                found += source[weights[: len(source)].argmax()] == english[word]
                asked += 1
print(f"{found} of {asked} adjectives and nouns are aligned with their own word")
assert found > 0.7 * asked

# %%
# Watch it
# --------
#
# *Look at* the words: step by step, each word of the translation shades the words that
# it comes from. *Look at* the step after a noun: the shade jumps back to the adjective.

page = mn.view(
    model, task, examples=4, what_if="none", title="English to French, word by word"
)
page.save("translation.html")

# %%
# On real text
# ------------
#
# .. code-block:: sh
#
#    memnets fit --config translation/bahdanau
#    memnets translate --checkpoint runs/translation/bahdanau/version_0 < input.txt
#    memnets view runs/translation/bahdanau/version_0
#
# trains the same model on localised phrases in English and French, for which no file is
# needed, translates lines of text, and writes such a page. Luong's forms of attention,
# local attention and hard attention are configs beside it: see :doc:`/command_line`.
