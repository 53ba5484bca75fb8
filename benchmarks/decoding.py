"""Seconds to translate: greedy with its cache, greedy without, and a beam of 5, taking turns.

All of them read the source once; how long that takes is told too, since no cache makes it shorter.

python benchmarks/decoding.py <checkpoint> < <a file of sentences>
"""

import statistics
import sys
import time

import torch

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
    torch.set_num_threads(1)
    translator = Translator.load(sys.argv[1])
    model, vocabulary = translator.model, translator.vocabulary
    sentences = [line.strip() for line in sys.stdin][:SENTENCES]
    tokens = sorted(([*vocabulary.encode(line), END] for line in sentences), key=len)
    batches = []
    for start in range(0, len(tokens), BATCH):
        rows = tokens[start : start + BATCH]
        longest = max(map(len, rows))
        source = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
        batches.append((source, source != PAD))
    ways = {
        "reading alone": lambda source, mask: model.encode(source, mask),
        "greedy": lambda source, mask: model.generate(source, mask),
        "greedy, no cache": lambda source, mask: uncached(model, source, mask),
        "beam 5": lambda source, mask: model.generate(source, mask, beam=5),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with torch.no_grad():
        for _ in range(ROUNDS):
            for way, translate in ways.items():
                start_time = time.perf_counter()
                for batch in batches:
                    translate(*batch)
                seconds[way].append(time.perf_counter() - start_time)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    for way, value in medians.items():
        print(f"{way}: {value:.2f} s, {value / medians['greedy']:.2f} times greedy")
    print(f"{len(sentences)} sentences, batches of {BATCH}, median of {ROUNDS} rounds, 1 thread")


if __name__ == "__main__":
    main()
