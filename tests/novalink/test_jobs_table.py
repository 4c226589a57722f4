"""The table of jobs: bounded, each job ends once, what runs is neither deleted nor cancelled."""

from pvnet.novalink.job_requests import JobRequest
from pvnet.novalink.jobs import JobStatus, JobTable

ON = JobRequest("PowerOn", "LogicalPartition")


def test_a_job_from_beginning_to_end():
    table = JobTable(1000)
    job = table.add("me", ON, "UUID", 5)
    assert job.number > 1000
    assert table.get(job.number) is job
    assert not table.delete(job)
    assert table.begin(job, 6)
    assert not table.begin(job, 6)
    assert not table.cancel(job, 7)
    table.finish(job, 8)
    state = job.state()
    assert (state.status, state.started_ms, state.completed_ms, state.message) == ("COMPLETED_OK", 6, 8, "")
    table.finish(job, 9, "too late")
    assert job.status is JobStatus.COMPLETED_OK
    assert table.delete(job)
    assert table.get(job.number) is None


def test_a_job_that_went_wrong_says_why():
    table = JobTable(0)
    job = table.add("me", ON, "UUID", 0)
    table.begin(job, 1)
    table.finish(job, 2, "HSCL3681 on already")
    assert job.state().status == "COMPLETED_WITH_ERROR"
    assert job.state().message == "HSCL3681 on already"


def test_a_job_that_has_not_begun_can_be_cancelled_and_then_never_begins():
    table = JobTable(0)
    job = table.add("me", ON, "UUID", 0)
    assert table.cancel(job, 1)
    assert job.status.over
    assert not table.begin(job, 2)
    assert not table.cancel(job, 2)
    assert table.delete(job)


def test_results_go_when_room_is_needed_but_never_what_runs():
    table = JobTable(0, most=3)
    jobs = [table.add("me", ON, "UUID", 0) for _ in range(3)]
    assert table.add("me", ON, "UUID", 0) is None
    table.begin(jobs[1], 1)
    table.finish(jobs[1], 1)
    new = table.add("me", ON, "UUID", 2)
    assert new is not None
    assert table.all() == [jobs[0], jobs[2], new]
    assert len({job.number for job in (*jobs, new)}) == 4


def test_results_expire():
    table = JobTable(0, kept_ms=1000)
    job = table.add("me", ON, "UUID", 0)
    table.expire(10_000)
    assert len(table) == 1
    table.begin(job, 10_000)
    table.finish(job, 10_000)
    table.expire(10_999)
    assert len(table) == 1
    table.expire(11_000)
    assert len(table) == 0
