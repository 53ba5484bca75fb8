"""Seconds to translate: greedy with its cache, greedy without, and a beam of 5, taking turns.

Median, least and greatest of the processor's seconds.

All of them read the source once; how long that takes is told too, since no cache makes it shorter.

python benchmarks/decoding.py <checkpoint> < <a file of sentences>
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from pairs import Step, ratios, say, spread, turns

from memnets.app.translator import Translator
from memnets.batches import BEGIN, END, PAD

SENTENCES, BATCH, ROUNDS = 1000, 100, 3


def uncached(model, source, mask):
    """Greedy search that decodes the whole prefix anew at each step; without idle rows, too."""
    state = model.encode(source, mask)
    tokens = torch.full((len(source), 1), BEGIN)
    done = torch.zeros(len(source), dtype=torch.bool)
    rows, answers = torch.arange(len(source)), torch.full((len(source), 200), PAD)
    for step in range(2 * source.shape[1] + 10):
        token = model.decode(tokens, state)[0][:, -1].argmax(-1)
        answers[rows, step] = token
        done = token == END
        if done.all():
            break
        going = (~done).nonzero().squeeze(1)
        rows, tokens = rows[going], torch.cat([tokens, token.unsqueeze(1)], 1)[going]
        state = model.reorder(state, going)
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="checkpoint of a translation model, or a run's folder")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS} if not given")
    given = parser.parse_args()
    torch.set_num_threads(1)
    translator = Translator.load(given.checkpoint)
    model, vocabulary = translator.model, translator.vocabulary
    sentences = [line.strip() for line in sys.stdin][:SENTENCES]
    tokens = sorted(([*vocabulary.encode(line), END] for line in sentences), key=len)
    batches = []
    for start in range(0, len(tokens), BATCH):
        rows = tokens[start : start + BATCH]
        longest = max(map(len, rows))
        source = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
        batches.append((source, source != PAD))

    def over_all(translate: Callable[..., object]) -> Step:
        return lambda: [translate(*batch) for batch in batches]

    ways = {
        "reading alone": over_all(model.encode),
        "greedy": over_all(model.generate),
        "greedy, no cache": over_all(partial(uncached, model)),
        "beam 5": over_all(partial(model.generate, beam=5)),
    }
    with torch.no_grad():
        times = turns(
            ways,
            given.rounds,
            told=lambda done: say(f"  {done} of {given.rounds} rounds"),
            warm_up=0,
        )
    for way in ways:
        print(f"{way}: {spread(times[way])} s, {ratios(times, way, 'greedy')} times greedy")
    print(f"{len(sentences)} sentences, batches of {BATCH}, {given.rounds} rounds, 1 thread")


if __name__ == "__main__":
    main()
