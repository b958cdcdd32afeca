"""The ledger against a small model of it: whatever is done in whatever order, the same is spent, held, and there."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from teachwise.request import Reply, Request, no_reply
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.prices import Limits, Price

PRICES = [Price(3.0, 7.0, 1.0), Price(6.0, 14.0), Price(30.0, 70.0, 10.0)]
PRICE = PRICES[0]
REQUESTS = [
    Request("big", ({"role": "user", "content": "why " * number},), 10 * number, 0.0, "v") for number in range(1, 6)
]
OUTCOMES = ["ok", "truncated", "refused", "failed", "unknown", "too_fast", "absent", "unavailable"]
FAULTS = {"failed": "rejected", "unknown": "unanswered"}
FINISH = {"ok": "stop", "truncated": "length", "refused": "content_filter"}


class Model:
    """What must be true of one request."""

    def __init__(self, request):
        self.request, self.state, self.owner = request, None, None
        self.sends = self.tokens = self.lost_tokens = 0
        self.usd = self.lost_usd = 0.0
        self.text, self.price = None, PRICE

    @property
    def bound(self):
        return self.request.upper_bound_tokens

    @property
    def bound_usd(self):
        return self.price.usd(self.request.prompt_bound_tokens, self.request.max_tokens)

    @property
    def is_held(self):
        return self.state in ("reserved", "sent", "unknown")

    @property
    def spent(self):
        return self.lost_tokens + (self.bound if self.is_held else self.tokens)

    @property
    def spent_usd(self):
        return self.lost_usd + (self.bound_usd if self.is_held else self.usd)


def most_usd(one, price):
    """What it can cost at that price."""
    return price.usd(one.request.prompt_bound_tokens, one.request.max_tokens)


class LedgerMachine(RuleBasedStateMachine):
    """Two processes and one ledger."""

    @initialize(
        tokens=st.none() | st.integers(0, 800), n_requests=st.none() | st.integers(0, 12), usd=st.floats(0, 0.005)
    )
    def open(self, tokens, n_requests, usd):
        self.folder = Path(tempfile.mkdtemp())
        self.limits, self.price, self.n_batches = Limits(tokens, usd, n_requests), PRICE, 0
        self.model = [Model(request) for request in REQUESTS]
        self.handles = [self.fresh(), self.fresh()]

    def fresh(self):
        return Ledger(self.folder / "ledger.sqlite")

    @property
    def spent(self):
        return sum(one.spent for one in self.model)

    @property
    def spent_usd(self):
        return sum(one.spent_usd for one in self.model)

    @property
    def sends(self):
        return sum(one.sends + (one.state == "reserved") for one in self.model)

    @rule(wanted=st.lists(st.integers(0, 4), max_size=6))
    def plan(self, wanted):
        self.handles[0].plan([REQUESTS[number] for number in wanted])
        for number in wanted:
            self.model[number].state = self.model[number].state or "planned"

    @rule(
        who=st.integers(0, 1),
        wanted=st.lists(st.integers(0, 4), max_size=5),
        asks_unknown=st.booleans(),
        is_batch=st.booleans(),
    )
    def reserve(self, who, wanted, asks_unknown, is_batch):
        found = self.handles[who].reserve(
            [REQUESTS[number] for number in wanted], self.limits, self.price, is_batch, asks_unknown
        )
        there, elsewhere, taken, left = set(), [], [], []
        for place, number in enumerate(wanted):
            one = self.model[number]
            if one.text is not None or (one.state == "unknown" and not asks_unknown):
                there.add(one.request.key)
            elif one.state in ("sent", "reserved"):
                elsewhere += [one.request] if one.owner != who else []
            elif self.fits(one):
                if one.state == "unknown":
                    one.lost_tokens += one.bound
                    one.lost_usd += one.bound_usd
                one.state, one.owner, one.price = "reserved" if is_batch else "sent", who, self.price
                one.sends += not is_batch
                taken.append(one.request)
            else:
                left = [REQUESTS[number] for number in wanted[place:]]
                break
        assert (set(found.there), found.elsewhere, found.taken, found.left) == (there, elsewhere, taken, left)

    def fits(self, one):
        """In cents and tokens, by the most that it can cost."""
        tokens, usd = self.limits.teacher_tokens, self.limits.usd
        return (
            (tokens is None or self.spent + one.bound <= tokens)
            and self.spent_usd + most_usd(one, self.price) <= usd * (1 + 1e-12)
            and (self.limits.requests is None or self.sends + 1 <= self.limits.requests)
        )

    @precondition(lambda self: any(one.state == "reserved" and one.owner in (0, 1) for one in self.model))
    @rule(data=st.data())
    def hand_over(self, data):
        """What was set aside goes into a batch, which belongs to no process."""
        mine = [one for one in self.model if one.state == "reserved" and one.owner in (0, 1)]
        who, self.n_batches = mine[0].owner, self.n_batches + 1
        rows = [one for one in mine if one.owner == who]
        self.handles[who].hand_over([one.request for one in rows], f"b{self.n_batches}")
        for one in rows:
            one.owner = f"b{self.n_batches}"

    @precondition(lambda self: any(isinstance(one.owner, str) for one in self.model))
    @rule(data=st.data(), who=st.integers(0, 1))
    def batch_leaves(self, data, who):
        batch = data.draw(st.sampled_from(sorted({one.owner for one in self.model if isinstance(one.owner, str)})))
        self.handles[who].mark_sent(batch)
        for one in self.model:
            if one.owner == batch and one.state == "reserved":
                one.state, one.sends = "sent", one.sends + 1

    @precondition(lambda self: any(one.owner is not None for one in self.model))
    @rule(data=st.data(), who=st.integers(0, 1))
    def release(self, data, who):
        """They were not executed."""
        one = data.draw(st.sampled_from([one for one in self.model if one.owner is not None]))
        self.handles[who].release([one.request])
        one.sends -= one.state == "sent"
        one.state, one.owner, one.tokens, one.usd = "planned", None, 0, 0.0

    @rule(price=st.sampled_from(PRICES))
    def change_the_price(self, price):
        self.price = price

    @precondition(lambda self: any(one.text is not None for one in self.model))
    @rule(data=st.data(), is_known=st.booleans())
    def second_outcome(self, data, is_known):
        """A process that was taken for dead only slept, and its reply comes after another one's."""
        one = data.draw(st.sampled_from([one for one in self.model if one.text is not None]))
        late = Reply("too late", "stop", 1, 2) if is_known else no_reply("no", "unanswered")
        self.handles[0].settle([(one.request, late)])
        words = len(one.request.messages[0]["content"].split())
        read, written = (max(1, words), 2) if is_known else (one.request.prompt_bound_tokens, one.request.max_tokens)
        one.lost_tokens += read + written
        one.lost_usd += one.price.usd(read, written)

    @precondition(lambda self: any(one.state == "sent" for one in self.model))
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES))
    def settle(self, data, outcome):
        one = data.draw(st.sampled_from([one for one in self.model if one.state == "sent"]))
        if outcome in FINISH:
            read = data.draw(st.sampled_from([0, 1, one.request.prompt_bound_tokens]))
            written = data.draw(st.sampled_from([0, 1, one.request.max_tokens]))
            cached = data.draw(st.integers(0, read))
            reply = Reply(f"text {written}", FINISH[outcome], read, written, cached_tokens=cached)
            one.text, one.state = reply.text, outcome
            read, written = max(read, len(one.request.messages[0]["content"].split())), max(written, 2)
            one.tokens, one.usd = read + written, one.price.usd(read, written, cached)
        else:
            reply = no_reply("no", FAULTS.get(outcome, outcome))
            one.state = outcome if outcome in FAULTS else "planned"
            one.tokens, one.usd = 0, 0.0
            one.sends -= outcome in ("too_fast", "absent")
        self.handles[one.owner if one.owner in (0, 1) else 0].settle([(one.request, reply)])
        one.owner = None

    @rule(who=st.integers(0, 1))
    def die_and_come_back(self, who):
        self.handles[who].close()
        self.handles[who] = self.fresh()
        for one in self.model:
            if one.owner == who:
                one.state, one.owner = ("planned" if one.state == "reserved" else "unknown"), None
                one.tokens, one.usd = 0, 0.0

    @rule(tokens=st.none() | st.integers(0, 2000), n_requests=st.none() | st.integers(0, 30), usd=st.floats(0, 0.02))
    def change_the_budget(self, tokens, n_requests, usd):
        self.limits = Limits(tokens, usd, n_requests)

    @invariant()
    def the_same_is_spent_held_and_there(self):
        for ledger in self.handles:
            found = ledger.spent()
            assert (found.tokens, found.requests, found.unpriced) == (self.spent, self.sends, 0)
            assert abs(found.usd - self.spent_usd) < 1e-12
            states = sorted(one.state for one in self.model if one.state)
            assert ledger.totals()["requests"] == {state: states.count(state) for state in states}
            assert ledger.totals()["lost_tokens"] == sum(one.lost_tokens for one in self.model)
            replies = ledger.replies(REQUESTS)
            assert {key: reply.text for key, reply in replies.items()} == {
                one.request.key: one.text for one in self.model if one.text is not None
            }

    def teardown(self):
        for ledger in getattr(self, "handles", []):
            ledger.close()
        if hasattr(self, "folder"):
            left = [file for file in self.folder.iterdir() if file.suffix == ".lock"]
            shutil.rmtree(self.folder)
            assert left == []


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLedger = LedgerMachine.TestCase


def test_the_model_itself_knows_what_a_request_may_cost():
    """So that the machine cannot agree with the ledger by leaving everything at nought."""
    one = Model(replace(REQUESTS[0], max_tokens=100))
    one.state = "sent"
    assert one.spent == one.request.upper_bound_tokens > 100
