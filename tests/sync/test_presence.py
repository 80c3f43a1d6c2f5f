"""Who is here: newest clock wins, echoes are no news, the gone stay gone, nothing grows without bound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.errors import LimitReached
from sync.ids import ConnId
from sync.limits import (
    AWARENESS_ENTRIES_MAX,
    AWARENESS_STATE_BYTES_MAX,
    CLIENT_ID_MAX,
    PRESENCE_BYTES_MAX,
    PRESENCE_ENTRIES_MAX,
    PRESENCE_MS_MAX,
    PRESENCE_PAYLOAD_BYTES_MAX,
)
from sync.presence import Presence, encode_awareness
from sync.validate import AwarenessEntry, check_awareness

ADA, BEN = 11, 22  # client ids
TAB, OTHER_TAB = ConnId(1), ConnId(2)


def entry(client: int, clock: int, state: str = '{"name":"ada"}') -> AwarenessEntry:
    return AwarenessEntry(client, clock, state)


def gone(client: int, clock: int) -> AwarenessEntry:
    return AwarenessEntry(client, clock, "null")


def here(presence: Presence) -> tuple[AwarenessEntry, ...]:
    payload = presence.states()
    return check_awareness(payload) if payload else ()


# --- the newest clock wins --------------------------------------------------------------------------------------------
def test_a_newcomer_is_news_whatever_its_clock() -> None:
    presence = Presence()

    assert presence.merge([entry(ADA, 0)], TAB, 0) == (entry(ADA, 0),)
    assert here(presence) == (entry(ADA, 0),)


def test_a_newer_clock_is_news_and_the_same_or_an_older_one_is_not() -> None:
    presence = Presence()
    presence.merge([entry(ADA, 5)], TAB, 0)

    assert presence.merge([entry(ADA, 5, '{"other":1}')], TAB, 0) == ()
    assert presence.merge([entry(ADA, 4, '{"other":1}')], TAB, 0) == ()
    assert presence.merge([entry(ADA, 6)], TAB, 0) == (entry(ADA, 6),)  # a renewal: others have to hear of it


def test_of_one_client_twice_in_a_message_the_newest_is_told_once() -> None:
    presence = Presence()

    assert presence.merge([entry(ADA, 2), entry(ADA, 3, "{}"), entry(ADA, 1)], TAB, 0) == (entry(ADA, 3, "{}"),)


@pytest.mark.parametrize("null", ["null", " null\n"])
def test_null_with_an_equal_clock_removes(null: str) -> None:
    presence = Presence()
    presence.merge([entry(ADA, 5)], TAB, 0)

    assert presence.merge([entry(ADA, 4, null)], TAB, 0) == ()
    assert presence.merge([entry(ADA, 5, null)], OTHER_TAB, 0) == (gone(ADA, 5),)
    assert here(presence) == ()
    assert presence.merge([entry(ADA, 5, null)], OTHER_TAB, 0) == ()


def test_a_state_that_comes_after_its_removal_does_not_come_back() -> None:
    presence = Presence()
    presence.merge([entry(ADA, 5)], TAB, 0)
    presence.merge([gone(ADA, 6)], TAB, 0)

    assert presence.merge([entry(ADA, 6), entry(ADA, 5)], None, 1) == ()
    assert presence.merge([entry(ADA, 7)], None, 1) == (entry(ADA, 7),)


def test_the_removal_of_somebody_unknown_is_no_news_and_costs_nothing() -> None:
    presence = Presence()

    assert presence.merge([gone(ADA, 5)], TAB, 0) == ()
    assert presence.merge([entry(ADA, 1)], TAB, 0) == (entry(ADA, 1),)


entries = st.builds(AwarenessEntry, st.integers(1, 4), st.integers(0, 6), st.sampled_from(["null", "{}", '{"a":1}']))


@given(st.lists(st.lists(entries, max_size=3), max_size=8))
@settings(max_examples=200, deadline=None)
def test_whoever_follows_the_news_sees_what_the_teller_sees(messages: list[list[AwarenessEntry]]) -> None:
    teller, follower = Presence(), Presence()

    for message in messages:
        news = teller.merge(message, TAB, 0)
        assert follower.merge(news, None, 0) == news
        assert follower.merge(news, None, 0) == ()

    assert follower.states() == teller.states()


# --- whose client it is -----------------------------------------------------------------------------------------------
def test_a_connection_that_closes_takes_its_own_clients_with_it() -> None:
    presence = Presence()
    presence.merge([entry(ADA, 5)], TAB, 0)
    presence.merge([entry(BEN, 3)], OTHER_TAB, 0)

    assert presence.leave(TAB) == (gone(ADA, 6),)
    assert presence.leave(TAB) == ()
    assert here(presence) == (entry(BEN, 3),)


def test_an_echo_does_not_take_a_client_over() -> None:
    presence = Presence()
    presence.merge([entry(ADA, 5)], TAB, 0)
    presence.merge([entry(ADA, 5)], OTHER_TAB, 0)  # stock clients send back what they were told

    assert presence.leave(OTHER_TAB) == ()
    assert presence.leave(TAB) == (gone(ADA, 6),)


def test_a_client_that_has_moved_does_not_leave_with_its_old_connection() -> None:
    presence = Presence()
    presence.merge([entry(ADA, 5)], TAB, 0)
    presence.merge([entry(ADA, 6)], None, 0)

    assert presence.leave(TAB) == ()
    assert here(presence) == (entry(ADA, 6),)


def test_another_edge_is_told_of_own_clients_only() -> None:
    presence = Presence()
    presence.merge([entry(ADA, 5)], TAB, 0)
    presence.merge([entry(BEN, 3)], None, 0)

    assert check_awareness(presence.local_states()) == (entry(ADA, 5),)
    assert here(presence) == (entry(ADA, 5), entry(BEN, 3))


def test_nobody_is_no_payload() -> None:
    assert Presence().states() == b""
    assert Presence().local_states() == b""


def test_a_clock_at_its_end_stays_within_what_another_edge_accepts() -> None:
    presence = Presence()
    presence.merge([entry(ADA, CLIENT_ID_MAX)], TAB, 0)

    removal = presence.leave(TAB)

    assert check_awareness(encode_awareness(removal)) == (gone(ADA, CLIENT_ID_MAX),)


# --- coming back ------------------------------------------------------------------------------------------------------
def test_a_client_back_after_a_short_break_is_told_that_it_was_declared_gone() -> None:
    presence = Presence()
    presence.merge([entry(ADA, 5)], TAB, 0)
    presence.leave(TAB)

    back = [entry(ADA, 5)]
    assert presence.merge(back, OTHER_TAB, 100) == ()
    assert presence.corrections(back) == (gone(ADA, 6),)
    # y-protocols: a client that reads of its own removal answers with a clock above it
    assert presence.merge([entry(ADA, 7)], OTHER_TAB, 200) == (entry(ADA, 7),)
    assert presence.corrections([entry(ADA, 7)]) == ()
    assert presence.corrections([entry(ADA, 5)]) == ()  # an echo of the past; who is here is not declared gone


def test_a_removal_is_not_answered_with_a_removal() -> None:
    presence = Presence()
    presence.merge([entry(ADA, 5)], TAB, 0)
    presence.leave(TAB)

    assert presence.corrections([gone(ADA, 5), gone(ADA, 6), entry(BEN, 1)]) == ()


# --- time -------------------------------------------------------------------------------------------------------------
def test_a_client_that_does_not_renew_its_state_is_gone_and_its_next_renewal_brings_it_back() -> None:
    presence = Presence()
    presence.merge([entry(ADA, 5)], TAB, 0)
    presence.merge([entry(ADA, 5)], OTHER_TAB, PRESENCE_MS_MAX - 1)  # an echo keeps nobody alive

    assert presence.expire(PRESENCE_MS_MAX - 1) == ()
    assert presence.expire(PRESENCE_MS_MAX) == (gone(ADA, 5),)
    assert presence.expire(PRESENCE_MS_MAX) == ()
    assert presence.merge([entry(ADA, 6)], TAB, PRESENCE_MS_MAX + 1) == (entry(ADA, 6),)


def test_a_client_that_renews_its_state_stays() -> None:
    presence = Presence()
    for clock in range(10):
        presence.merge([entry(ADA, clock)], TAB, clock * 15_000)
        assert presence.expire(clock * 15_000) == ()

    assert len(presence) == 1


def test_the_gone_are_forgotten_after_a_while() -> None:
    presence = Presence()
    presence.merge([entry(ADA, 5)], TAB, 1_000)
    presence.leave(TAB)

    presence.expire(1_000 + PRESENCE_MS_MAX - 1)
    assert presence.merge([entry(ADA, 5)], None, 0) == ()
    presence.expire(1_000 + PRESENCE_MS_MAX)
    assert presence.merge([entry(ADA, 5)], None, 0) == (entry(ADA, 5),)


# --- limits -----------------------------------------------------------------------------------------------------------
def test_a_newcomer_over_the_limit_is_refused_and_nobody_is_driven_out() -> None:
    presence = Presence()
    presence.merge([entry(n, 1) for n in range(PRESENCE_ENTRIES_MAX - 1)], TAB, 0)
    before = presence.states()

    with pytest.raises(LimitReached, match="PRESENCE_ENTRIES_MAX"):
        presence.merge([entry(10_000, 1), entry(10_001, 1)], OTHER_TAB, 0)

    assert presence.states() == before  # the message was not half taken in
    assert presence.merge([entry(10_000, 1)], OTHER_TAB, 0) == (entry(10_000, 1),)
    assert presence.merge([entry(0, 2)], TAB, 0) == (entry(0, 2),)  # whoever is here goes on
    assert len(presence.leave(TAB)) == PRESENCE_ENTRIES_MAX - 1


def test_states_larger_than_a_document_may_hold_are_refused() -> None:
    presence = Presence()
    large = json.dumps("x" * (AWARENESS_STATE_BYTES_MAX - 100))
    fits = PRESENCE_BYTES_MAX // len(large)
    presence.merge([entry(n, 1, large) for n in range(fits)], TAB, 0)

    with pytest.raises(LimitReached, match="PRESENCE_BYTES_MAX"):
        presence.merge([entry(fits, 1, large)], TAB, 0)

    presence.merge([entry(0, 2, "{}")], TAB, 0)  # smaller is always taken
    assert presence.merge([entry(fits, 1, large)], TAB, 0)
    presence.leave(TAB)
    assert presence.merge([entry(n, 9, large) for n in range(fits)], TAB, 0)  # what has left is not counted


def test_ids_invented_for_a_moment_are_not_remembered_without_bound() -> None:
    presence = Presence()
    for start in range(0, 3 * PRESENCE_ENTRIES_MAX, AWARENESS_ENTRIES_MAX):
        presence.merge([entry(start + n, 1) for n in range(AWARENESS_ENTRIES_MAX)], TAB, 0)
        presence.leave(TAB)

    assert presence.corrections([entry(0, 1)]) == ()  # the oldest are forgotten
    assert len(presence.corrections([entry(n, 1) for n in range(3 * PRESENCE_ENTRIES_MAX)])) == PRESENCE_ENTRIES_MAX


def test_the_answer_to_another_edge_is_one_that_it_accepts() -> None:
    many, large = Presence(), Presence()
    many.merge([entry(n, 1) for n in range(AWARENESS_ENTRIES_MAX + 1)], TAB, 0)
    large.merge([entry(n, 1, json.dumps("é" * 20_000, ensure_ascii=False)) for n in range(50)], TAB, 0)

    assert len(check_awareness(many.local_states())) == AWARENESS_ENTRIES_MAX
    assert 5 < len(check_awareness(large.local_states())) < 50
    assert len(large.local_states()) <= PRESENCE_PAYLOAD_BYTES_MAX


# --- bytes ------------------------------------------------------------------------------------------------------------
def test_an_awareness_payload_is_the_one_on_record() -> None:
    vectors = json.loads((Path(__file__).parent / "golden" / "frames.json").read_text("utf-8"))

    states = (entry(2**32 - 1, 130, '{"name":"ada 🏝"}'), gone(2**53 - 1, 0))

    assert encode_awareness(states).hex() == vectors["awareness payload"]
    assert encode_awareness(()).hex() == vectors["awareness payload of nobody"]


@given(
    st.lists(
        st.builds(
            AwarenessEntry,
            st.integers(0, CLIENT_ID_MAX),
            st.integers(0, CLIENT_ID_MAX),
            st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2).map(
                lambda state: json.dumps(state, ensure_ascii=False).encode("utf-8", "replace").decode()
            ),
        ),
        max_size=5,
    )
)
@settings(max_examples=150, deadline=None)
def test_what_is_encoded_passes_the_check_as_it_was(states: list[AwarenessEntry]) -> None:
    assert check_awareness(encode_awareness(states)) == tuple(states)
