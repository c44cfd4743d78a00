"""Signals in random order and pairs, at every moment of a worker's life: it ends, and no late-acked task is lost.

`make signals` fires 200 of these volleys; a bad one is fired again by its name: `make signals SIGNALS=1:17`.
"""

from __future__ import annotations

import os

from support import volleys

COUNT = 24


def test_no_volley_of_signals_hangs_a_worker_or_loses_a_task(redis_server, rabbit_server, tmp_path):
    seed = int(os.environ.get("SIGNALS_SEED") or 1)
    print(f"SIGNALS_SEED={seed}")
    with volleys.Range(tmp_path, [redis_server, rabbit_server]) as place:
        drawn = [volleys.draw(seed, number) for number in range(COUNT)]
        assert {volley.pool for volley in drawn} == set(volleys.POOLS)
        assert {volley.broker for volley in drawn} == set(volleys.BROKERS)
        scores = volleys.fire_all(place, drawn, 4, lambda score: print(score))
    assert [str(score) for score in scores if score.wrong] == []


def test_a_volley_is_drawn_from_its_seed():
    assert volleys.draw(5, 3) == volleys.draw(5, 3)
    assert len({str(volleys.draw(5, number)) for number in range(200)}) == 200
    shots = [shot for number in range(200) for shot in volleys.draw(5, number).shots]
    sent = {signum for shot in shots for signum in shot.signals}
    assert sent == {*volleys.ENDING, *volleys.LOOKING, volleys.Signals.SIGSTOP}
    assert {shot.moment for shot in shots} == set(volleys.MOMENTS)
    assert {shot.group for shot in shots} == {True, False}
    assert any(len(set(shot.signals)) == 2 for shot in shots)
    assert any(shot.times > 1 for shot in shots)
