"""When a point that fits takes the place of the sampler's draw."""

from __future__ import annotations

from nasseg.search.patience import Patience


def rejects_until_over(patience: Patience, name: str) -> int:
    count = 0
    while not patience.over:
        patience.reject(f"{name}{count}")
        count += 1
    return count


def test_fewer_rejects_each_time_until_the_sampler_finds_one() -> None:
    patience = Patience("tpe")
    counts = []
    for k in range(5):
        counts.append(rejects_until_over(patience, f"{k}-"))
        patience.queue()
        patience.hand_out(drawn=False)
    assert counts == [200, 100, 50, 25, 25]
    patience.hand_out(drawn=True)
    assert rejects_until_over(patience, "again") == 200
    assert rejects_until_over(Patience("gp"), "slow") == 5


def test_a_repeated_reject_ends_it_at_once() -> None:
    patience = Patience("random")
    patience.remember("of an earlier start")
    patience.reject("new")
    assert not patience.over
    patience.reject("of an earlier start")
    assert patience.over
    patience.queue()
    assert not patience.over
    patience.reject("new")
    assert patience.over


def test_points_that_lead_nowhere_are_counted() -> None:
    patience = Patience("tpe")
    for _ in range(3):
        patience.queue()
    assert patience.stuck == 3
    patience.hand_out(drawn=False)
    assert patience.stuck == 0
