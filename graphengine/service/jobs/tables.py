"""The tables of a queue's file, and their rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from graphengine.service.jobs.job import Job, State

VERSION = 3

# Few pages are written for a job: its body and its attempts stand in its row, the index holds only what waits, what was
# never moved stands where its number is, and the highest number is written down only when its job is deleted.
SCHEMA = """
create table jobs (
    id integer primary key, state text not null default 'queued', user text not null,
    priority integer not null, place real, facts text not null, attempt integer not null default 0,
    attempts integer not null, worker text, cancelling integer not null default 0, created real not null,
    started real, ended real, result text, error text, tries text not null default '[]', body text not null,
    uuid text not null default '');
create index waiting on jobs (priority desc, coalesce(place, id), id) where state = 'queued';
create index running on jobs (id) where state = 'running';
create unique index names on jobs (uuid);
create table changes (
    number integer primary key, job integer not null, kind text not null, time real not null, facts text not null);
create table deleted (one integer primary key check (one = 1), highest integer not null);
insert into deleted values (1, 0);
create table lease (one integer primary key check (one = 1), epoch integer not null, holder text, until real not null,
    seconds real not null default 0);
insert into lease (one, epoch, until) values (1, 0, 0);
create table paused (user text primary key) without rowid;
create table limits (user text primary key, queued integer not null) without rowid;
"""
UPGRADES = {1: """
create table deleted (one integer primary key check (one = 1), highest integer not null);
insert into deleted select 1, coalesce(max(seq), 0) from sqlite_sequence where name = 'jobs';
alter table lease add column seconds real not null default 15;
""", 2: """
alter table jobs add column uuid text not null default '';
update jobs set uuid = lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2)
    || '-' || substr('89ab', (random() & 3) + 1, 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)));
create unique index names on jobs (uuid);
"""}  # fmt: skip
"""What makes a file of each version one of the next version."""
NEXT = "(select max(highest, coalesce((select max(id) from jobs), 0)) + 1 from deleted)"
"""The number of the next job: one that none ever had."""

COLUMNS = (
    "id, state, user, priority, facts, attempt, attempts, worker, cancelling, created, started, ended, result, error, "
    "uuid"
)


def job_of(row: Sequence[Any]) -> Job:
    """A row of `COLUMNS` as a job."""
    known = dict(zip(Job.__dataclass_fields__, row[:-1], strict=True))
    known |= {"state": State(row[1]), "facts": json.loads(row[4]), "cancelling": bool(row[8])}
    job = Job(**known | {"result": None if row[12] is None else json.loads(row[12])})
    object.__setattr__(job, "uuid", row[-1])
    return job
