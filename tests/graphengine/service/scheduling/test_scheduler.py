"""The policy by itself, and thousands of jobs in virtual time against first in, first out."""

from __future__ import annotations

import statistics

from graphengine.service.scheduling.scheduler import Item, Scheduler, WorkerView
from tests.graphengine.service.scheduling.simulator import Device, Job, simulate, zipf_jobs


def of(*models: str, **facts: object) -> Item:
    return Item(frozenset(models), **facts)  # type: ignore[arg-type]


def holding(name: str, *models: str, **facts: float) -> WorkerView:
    return WorkerView(name, frozenset(models), **facts)


def test_the_order_is_by_priority_then_arrival() -> None:
    low, high, later = of(), of(priority=1), of()
    scheduler = Scheduler()
    scheduler.add(low, high, later)
    assert [scheduler.take(holding("w"))[0] for _ in range(3)] == [high, low, later]
    assert scheduler.take(holding("w")) == []


def test_many_of_one_user_wait_for_the_few_of_another() -> None:
    scheduler = Scheduler()
    ann = [of(user="ann") for _ in range(4)]
    scheduler.add(*ann)
    assert scheduler.take(holding("w")) == [ann[0]]
    bob = [of(user="bob") for _ in range(2)]
    scheduler.add(*bob)
    taken = [scheduler.take(holding("w"))[0] for _ in range(5)]
    assert [item.user for item in taken] == ["bob", "ann", "bob", "ann", "ann"]


def test_what_takes_less_goes_before_what_a_later_job_of_its_user_wants() -> None:
    def taken(bound: int = 100, **decode: object) -> Item:
        scheduler = Scheduler(bound)
        sample = of("unet", user="ann", cost=50.0, job_order=1)
        scheduler.add(sample, of("vae", **{"user": "ann", "cost": 0.1, "job_order": 0, **decode}))
        return scheduler.take(holding("w", "unet", "vae"))[0]

    assert taken().cost == 0.1
    assert taken(job_order=1).cost == 0.1  # another picture of the same job
    for other in ({"job_order": 2}, {"user": "bob"}, {"cost": 60.0}, {"priority": -1}):
        assert taken(**other).cost == 50
    assert taken(bound=0).cost == 50


def test_the_earliest_job_s_goes_first_and_a_worker_loads_nothing_for_it() -> None:
    scheduler = Scheduler()
    sample, later, earlier = of(cost=50.0, job_order=3), of(cost=1.0, job_order=2), of(cost=2.0, job_order=1)
    cold = of("vae", job_order=0)
    scheduler.add(sample, later, earlier, cold)
    assert [scheduler.take(holding("w"))[0] for _ in range(4)] == [earlier, later, sample, cold]


def test_another_part_of_a_model_that_a_worker_holds_is_loaded_for_an_earlier_job() -> None:
    def taken(room: float = 1, related: str = "unet", **decode: object) -> Item:
        scheduler = Scheduler()
        sample = of("unet", job_order=1)
        scheduler.add(sample, of("vae", **{"related": frozenset({"vae", related}), "job_order": 0, **decode}))
        return scheduler.take(WorkerView("w", frozenset({"unet"}), room=room))[0]

    assert taken().job_order == 0
    for other in ({"room": 0}, {"related": "other"}, {"job_order": 2}, {"cost": 60.0}):
        assert taken(**other).models == {"unet"}


def test_users_who_want_nothing_more_are_forgotten() -> None:
    scheduler = Scheduler()
    for n in range(100):
        scheduler.add(of(user=f"once {n}"), of(user="always"))
        assert [len(scheduler.take(holding("w"))) for _ in range(3)] == [1, 1, 0]
    assert len(scheduler._last_due) < 5
    assert not scheduler._of_user


def test_a_worker_takes_what_it_holds_and_counts_who_was_overtaken() -> None:
    scheduler = Scheduler(bound=2)
    cold, *warm = of("a"), of("b"), of("b"), of("b")
    scheduler.add(cold, *warm)
    worker = holding("w", "b")
    assert [scheduler.take(worker)[0] for _ in range(2)] == warm[:2]
    assert cold.overtaken == 2
    assert scheduler.take(worker) == [cold]


def test_a_worker_takes_nothing_of_lower_priority_before_its_turn() -> None:
    scheduler = Scheduler()
    cold, warm = of("a", priority=1), of("b")
    scheduler.add(cold, warm)
    assert scheduler.take(holding("w", "b")) == [cold]


def test_a_model_that_is_soon_free_elsewhere_is_not_loaded_again() -> None:
    scheduler = Scheduler()
    item = of("a")
    scheduler.add(item)
    here = holding("here", load=10)
    assert scheduler.take(here, [holding("there", "a", free_in=5)]) == []
    assert scheduler.take(here, [holding("there", "a", free_in=15)]) == [item]


def test_an_idle_worker_leaves_what_would_push_out_models_to_an_idle_one_with_more_room() -> None:
    def taken(here: float, *others: WorkerView, **facts: object) -> int:
        scheduler = Scheduler(bound=3)
        scheduler.add(of("a", **facts))
        return len(scheduler.take(holding("here", "b", room=here), others))

    assert taken(0.5, holding("there", room=0.9)) == 0
    assert taken(0.5, holding("there")) == 0, "it holds nothing yet"
    assert taken(1, holding("there", room=2)) == 1, "nothing is pushed out"
    assert taken(0.5, holding("there", room=0.5)) == 1
    assert taken(0.5, holding("there", room=0.0, free_in=0.0)) == 1, "it computes longer than was expected"
    assert taken(0.0) == 1, "there is no other"
    assert taken(0.5, holding("there", room=0.9), refused={"there"}) == 1
    assert taken(0.5, holding("there", room=0.9), overtaken=3) == 1


def test_of_several_with_little_room_the_one_with_the_most_takes_it() -> None:
    scheduler, item = Scheduler(), of("a")
    scheduler.add(item)
    workers = [holding(f"w{n}", room=room) for n, room in enumerate((0.1, 0.5, 0.5, 0.3))]
    taken = [scheduler.take(worker, [other for other in workers if other is not worker]) for worker in workers]
    assert taken == [[], [item], [], []]


def test_a_worker_that_lacked_memory_is_not_asked_again() -> None:
    scheduler = Scheduler()
    item = of("a", refused={"small"})
    scheduler.add(item)
    assert scheduler.take(holding("small", "a")) == []
    assert scheduler.take(holding("large"), [holding("small", "a")]) == [item]


def test_batches_are_of_one_group_and_within_the_limit() -> None:
    scheduler = Scheduler()
    same = [of(group="g") for _ in range(4)]
    other, alone = of(group="h"), of()
    scheduler.add(same[0], other, *same[1:], alone)
    assert scheduler.take(holding("w"), limit=lambda item: 3) == same[:3]
    assert other.overtaken == 0  # it was behind the first of the batch
    assert scheduler.take(holding("w"), limit=lambda item: 3) == [other]
    assert scheduler.take(holding("w"), limit=lambda item: 3) == [same[3]]
    assert scheduler.take(holding("w"), limit=lambda item: 3) == [alone]


def test_what_is_put_back_stands_where_it_stood() -> None:
    scheduler = Scheduler()
    first, second = of(), of()
    scheduler.add(first, second)
    assert scheduler.take(holding("w")) == [first]
    scheduler.put_back(first)
    assert scheduler.remove(second)
    assert not scheduler.remove(second)
    assert scheduler.take(holding("w")) == [first]


# --- in virtual time --------------------------------------------------------------------------------------------------


def devices(count: int = 4, room: int = 2) -> list[Device]:
    return [Device(f"d{n}", room, load=10.0) for n in range(count)]


def test_loads_are_a_quarter_of_first_in_first_out_at_a_load_near_one() -> None:
    """4 devices that hold 2 of 24 models each, 2,000 jobs by Zipf's law, a load costs 10 pictures."""
    jobs = zipf_jobs(2000, 24, rate=4 * 0.8, seed=7)
    fifo, ours = simulate(jobs, devices(), None), simulate(jobs, devices(), 100)
    assert ours.loads <= fifo.loads / 4
    assert ours.overtaken <= 100
    assert ours.makespan < fifo.makespan / 2
    assert ours.wait(0.5) < fifo.wait(0.5) / 2
    assert ours.wait(0.99) < fifo.wait(0.99) / 2


def test_where_all_models_fit_each_is_loaded_once_by_workers_that_are_idle() -> None:
    """8 models, 4 devices of 2, a picture every 20 seconds: 190 loads where the first idle one takes it."""
    for rate in (0.02, 0.05, 0.1, 0.2):
        assert simulate(zipf_jobs(500, 8, rate, seed=1), devices(), 100).loads == 8
        mixed = [Device("small", 1, 10.0), Device("large", 4, 10.0)]
        assert simulate(zipf_jobs(500, 5, rate, seed=2), mixed, 100).loads <= 7


def test_a_lower_bound_overtakes_less_and_loads_more() -> None:
    jobs = zipf_jobs(1000, 24, rate=4 * 0.8, seed=3)
    loads = [simulate(jobs, devices(), bound).loads for bound in (0, 10, 100)]
    assert loads == sorted(loads, reverse=True)
    assert simulate(jobs, devices(), 10).overtaken <= 10


def test_faster_devices_do_more_and_all_are_used() -> None:
    jobs = [Job(0.0, "m") for _ in range(300)]
    mixed = [Device("slow", 1, 10.0), Device("fast", 1, 10.0, speed=4.0)]
    outcome = simulate(jobs, mixed, 100)
    assert outcome.loads == 2
    assert outcome.makespan < 300 / 5 * 1.3


def test_nobody_starves_beside_a_user_with_a_thousand_jobs() -> None:
    crowd = [Job(0.0, "m", user="crowd") for _ in range(1000)]
    few = [Job(20.0 + n, "m", user="few") for n in range(20)]
    outcome = simulate([*crowd, *few], devices(2), 100)
    assert max(outcome.waits_by_user["few"]) < 60
    assert statistics.mean(outcome.waits_by_user["crowd"]) > 200


def test_a_user_with_few_jobs_of_another_model_waits_for_two_loads_not_for_a_hundred_pictures() -> None:
    """A load takes as long as ten pictures."""
    crowd = [Job(0.0, "m", user="crowd") for _ in range(300)]
    few = [Job(20.0 + n, "other", user="few") for n in range(5)]
    outcome = simulate([*crowd, *few], devices(1, room=1), 100)
    assert max(outcome.waits_by_user["few"]) <= 20 + 10 + 5
    assert outcome.loads == 3
    trickle = [Job(20.0 + 30 * n, "other", user="few") for n in range(5)]
    outcome = simulate([*crowd, *trickle], devices(1, room=1), 100)
    assert max(outcome.waits_by_user["few"]) <= 30
    assert outcome.makespan < 310 + 5 * 21 + 10, "at most half of the time goes into loads"


def test_users_of_whom_about_as_much_waits_share_loads_as_one_user_does() -> None:
    jobs = zipf_jobs(500, 24, rate=4 * 0.8, seed=7)
    one = simulate(jobs, devices(), 100)
    for n, job in enumerate(jobs):
        job.user = f"user {n * 7 % 10}"
    ten = simulate(jobs, devices(), 100)
    assert ten.loads < 1.2 * one.loads
    assert ten.makespan < 1.1 * one.makespan


def test_a_batch_is_no_more_than_the_worker_s_share() -> None:
    def taken(*others: WorkerView) -> int:
        scheduler = Scheduler()
        scheduler.add(*[Item(frozenset({"a"}), group="g") for _ in range(12)])
        return len(scheduler.take(holding("w", "a"), others, lambda item: 32, lambda item: 0.5))

    assert taken() == 12
    assert taken(holding("v", "a")) == 6
    assert taken(holding("v", "a"), holding("u", "a")) == 4
    assert taken(holding("v", "a", free_in=2.0)) == 8
    assert taken(holding("v", "a", free_in=60.0)) == 12
    assert taken(holding("v")) == 12, "it would have to load the model"


def test_what_must_be_computed_in_one_way_goes_to_no_other_worker() -> None:
    scheduler, item = Scheduler(), Item(environment="one thread")
    scheduler.add(item)
    assert scheduler.take(WorkerView("two", environment="two threads")) == []
    assert scheduler.take(WorkerView("none")) == []
    assert scheduler.take(WorkerView("one", environment="one thread")) == [item]
