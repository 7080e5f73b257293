-- What follows from how attempts ended: more memory after an OOM, and what is found in a Task's recent attempts.

-- Bytes of memory that a run's next pod has, and that a pod was made with, where that is more than the version says; 0:
-- as the version says. A pod takes runs of its own class alone.
alter table runs add column memory_class bigint not null default 0;
alter table pods add column memory_class bigint not null default 0;

-- Whether the image of a pod could not be pulled at first.
alter table pods add column pull_failed boolean not null default false;

-- Runs that an attempt has failed in, those at work first: few, so that a long history makes looking no slower.
create index runs_in_trouble on runs (cluster, namespace, task, (coalesce(finished_at, 'infinity')) desc)
    where attempts_counted > 0 or infra_streak > 0;

-- When each Task's recent attempts were looked at last: the row that a replica locks to do it.
create table task_checks (
    cluster text not null,
    namespace text not null,
    task text not null,
    checked_at timestamptz not null default '-infinity',
    primary key (cluster, namespace, task)
);
create index task_checks_due on task_checks (cluster, checked_at);
insert into task_checks (cluster, namespace, task) select cluster, namespace, name from tasks;

-- What was found then. `value`: bytes of a proposal, or a count. `remedied`: what the queue says is to be done about it
-- has been done; whoever resumes the queue meanwhile has the last word.
create table task_findings (
    cluster text not null,
    namespace text not null,
    task text not null,
    kind text not null,
    holds boolean not null,
    reason text not null,
    message text not null,
    value bigint not null default 0,
    since timestamptz not null default clock_timestamp(),
    remedied boolean not null default false,
    primary key (cluster, namespace, task, kind)
);
create index task_findings_to_remedy on task_findings (cluster) where holds and not remedied;

-- Patterns of failure that pause the queue.
alter table queues add column pause_on text[] not null default '{}';
