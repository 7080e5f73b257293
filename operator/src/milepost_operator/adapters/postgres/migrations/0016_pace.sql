-- Attempts move from pods that are not there yet to such as wait, and new pods are made only where those at work will not
-- do: `tenure_seconds`: from the start of a pod's last attempt until it was settled.
-- A pod `created` without a run is one that lost its attempt so; `rested_at` is when.
alter table pods add column tenure_seconds real;
create index pods_coming on pods (cluster, namespace, task, version) where state in ('wanted', 'creating', 'created');
create index pods_quick on pods (cluster, namespace, task, version, tenure_seconds)
    where state in ('bound', 'resting', 'idle', 'offered') and tenure_seconds is not null;
