"""The steps of a rollout, in every order that there is."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.rollout import state as states
from service.rollout.plan import Limits, Stage
from service.rollout.state import ANY, Refused, State

STAGES = (Stage("shadow", 1.0), Stage("canary", 0.1))


def proposed(candidate=2, stable=1, stages=STAGES, state=None):
    return states.propose(state or State(), candidate, stable, stages, Limits(), "me", "", 5.0)


def test_a_rollout_goes_through_its_stages_to_the_end():
    state = proposed()
    assert (state.phase, state.stable) == ("proposed", 1)
    state = states.begin(state, 6.0)
    assert (state.phase, state.rollout.since) == ("shadow:100", 6.0)
    state = states.advance(state, "limits", "limits", "good", 7.0)
    assert (state.phase, state.rollout.since, state.rollout.started) == ("canary:10", 7.0, 5.0)
    state = states.change(state, Stage("canary", 0.5), 8.0)
    assert (state.phase, state.rollout.since) == ("canary:50", 8.0)
    state = states.advance(state, "limits", "limits", "good", 9.0)
    assert (state.phase, state.stable, state.rejected, state.seq) == ("promoted", 2, {}, 5)


def test_what_was_rolled_back_is_rejected_until_it_is_proposed_anew():
    state = states.roll_back(proposed(), "abc", "limits", "errors", "bad", 6.0)
    assert (state.phase, state.stable, state.rejected, state.ending.leaving) == ("rolled back", 1, {"2": "abc"}, 2)
    assert proposed(state=state).rejected == {}


def test_a_newer_version_that_an_older_one_is_promoted_over_does_not_come_back():
    state = states.promote(states.begin(proposed(candidate=1, stable=3), 6.0), "me", "order", "", 7.0)
    assert (state.stable, state.rejected, state.ending.leaving) == (1, {"3": ANY}, 3)


@pytest.mark.parametrize(
    ("state", "step", "message"),
    [
        (proposed(), proposed, "version 2 is being rolled out"),
        (State(), lambda state: proposed(1, 1, state=state), "is the one that serves"),
        (State(), lambda state: proposed(stages=(), state=state), "one stage at least"),
        (State(), lambda state: states.begin(state, 1.0), "no rollout is under way"),
        (states.begin(proposed(), 1.0), lambda state: states.begin(state, 1.0), "has begun already"),
        (proposed(), lambda state: states.promote(state, "", "order", "", 1.0), "still being loaded"),
        (proposed(), lambda state: states.change(state, STAGES[0], 1.0), "still being loaded"),
        (State(), lambda state: states.roll_back(state, "", "", "order", "", 1.0), "no rollout is under way"),
    ],
)
def test_a_step_that_does_not_fit_is_refused_with_the_reason(state, step, message):
    with pytest.raises(Refused, match=message):
        step(state=state) if step is proposed else step(state)


def test_a_list_of_versions_that_is_new_is_an_order_and_a_rule_of_another_kind_is_none():
    under_way = states.begin(proposed(), 6.0)
    assert states.under_rule(under_way, "latest:2", None).rollout == under_way.rollout
    pinned = states.under_rule(states.roll_back(under_way, "abc", "", "errors", "", 7.0), "1,2", (1, 2))
    assert (pinned.stable, pinned.rejected) == (None, {})
    assert states.under_rule(under_way, "2", (2,)).rollout is None
    assert states.under_rule(pinned, "1,2", (1, 2)) is pinned, "what was done since holds, as long as the list is the same"


@pytest.mark.parametrize("text", [b"", b"{", b'{"seq": "1"}', b'{"sequence": 1}', b'{"rollout": {}}'])
def test_what_is_no_state_is_told(text):
    with pytest.raises(ValueError, match="."):
        states.read(text)


class Steps(RuleBasedStateMachine):
    """Any steps in any order: only promoting changes who serves, and everything survives being written down."""

    def __init__(self):
        super().__init__()
        self.state = State()
        self.serves = None

    def take(self, step):
        before = self.state
        try:
            self.state = step(before)
        except Refused:
            return False
        assert self.state.seq == before.seq + 1 or self.state is before
        return True

    @rule(candidate=st.integers(1, 4), shares=st.lists(st.floats(0, 1), max_size=3))
    def propose(self, candidate, shares):
        serves = self.serves or 1
        stages = tuple(Stage("canary", share) for share in shares)
        if self.take(lambda state: proposed(candidate, serves, stages, state)):
            self.serves = serves
            assert str(candidate) not in self.state.rejected

    @rule()
    def begin(self):
        self.take(lambda state: states.begin(state, 1.0))

    @rule(share=st.floats(0, 1))
    def change(self, share):
        self.take(lambda state: states.change(state, Stage("shadow", share), 1.0))

    @precondition(lambda self: self.state.rollout)
    @rule()
    def advance(self):
        rollout = self.state.rollout
        last = rollout.at == len(rollout.stages) - 1
        if self.take(lambda state: states.advance(state, "l", "limits", "", 1.0)) and last:
            self.serves = rollout.candidate

    @precondition(lambda self: self.state.rollout)
    @rule()
    def promote(self):
        candidate = self.state.rollout.candidate
        if self.take(lambda state: states.promote(state, "me", "order", "", 1.0)):
            self.serves = candidate

    @precondition(lambda self: self.state.rollout)
    @rule()
    def roll_back(self):
        candidate = self.state.rollout.candidate
        self.take(lambda state: states.roll_back(state, "x", "me", "order", "", 1.0))
        assert str(candidate) in self.state.rejected

    @invariant()
    def only_promoting_changes_who_serves(self):
        assert self.state.stable == self.serves
        assert str(self.serves) not in self.state.rejected

    @invariant()
    def a_candidate_is_another_version_and_stands_at_one_of_its_stages(self):
        rollout = self.state.rollout
        if rollout is not None:
            assert rollout.candidate != self.state.stable
            assert rollout.at is None or rollout.stages[rollout.at] is rollout.stage

    @invariant()
    def it_can_be_written_down_and_read_again(self):
        assert states.read(msgspec.json.encode(self.state)) == self.state


Steps.TestCase.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)
test_any_steps_in_any_order = Steps.TestCase
