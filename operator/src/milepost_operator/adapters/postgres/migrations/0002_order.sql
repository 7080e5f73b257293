-- A run's place among those of its key: the older first, and each step of priority counts like a minute of age, so that
-- a low priority waits longer but never for ever.
create function order_at(ready_at timestamptz, priority integer) returns timestamptz
language sql immutable parallel safe
return ready_at - priority * interval '60 seconds';

alter table runs alter column concurrency_key set default '';
update runs set concurrency_key = '' where concurrency_key is null;
alter table runs alter column concurrency_key set not null;
