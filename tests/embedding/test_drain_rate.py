import pytest

from service.embedding.drain_rate import DrainRate


def test_nothing_is_known_before_the_first_batch_has_ended() -> None:
    rate = DrainRate()
    rate.begin(1.0)
    assert rate.seconds_for(100) is None


def test_one_worker_has_the_rate_of_its_batches() -> None:
    rate = DrainRate()
    for second in range(5):
        rate.begin(second)
        rate.end(second + 1, tokens=50)
    assert rate.seconds_for(100) == pytest.approx(2.0)


def test_workers_that_compute_at_the_same_time_add_up() -> None:
    rate = DrainRate()
    rate.begin(0.0)
    rate.begin(0.0)
    for half_second in range(1, 20):
        rate.end(half_second / 2, tokens=50)
        rate.begin(half_second / 2)
    assert rate.seconds_for(100) == pytest.approx(1.0)


def test_time_without_work_does_not_count() -> None:
    rate = DrainRate()
    rate.begin(0.0)
    rate.end(1.0, tokens=50)
    rate.begin(1_000.0)
    rate.end(1_001.0, tokens=50)
    assert rate.seconds_for(100) == pytest.approx(2.0)


def test_the_last_batches_count_most() -> None:
    rate = DrainRate()
    for second in range(100):
        rate.begin(second)
        rate.end(second + 1, tokens=50 if second < 50 else 100)
    assert rate.seconds_for(100) == pytest.approx(1.0, rel=0.01)
