"""Stories with questions: answers against a reader of the bare sentences, files, batches, use."""

import re

import numpy as np
import pytest
import torch

from memnets.batches import PAD, UNKNOWN
from tasks import Babi
from tasks.babi import FAMILIES, draw_stories
from tasks.babi.text import parse, split_story, words_of

# -- a reader that knows nothing of the worlds: it only looks back through the sentences -----------

MOVED = re.compile(r"(?:\w+ly|This \w+)?.*?(went|walked|hurried|strolled|headed) to the (\w+)\.")
TIMES = ["Yesterday", "This morning", "This afternoon", "This evening"]
WAYS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
MOODS = {"hungry": "pantry", "thirsty": "well", "bored": "meadow", "sleepy": "loft"}
KINDS = {"mice": "mouse", "owls": "owl", "foxes": "fox", "hares": "hare"}
NUMBERS = ["none", "one", "two", "three"]


def people_of(story, place):
    """The people of a sentence; pronouns stand for those of the sentence before."""
    names = re.findall(r"\b(Nora|Felix|Iris|Otto)\b", story[place])
    return names or people_of(story, place - 1)


def place_of(story, person):
    """The place of the last walk of a person, or None."""
    for number in reversed(range(len(story))):
        moved = MOVED.fullmatch(story[number])
        if moved and person in people_of(story, number):
            return moved[2]
    return None


def place_of_thing(story, thing):
    for number in reversed(range(len(story))):
        if f"the {thing}" not in story[number]:
            continue
        person, verb = story[number].split()[:2]
        left = verb in ("left", "dropped", "abandoned", "released")
        return place_of(story[:number] if left else story, person)
    return None


def before(story, thing, place):
    """The place before another one on the way of whoever dropped the thing last."""
    about = [number for number, sentence in enumerate(story) if f"the {thing}" in sentence]
    taken, left = about[-2:]
    person = story[left].split()[0]
    assert story[taken].startswith(person)
    walks = [number for number in range(taken, left) if MOVED.fullmatch(story[number])]
    way = [MOVED.fullmatch(story[n])[2] for n in walks if story[n].startswith(person)]
    assert way.count(place) == 1
    return way[way.index(place) - 1] if way.index(place) else None


def carried_by(story, person):
    held = set()
    for sentence in story:
        words = sentence.rstrip(".").split()
        thing = words[3] if len(words) > 3 and words[2] == "the" else None
        if words[1] in ("took", "grabbed", "lifted", "collected") and words[0] == person:
            held.add(thing)
        elif words[1] in ("left", "dropped", "abandoned", "released") and words[0] == person:
            held.remove(thing)
        elif words[1] in ("gave", "handed", "passed"):
            held -= {thing} if words[0] == person else set()
            held |= {thing} if words[-1] == person else set()
    return sorted(held)


def beliefs(story, person):
    """Places named in the last sentence about a person, and whether the person is there."""
    sentence = next(each for each in reversed(story) if each.startswith(person))
    places = re.findall(r"the (\w+)", sentence)
    return places, "is not" not in sentence and "no longer" not in sentence


def walks_in_time(story, person):
    """Places of a person in the order of the times."""
    found = {}
    for sentence in story:
        if person in sentence:
            (moment,) = (time for time in TIMES if sentence.startswith(time))
            found[TIMES.index(moment)] = sentence.rstrip(".").split()[-1]
    return [found[moment] for moment in sorted(found)]


def coordinates(facts):
    """Places on a grid of (one, step, other): one is a step from the other."""
    found = {facts[0][2]: (0, 0)}
    while len(found) < len({name for one, _, other in facts for name in (one, other)}):
        for one, (x, y), other in facts:
            if other in found:
                found[one] = found[other][0] + x, found[other][1] + y
            elif one in found:
                found[other] = found[one][0] - x, found[one][1] - y
    return found


def routes(facts, start, end):
    """All ways of two steps."""
    steps = {(other, one): step for one, step, other in facts}
    steps |= {(one, other): (-x, -y) for one, (x, y), other in facts}
    names = {step: name for name, step in WAYS.items()}
    return [
        f"{names[steps[start, middle]]},{names[steps[middle, end]]}"
        for middle in {name for pair in steps for name in pair}
        if (start, middle) in steps and (middle, end) in steps
    ]


def answer(family, story, question):
    named = re.findall(r"\b(Nora|Felix|Iris|Otto|Pearl|Hugo|Wilma|Rufus|Greta)\b", question)
    nouns = re.findall(r"the (\w+)", question)
    if family in (1, 11, 12, 13):
        return place_of(story, named[0])
    if family == 2:
        return place_of_thing(story, nouns[0])
    if family == 3:
        return before(story, *nouns)
    if family in (4, 19):
        pattern = r"The (\w+) is (\w+) of the (\w+)\."
        facts = [re.fullmatch(pattern, sentence).groups() for sentence in story]
        facts = [(one, WAYS[way], other) for one, way, other in facts]
        if family == 19:
            (route,) = routes(facts, *nouns)
            return route
        way = WAYS[re.search(r"north|south|east|west", question)[0]]
        if question.startswith("What is the"):  # what is it north of: what is south of it
            way = -way[0], -way[1]
        grid = coordinates(facts)
        x, y = grid[nouns[0]]
        (found,) = (name for name, place in grid.items() if place == (x + way[0], y + way[1]))
        return found
    if family == 5:
        gift = next(s for s in reversed(story) if re.search(r"gave|handed|passed", s))
        giver, _, _, thing, _, receiver = gift.rstrip(".").split()
        assert all(name in (giver, receiver) for name in named)
        if question.startswith("What"):
            return thing
        return (giver if question.startswith("Who gave") else receiver).lower()
    if family == 6:
        return "yes" if place_of(story, named[0]) == nouns[0] else "no"
    if family == 7:
        return NUMBERS[len(carried_by(story, named[0]))]
    if family == 8:
        return ",".join(carried_by(story, named[0])) or "nothing"
    if family == 9:
        places, there = beliefs(story, named[0])
        assert there or places == nouns  # nobody asks what was not told
        return "yes" if there and places == nouns else "no"
    if family == 10:
        places, _ = beliefs(story, named[0])
        return "no" if nouns[0] not in places else "yes" if len(places) == 1 else "maybe"
    if family == 14:
        places = walks_in_time(story, named[0])
        return places[places.index(nouns[0]) - 1]
    is_a = dict(m.groups() for m in (re.fullmatch(r"(\w+) is an? (\w+)\.", s) for s in story) if m)
    if family == 15:
        fears = (re.fullmatch(r"(\w+) are afraid of (\w+)\.", sentence) for sentence in story)
        fears = {KINDS[m[1].lower()]: KINDS[m[2]] for m in fears if m}
        return fears[is_a[named[0]]]
    if family == 16:
        colours = (re.fullmatch(r"(\w+) is (\w+)\.", sentence) for sentence in story)
        colours = {is_a[m[1]]: m[2] for m in colours if m}
        return colours[is_a[named[0]]]
    if family == 17:
        sides = {"above": (0, 1), "below": (0, -1), "left": (-1, 0), "right": (1, 0)}
        sides = {"above": (0, 1), "below": (0, -1)} | {
            f"to the {side} of": sides[side] for side in ("left", "right")
        }
        pattern = rf"The (\w+ \w+) is ({'|'.join(sides)}) the (\w+ \w+)\."
        facts = [re.fullmatch(pattern, sentence).groups() for sentence in story]
        grid = coordinates([(one, sides[side], other) for one, side, other in facts])
        asked = question.replace("Is the ", "The ").replace("?", ".")
        one, side, other = re.fullmatch(pattern.replace(" is ", " "), asked).groups()
        dx, dy = (a - b for a, b in zip(grid[one], grid[other], strict=True))
        return "yes" if dx * sides[side][0] + dy * sides[side][1] > 0 else "no"
    if family == 18:
        pairs = [re.findall(r"[Tt]he (\w+)", sentence) for sentence in story]
        larger = {tuple(p) if "fits" in s else tuple(p[::-1]) for p, s in zip(pairs, story)}  # noqa: B905
        for _ in range(4):
            larger |= {(a, d) for a, b in larger for c, d in larger if b == c}
        small, large = nouns if "fit" in question else nouns[::-1]
        return "yes" if (small, large) in larger else "no"
    mood = next(s.rstrip(".").split()[-1] for s in story if re.match(rf"{named[0]} is", s))
    return MOODS[mood] if question.startswith("Where") else mood


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_follow_from_the_sentences(family):
    stories = draw_stories(family, 60, np.random.default_rng(family))
    questions = [question for story in stories for question in story]
    assert len(questions) == 60
    for story, question, right in questions:
        assert answer(family, list(story), question) == right, (story, question)
        assert question.endswith("?")
        assert all(sentence.endswith(".") for sentence in story)
    assert len({question.answer for question in questions}) > 1


def test_the_reader_above_finds_a_wrong_answer():
    story = ["Nora went to the attic.", "Nora took the violin there.", "Nora went to the stable."]
    assert answer(2, story, "Where is the violin?") == "stable"
    story += ["Nora went to the cellar.", "Nora dropped the violin."]
    assert answer(3, story, "Where was the violin before the cellar?") == "stable"
    assert answer(1, [*story, "Iris went to the cellar."], "Where is Nora?") == "cellar"


def test_lengths_of_stories():
    def lengths(family):
        stories = draw_stories(family, 500, np.random.default_rng(0))
        return [[len(question.story) for question in story] for story in stories]

    assert all(story == [2, 4, 6, 8, 10] for story in lengths(1))
    two, three = (np.concatenate(lengths(family)) for family in (2, 3))
    assert 10 < two.mean() < 30
    assert 30 < three.mean() < 90
    assert three.max() > 50


# -- the task ------------------------------------------------------------------------------------


def test_splits_share_no_story():
    task = Babi(number=3, questions=100)
    parts = {name: task.questions(name) for name in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [90, 10, 100]
    starts = {name: {each.story[:3] for each in part} for name, part in parts.items()}
    assert not starts["train"] & starts["val"]
    assert not starts["train"] & starts["test"]


def test_a_batch_holds_the_words():
    task = Babi(number=2, questions=50, batch_size=4)
    batch = task.batch("val", 0)
    questions = task.questions("val")
    assert batch.source.shape[:1] == batch.inputs.shape[:1] == (len(questions),)
    name = task.vocabulary.name
    for row, (story, question, right) in enumerate(questions):
        sentences, words = task.labels(batch, row)
        assert sentences == [" ".join(words_of(sentence)) for sentence in story]
        assert task.asked_words(batch, row) == [words_of(question)]
        assert words == [right]
        assert name(int(batch.targets[row, 0])) == right
        mask = batch.source_mask[row]
        assert mask.sum() == len(story)
        assert (batch.source[row][~mask] == PAD).all()


def test_a_pass_has_every_question_once():
    task = Babi(questions=50, batch_size=9)
    assert task.batches("train") == 5
    for first in (0, 5):
        batches = [task.batch("train", index) for index in range(first, first + 5)]
        told = [
            (task.labels(batch, row)[0], task.asked_words(batch, row))
            for batch in batches
            for row in range(9)
        ]
        known = [
            ([" ".join(words_of(each)) for each in story], [words_of(question)])
            for story, question, _ in task.questions("train")
        ]
        assert told != known
        assert sorted(told) == sorted(known)


NUMBERED = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the hallway.
5 What is Mary carrying? \tmilk,football\t1 4
1 Mary got the milk.
2 Who has the milk? \tMary\t1"""


def test_numbered_files():
    first, second = parse(NUMBERED.split("\n"), "qa1.txt")
    assert [len(question.story) for question in first] == [2, 3]
    assert [question.answer for question in first] == ["bathroom", "milk,football"]
    assert first[1].story[2] == "Daniel went back to the hallway."
    assert second[0] == (("Mary got the milk.",), "Who has the milk?", "mary")


def test_plain_files():
    text = "Ann is in Rome.\nWhere is Ann?\tRome.\nBob left.\n\n\nBob sleeps.\nWho sleeps?\tBob\n"
    stories = parse(text.split("\n"), "stories.txt")
    assert [[each.answer for each in story] for story in stories] == [["rome"], ["bob"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 A b.\n3 Where is a?\tb", "qa, line 2: expected the number 2, or 1 for a new story; g"),
        ("1 A b.\nWhere is a?\tb", "qa, line 2: expected a number, then a sentence; got 'Where"),
        ("2 A b.", "qa, line 1: expected the number 1; got 2"),
        ("1 A b.\n2 Where is a?", "qa, line 2: expected a tab and an answer behind 'Where is a?'"),
        ("1 A b.\n2 Where is a\tb", "qa, line 2: expected a question that ends with ? before its"),
        ("1 Where is a?\tb", "qa, line 1: expected a sentence before the first question; got "),
        ("1 A b.\n2 A c.\n1 B c.", "qa, lines 1-2: expected a question about this story, a line t"),
        ("A b.\n\nB c.\nWho?\tb", "qa, line 1: expected a question about this story, a line that"),
        ("1 A b.\n2 \t.\n", "qa, line 2: expected a sentence; got '.'"),
        ("\n\n", "expected stories in qa; the file is empty"),
    ],
)
def test_damaged_files(text, message):
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text.split("\n"), "qa")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_files_of_a_users_own(tmp_path):
    stories = "".join(
        f"Ann is in {place}.\nWhere is Ann?\t{place}\n\n" for place in ["Rome", "Oslo"] * 10
    )
    (tmp_path / "stories.txt").write_text(stories)
    task = Babi(folder=str(tmp_path), train="stories.txt", seed=3)
    assert [len(task.questions(split)) for split in ("train", "val", "test")] == [16, 2, 2]
    assert set(task.vocabulary.words) == {"ann", "is", "in", "rome", "oslo", "where"}
    with pytest.raises(ValueError, match="val and test need train, the files to train on"):
        Babi(test="x.txt")
    (tmp_path / "few.txt").write_text("Ann is in Rome.\nWhere is Ann?\tRome\n")
    (tmp_path / "same.txt").write_text("Ann is in Rome.\nWhere is Ann?\tRome\n\n" * 5)
    with pytest.raises(
        ValueError, match=r"two answers in .*same\.txt; all 5 have the answer 'rome'"
    ):
        Babi(folder=str(tmp_path), train="same.txt").questions("train")
    with pytest.raises(ValueError, match=r"expected more than 2 stories in .*, to hold out some"):
        Babi(folder=str(tmp_path), train="few.txt").questions("val")


def test_a_users_own_questions(tmp_path, caplog):
    task = Babi(questions=50)
    path = tmp_path / "asked.txt"
    path.write_text(
        "Nora walked to the attic.\nOtto went to the cellar.\nWhere is Nora?\n"
        "Nora drove to the stable.\nWhere is Otto?\n\nIris went to the attic.\nWhere is Iris?\n"
    )
    items = task.items(str(path))
    assert [each.question for each in items] == [
        "Where is Nora?",
        "Where is Otto?",
        "Where is Iris?",
    ]
    assert items.places == [f"{path}, line {number}" for number in (3, 5, 8)]
    batch = task.asked(items)
    assert batch.source_mask.sum(1).tolist() == [2, 3, 1]
    assert (batch.source == UNKNOWN).sum() == 1
    assert task.unknown == {"drove": 1}
    assert "words that the vocabulary does not have: 1, 'drove'" in caplog.text
    attic = torch.tensor(task.vocabulary.encode(["attic"] * 3)).unsqueeze(1)
    assert task.says(batch, attic) == ["attic"] * 3
    # A line is a sentence, as in the training, whatever stands in it.
    path.write_text("At 5 p.m. Nora walked to the attic. Otto left.\nWhere is Nora?\n")
    assert task.asked(task.items(str(path))).source.shape[:2] == (1, 1)
    # In Python, one text does for a story with its question.
    one = "Nora walked to the attic. Otto went to the cellar. Where is Nora?"
    assert task.asked([one]).source.tolist() == task.asked(items[:1]).source.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Nora went out.",
            "expected a story with a question at its end; got 'Nora went out.' there",
        ),
        ("Where is Nora?", "expected a story before the question; got 'Where is Nora?' alone"),
        (" ", "expected a story with a question at its end; got an empty text there"),
    ],
)
def test_a_damaged_question(text, message):
    with pytest.raises(ValueError, match=r"^item 8: ") as caught:
        Babi(questions=20).asked(["Nora left. Who left?", text], first=7)
    assert str(caught.value) == f"item 8: {message}"
    assert split_story("A left. Who left? B came. Who came?").story == ("A left.", "B came.")


def test_the_vocabulary_of_a_checkpoint():
    task, other = Babi(number=1, questions=50), Babi(number=2, questions=50)
    other.load_state_dict(task.state_dict())
    assert other.vocabulary.words == task.vocabulary.words
    assert other.input_size == task.input_size
    with pytest.raises(ValueError, match="expected a checkpoint with the vocabulary of stories"):
        other.load_state_dict({})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"number": 21}, "number must be from 1 to 20; got 21"),
        ({"questions": 5}, "questions must be from 20 to 1,000,000; got 5"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Babi(**settings)
