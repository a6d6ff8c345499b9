"""The oracle: a recommender that knows the hidden state at the moment of the request, and nothing of the outcome.

It scores every ad with the true probability of being the next event of the log, so no recommender can have a better
expected rank. It plugs into `reclib.evaluation.evaluate` like any model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reclib.world.truth import ROWS, UserState

if TYPE_CHECKING:
    from reclib.world.world import AdWorld


class Oracle:
    """`score(history, time)` = P*(i | hidden state before the event, ads clicked so far).

    A history says which user it is only through its times: a request is looked up in the world's log by its time
    stamp, and the item before it must agree.
    """

    def __init__(self, world: AdWorld, *, use_time: bool = True) -> None:
        """Make an oracle.

        Args:
            use_time: weigh the pause before the request as Bayes' rule says (it says something unless
                `time_information` is 0). Without it the oracle is the best among models that ignore time.
        """
        self.world, self.use_time = world, use_time
        log = world.simulate()
        assert log.time is not None
        self._time, self._item = log.time, log.item
        self._order = np.argsort(log.time, kind="stable")
        self._sorted_time = log.time[self._order]

    def score(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch items"]:
        """Probability of every ad to be the next event; column 0 is -inf.

        Args:
            history: item ids, left-aligned, 0 pads on the right.
            time: event times and, after the last, the time of the request, as `Cases.batch` gives them.

        Raises:
            ValueError: no times, or a request that is not in this world's log.
        """
        if time is None:
            raise ValueError("time: the oracle finds a request by its time; pass the time that Cases.batch gives")
        length = (history > 0).sum(1)
        rows = torch.arange(len(history))
        request = time.double()[rows, length].cpu().numpy()
        last = history[rows, length - 1].cpu().numpy()
        event = self._find(request, last, length.cpu().numpy())
        out = np.empty((len(event), self.world.catalogue.n_items + 1))
        for first in range(0, len(event), ROWS):
            part = slice(first, first + ROWS)
            out[part] = self.distribution(self.world.truth.before(event[part]))
        out[:, 0] = -np.inf
        return torch.from_numpy(out).to(history.device)

    def distribution(self, state: UserState) -> Float[np.ndarray, "n items"]:
        """P* for states of the log; the pause before a state's event is used if the oracle uses time."""
        evidence = None
        if self.use_time and self.world.clock.delta > 0:
            known = state.event < self.world.offsets[state.user + 1]  # "now" has no next event, hence no pause
            follows = known & (state.event > self.world.offsets[state.user])  # nor has a first event
            event = np.where(follows, state.event, 1)
            gap = self._time[event] - self._time[event - 1]
            evidence = np.where(follows, self.world.clock.evidence(np.maximum(gap, 0)), 1.0)
        return self.world.truth.next_item_distribution(state, self.world.truth.clicked(state), evidence)

    def _find(
        self, request: Float[np.ndarray, "n"], last: Int[np.ndarray, "n"], length: Int[np.ndarray, "n"]
    ) -> Int[np.ndarray, "n"]:
        """Position in the log of each request."""
        place = np.searchsorted(self._sorted_time, request)
        event = np.full(len(request), -1)
        # Two events may share a time stamp: walk over equal ones until the item before agrees.
        open_rows = np.arange(len(request))
        while len(open_rows):
            inside = place[open_rows] < len(self._order)
            open_rows = open_rows[inside]
            open_rows = open_rows[self._sorted_time[place[open_rows]] == request[open_rows]]
            found = self._order[place[open_rows]]
            agrees = (self._item[found - 1] == last[open_rows]) | (length[open_rows] == 0)
            event[open_rows[agrees]] = found[agrees]
            open_rows = open_rows[~agrees]
            place[open_rows] += 1
        if (event < 0).any():
            raise ValueError(
                f"time: {(event < 0).sum()} of {len(event)} requests are not events of this world's log; "
                "give cases of this world, with times in double precision"
            )
        return event
