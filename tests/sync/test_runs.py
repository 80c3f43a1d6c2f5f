"""Typing that was joined is the typing: nobody can tell, and it is a tenth of the bytes."""

from __future__ import annotations

import random

import pytest
from pycrdt import Doc, Text

from sync.document import Document, merge
from sync.runs import join_runs
from sync.validate import check_update


class Typist:
    """A real editor: a document of its own whose updates are recorded."""

    def __init__(self, client: int) -> None:
        self.doc: Doc[Text] = Doc(client_id=client)
        self.doc["body"] = self.text = Text()
        self.made: list[bytes] = []
        self._heard = self.doc.observe(lambda event: self.made.append(event.update))

    def hear(self, update: bytes) -> None:
        made = len(self.made)
        self.doc.apply_update(update)
        del self.made[made:]


def joined(updates: list[bytes]) -> list[bytes]:
    return join_runs((update, check_update(update)) for update in updates)


def test_a_hundred_keystrokes_are_one_struct() -> None:
    ada = Typist(1_234_567_890)
    for at in range(100):
        ada.text.insert(at, "abcdefghij"[at % 10])

    (update,) = joined(ada.made)

    assert check_update(update).brings == ((1_234_567_890, 0, 100),)
    assert len(update) < 130
    assert len(merge(ada.made)) > 900
    assert Document(update).digest() == Document(merge(ada.made)).digest()


def test_typing_in_the_middle_is_joined_and_typing_elsewhere_is_not() -> None:
    ada = Typist(7)
    ada.text.insert(0, "<>")
    for at, letter in enumerate("middle"):
        ada.text.insert(1 + at, letter)
    ada.text.insert(0, "front")  # its left origin is not the letter before

    updates = joined(ada.made)

    assert [check_update(update).brings for update in updates] == [((7, 0, 2),), ((7, 2, 8),), ((7, 8, 13),)]
    other: Doc[Text] = Doc()
    for update in updates:
        other.apply_update(update)
    assert str(other.get("body", type=Text)) == "front<middle>"


def test_what_is_no_typing_stays_as_it_is() -> None:
    ada = Typist(7)
    ada.text.insert(0, "some text")
    del ada.text[2:4]
    ada.text.insert(3, "\u00e9")
    del ada.text[0]

    assert sorted(joined(ada.made)) == sorted(ada.made)
    assert join_runs([(ada.made[0], None), (ada.made[1], None)]) == ada.made[:2]  # of which nothing is known


@pytest.mark.parametrize("seed", range(60))
def test_replicas_that_get_joined_typing_are_equal_to_the_others(seed: int) -> None:
    """Three people type, delete and jump about, and hear of each other now and then: in every order, in any parts."""
    rng = random.Random(seed)
    people = [Typist(client) for client in (3, 200, 70_000)]
    all_made: list[bytes] = []
    places = [0, 0, 0]
    heard = [0, 0, 0]
    for _ in range(250):
        who = rng.randrange(3)
        one = people[who]
        before = len(one.made)
        size = len(one.text)
        places[who] = min(places[who], size)
        kind = rng.random()
        if kind < 0.75:
            one.text.insert(places[who], rng.choice(["x", "yz", "word "]))
            places[who] += len(one.text) - size
        elif kind < 0.85 and size > 3:
            at = rng.randrange(size - 2)
            del one.text[at : at + 2]
        elif kind < 0.92:
            places[who] = rng.randrange(size + 1)
        else:
            for update in all_made[heard[who] :]:
                one.hear(update)
            heard[who] = len(all_made)
        all_made += one.made[before:]

    plain: Doc[Text] = Doc()
    plain.apply_update(merge(all_made))
    parts: list[bytes] = []
    at = 0
    while at < len(all_made):  # flushes of several lengths
        following = at + rng.choice([1, 5, 40])
        parts.append(merge(joined(all_made[at:following])))
        at = following
    other: Doc[Text] = Doc()
    for part in parts:
        check_update(part)
        other.apply_update(part)

    assert str(other.get("body", type=Text)) == str(plain.get("body", type=Text))
    assert Document(merge(parts)).digest() == Document(merge(all_made)).digest()
    assert Document(other.get_update()).clocks() == Document(plain.get_update()).clocks()
    for one in people:  # who made half of it, one by one, hears the other half joined
        one.doc.apply_update(merge(parts))
        assert str(one.text) == str(plain.get("body", type=Text))
