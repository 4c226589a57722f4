"""Jobs of NovaLink-style clients, without IO: their numbers, states and results, until they are deleted or expire.

``NOT_STARTED`` (can be cancelled) → ``RUNNING`` → one of the ``COMPLETED_...``.  The table is bounded: a job that is
completed goes when room is needed, one that is not never does.  Time is passed in, in milliseconds of the wall clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pvnet.novalink.job_documents import JobState
from pvnet.novalink.job_requests import JobRequest

MOST_JOBS: Final = 1000
"""Jobs at once, completed ones among them."""
KEPT_MS: Final = 3_600_000
"""How long the result of a job is kept for who has not deleted it."""


class JobStatus(StrEnum):
    """State of a job, in the words of the interface."""

    NOT_STARTED = "NOT_STARTED"
    RUNNING = "RUNNING"
    COMPLETED_OK = "COMPLETED_OK"
    COMPLETED_WITH_ERROR = "COMPLETED_WITH_ERROR"

    @property
    def over(self) -> bool:
        """Whether nothing more happens to the job."""
        return self not in {JobStatus.NOT_STARTED, JobStatus.RUNNING}


@dataclass(slots=True)
class Job:
    """One job; times in milliseconds since 1970, 0: not yet."""

    number: int
    user: str
    request: JobRequest
    target: str
    """UUID of what it is done to, as clients see it."""
    status: JobStatus = JobStatus.NOT_STARTED
    started_ms: int = 0
    completed_ms: int = 0
    message: str = ""
    """What went wrong, with the code that clients look for."""

    def state(self) -> JobState:
        """Return what is shown of it."""
        return JobState(
            self.number,
            self.request,
            self.target,
            self.status.value,
            started_ms=self.started_ms,
            completed_ms=self.completed_ms,
            message=self.message,
        )


class JobTable:
    """See the module's text.  ``first`` is the number before the first job's: of a time, so that none repeats."""

    def __init__(self, first: int, *, most: int = MOST_JOBS, kept_ms: int = KEPT_MS) -> None:
        self._number = first
        self._most = most
        self._kept_ms = kept_ms
        self._jobs: dict[int, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def all(self) -> list[Job]:
        """Return every job, the oldest first."""
        return list(self._jobs.values())

    def add(self, user: str, request: JobRequest, target: str, now_ms: int) -> Job | None:
        """Make a job that has not begun; None: there are too many that are not over."""
        self.expire(now_ms)
        if len(self._jobs) >= self._most:
            oldest = next((job for job in self._jobs.values() if job.status.over), None)
            if oldest is None:
                return None
            del self._jobs[oldest.number]
        self._number += 1
        job = Job(self._number, user, request, target)
        self._jobs[job.number] = job
        return job

    def get(self, number: int) -> Job | None:
        """Return a job."""
        return self._jobs.get(number)

    def begin(self, job: Job, now_ms: int) -> bool:
        """Say that its command goes out now; False: it was cancelled before."""
        if job.status is not JobStatus.NOT_STARTED:
            return False
        job.status = JobStatus.RUNNING
        job.started_ms = now_ms
        return True

    def finish(self, job: Job, now_ms: int, message: str = "") -> None:
        """Say that it is over; with a message it went wrong.  Nothing happens to one that is over already."""
        if job.status.over:
            return
        job.status = JobStatus.COMPLETED_WITH_ERROR if message else JobStatus.COMPLETED_OK
        job.message = message
        job.completed_ms = now_ms

    def cancel(self, job: Job, now_ms: int) -> bool:
        """End a job that has not begun; False: it has."""
        if job.status is not JobStatus.NOT_STARTED:
            return False
        job.status = JobStatus.COMPLETED_WITH_ERROR
        job.message = "The job was cancelled before it began."
        job.completed_ms = now_ms
        return True

    def delete(self, job: Job) -> bool:
        """Forget a job that is over; False: it is not."""
        if not job.status.over:
            return False
        self._jobs.pop(job.number, None)
        return True

    def expire(self, now_ms: int) -> None:
        """Forget results that nobody has fetched for long."""
        old = [j.number for j in self._jobs.values() if j.status.over and now_ms - j.completed_ms >= self._kept_ms]
        for number in old:
            del self._jobs[number]
