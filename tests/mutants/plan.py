"""The bugs. An edit whose text is gone fails loudly: move the bug to where its rule lives now."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ENGINE: Final = "operator/src/milepost_operator"
SQL: Final = f"{ENGINE}/adapters/postgres/sql/*.sql"
RECORDS_SQL: Final = f"{ENGINE}/adapters/postgres/sql/pods.sql"
MIGRATIONS: Final = f"{ENGINE}/adapters/postgres/migrations/*.sql"
STORE_CODE: Final = f"{ENGINE}/adapters/postgres/*.py"
STORE: Final = "tests/integration/test_store.py"
GUARDS: Final = "tests/integration/test_guards.py"
RACES: Final = "tests/integration/test_races.py"
POD_RACES: Final = "tests/integration/test_pod_races.py"
SCHEMAS: Final = "tests/integration/test_input_schemas.py"
CHAOS: Final = "chaos"
"""In place of a test: a chaos run of about a minute."""


class DriftError(Exception):
    """The source no longer has the text that a mutant replaces."""


@dataclass(frozen=True)
class Edit:
    """Replaces `old`, which has to be in the files of the pattern `path` exactly `times`: it may move between them."""

    path: str
    old: str
    new: str
    times: int = 1

    def files(self, tree: Path) -> dict[Path, str]:
        """The files of the pattern with their texts. `DriftError` where `old` is not what they say."""
        texts = {path: path.read_text() for path in sorted(tree.glob(self.path))}
        if (found := sum(text.count(self.old) for text in texts.values())) != self.times:
            raise DriftError(f"{self.path} has this text {found} times, not {self.times}: {self.old[:80]!r}")
        return texts


@dataclass(frozen=True)
class Mutant:
    """`bug` says what is wrong; `killers` are tests by node id, or CHAOS, each of which must fail."""

    name: str
    bug: str
    edits: tuple[Edit, ...]
    killers: tuple[str, ...]


MUTANTS: Final = (
    Mutant(
        "no-fence-in-append",
        "records of an attempt that was replaced are taken",
        (
            Edit(
                RECORDS_SQL,
                "join fences f on f.run_id = h.run_id and f.attempt = h.attempt and f.token = h.token"
                " and f.pod_id = h.pod_id",
                "join fences f on f.run_id = h.run_id",
            ),
            Edit(
                RECORDS_SQL,
                "join locked l on l.run_id = i.run_id and l.attempt = i.attempt and l.token = i.token"
                " and l.pod_id = i.pod_id",
                "join locked l on l.run_id = i.run_id",
                2,
            ),
            Edit(
                RECORDS_SQL,
                "    where h.run_id = $1 and h.attempt = $2 and h.token = $3 and h.pod_id = $4\n",
                "    where h.run_id = $1 and ($2::int, $3::bigint, $4::text) is not null\n",
            ),
        ),
        (f"{STORE}::test_an_older_attempt_can_write_nothing",),
    ),
    Mutant(
        "lease-without-full-term",
        "the reaper ends attempts whose heartbeats we ourselves could not take",
        (
            Edit(
                SQL,
                "(p.seen_at > clock_timestamp() - interval '3 seconds'\n"
                "           and (h.lease_until <= clock_timestamp() and p.up_since + $3 <= clock_timestamp()",
                "(true\n           and (h.lease_until <= clock_timestamp()",
            ),
        ),
        (f"{STORE}::test_a_lease_lapses_only_after_beats_were_possible_for_a_whole_lease",),
    ),
    Mutant(
        "acknowledged-before-the-commit",
        "the api answers a batch of records before it is committed",
        (
            Edit(
                f"{ENGINE}/api/batcher.py",
                "            answers = await self._commit([waiting.request for waiting in batch])\n"
                "            for waiting, answer in zip(batch, answers, strict=True):\n"
                "                self._tell(waiting, answer)\n",
                "            for waiting in batch:\n"
                "                _tell(waiting, list(range(1, waiting.records + 1)))\n"
                "            await self._commit([waiting.request for waiting in batch])\n",
            ),
        ),
        ("tests/unit/api/test_batcher.py::test_nothing_is_acknowledged_before_the_commit", CHAOS),
    ),
    Mutant(
        "commits-that-do-not-last",
        "commits are acknowledged before they are on the disk",
        (
            Edit(
                STORE_CODE,
                '    "jit": "off",\n',
                '    "jit": "off",\n    "synchronous_commit": "off",\n',
            ),
        ),
        ("tests/integration/test_durability.py::test_what_was_acknowledged_outlives_a_crash",),
    ),
    Mutant(
        "infra-counts-as-failure",
        "a lost pod spends one of the attempts that user failures have",
        (
            Edit(
                f"{ENGINE}/domain/settlement.py",
                "    streak = 1 if facts.progressed else facts.infra_streak + 1\n"
                "    counted = facts.attempts_counted\n",
                "    streak = 1 if facts.progressed else facts.infra_streak + 1\n"
                "    counted = facts.attempts_counted + 1\n",
            ),
        ),
        ("tests/unit/domain/test_settlement.py::test_decisions", CHAOS),
    ),
    Mutant(
        "terminal-reopens",
        "cancelling a run that has ended makes it another end",
        (
            Edit(
                STORE_CODE,
                '        if run["state"] in TERMINAL or run["state"] == RunState.CANCELLING:\n',
                '        if run["state"] == RunState.CANCELLING:\n',
            ),
        ),
        (f"{GUARDS}::test_a_run_that_has_ended_stays_as_it_ended",),
    ),
    Mutant(
        "epoch-unchecked",
        "a leader that was replaced goes on launching",
        (
            Edit(
                STORE_CODE,
                "        if current != epoch:\n",
                "        if current is None:\n",
            ),
        ),
        (f"{STORE}::test_only_the_newest_epoch_launches", CHAOS),
    ),
    Mutant(
        "deposed-leader-ends-attempts",
        "what a leader saw before it was replaced ends the attempts of its successor's pods",
        (
            Edit(
                STORE_CODE,
                "            await self._check(connection, epoch)\n            for _ in range(_LOOKS):\n",
                "            for _ in range(_LOOKS):\n",
            ),
        ),
        (f"{POD_RACES}::test_what_a_deposed_leader_saw_ends_no_attempt_of_its_successor",),
    ),
    Mutant(
        "keys-locked-as-they-come",
        "two replicas that queue runs of the same keys lock these in different orders",
        (
            Edit(
                SQL,
                "from due where r.run_id = due.run_id and (select tell_keys(array(select run_id from due)))\n",
                "from due where r.run_id = due.run_id\n",
            ),
        ),
        (f"{RACES}::test_replicas_that_queue_runs_of_the_same_keys_in_other_orders_do_not_deadlock",),
    ),
    Mutant(
        "settled-twice",
        "the repeated settle of an attempt that ended moves its run on once more",
        (
            Edit(
                STORE_CODE,
                '    if attempt["state"] == "ended" and attempt["settled"]:\n        return str(run["state"])\n'
                '    return None if attempt["state"] == "running" else fenced(fence)\n',
                "    return None\n",
            ),
        ),
        (f"{STORE}::test_settling_twice_is_one_settle",),
    ),
    Mutant(
        "anyone-may-beat",
        "a pod that was replaced keeps the lease of its successor alive",
        (
            Edit(
                SQL,
                "join incoming i on i.run_id = h.run_id and i.attempt = h.attempt and i.token = h.token"
                " and i.pod_id = h.pod_id",
                "join incoming i on i.run_id = h.run_id",
            ),
        ),
        (f"{STORE}::test_an_older_attempt_can_write_nothing",),
    ),
    Mutant(
        "count-in-the-locking-statement",
        "slots are counted in the statement that locks: by what was committed before the lock was waited for",
        (
            Edit(
                MIGRATIONS,
                "        select i.concurrency into v_n from limits i\n"
                "        where i.cluster = p_cluster and i.namespace = '' and i.kind = 'global'",
                "        select i.concurrency - (select count(*)::integer from runs x where x.cluster = p_cluster"
                " and x.state in ('admitted', 'running', 'cancelling')) into v_n from limits i\n"
                "        where i.cluster = p_cluster and i.namespace = '' and i.kind = 'global'",
            ),
            Edit(
                MIGRATIONS,
                "            v_free := least(v_free, v_n - (select count(*)::integer from runs i\n"
                "                                     where i.cluster = p_cluster and i.state in"
                " ('admitted', 'running', 'cancelling')));\n",
                "            v_free := least(v_free, v_n);\n",
            ),
        ),
        (f"{GUARDS}::test_two_queues_under_one_limit_count_after_the_lock",),
    ),
    Mutant(
        "rate-window-forgotten",
        "what a rate limit has let through is not kept in the row: a restart begins a new window",
        (
            Edit(
                MIGRATIONS,
                "s.rate := rate_at(q.rate, s.rate, clock_timestamp());",
                "s.rate := rate_at(q.rate, null, clock_timestamp());",
            ),
        ),
        (f"{GUARDS}::test_a_rate_outlives_a_restart",),
    ),
    Mutant(
        "slot-freed-twice",
        "an attempt's end gives its slot back two times",
        (
            Edit(
                MIGRATIONS,
                "values (old.cluster, old.namespace, old.queue, old.concurrency_key, 1);",
                "values (old.cluster, old.namespace, old.queue, old.concurrency_key, 2);",
            ),
        ),
        (f"{GUARDS}::test_an_end_frees_one_slot", CHAOS),
    ),
    Mutant(
        "pause-admits",
        "a queue that is paused goes on admitting",
        (
            Edit(MIGRATIONS, "and i.present and not i.paused and not i.spec_paused\n", "and i.present\n"),
            Edit(
                SQL,
                "where q.cluster = $1 and q.present and not q.paused and not q.spec_paused and (",
                "where q.cluster = $1 and q.present and (",
            ),
        ),
        ("tests/integration/test_control.py::test_a_paused_queue_admits_nothing_until_it_is_resumed", CHAOS),
    ),
    Mutant(
        "key-checked-then-inserted",
        "whether an idempotency key is taken is looked up before it is taken",
        (
            Edit(
                SQL,
                "where idempotency_keys.expires_at <= clock_timestamp()",
                "where idempotency_keys.expires_at <= clock_timestamp()"
                " or not exists (select 1 from runs x where x.run_id = idempotency_keys.run_id)",
            ),
        ),
        (f"{RACES}::test_one_key_at_once_from_two_replicas_is_one_run",),
    ),
    Mutant(
        "cron-slot-not-unique",
        "nothing but the cursor keeps a cron slot from becoming a second run",
        (
            Edit(
                MIGRATIONS,
                "create unique index runs_slot on runs (schedule_id, slot) where schedule_id is not null;\n",
                "",
            ),
            Edit(SQL, "    on conflict (schedule_id, slot) where schedule_id is not null do nothing\n", ""),
        ),
        ("tests/integration/test_schedules.py::test_a_cursor_that_goes_back_makes_no_second_run",),
    ),
    Mutant(
        "closed-lane-kept",
        "after its session ended, records are refused until the api is started again",
        (
            Edit(
                STORE_CODE,
                "            self._drop()  # its other end is gone, or perhaps gone: the next"
                " statement gets another one\n",
                "",
            ),
        ),
        ("tests/integration/test_connections.py::test_records_are_taken_again_after_their_session_ended",),
    ),
    Mutant(
        "old-schema-counts",
        "an input is taken by a schema that the Task no longer has",
        (Edit(SQL, "    where not i.stale and (", "    where ("),),
        (f"{SCHEMAS}::test_a_schema_that_changes_under_many_callers",),
    ),
    Mutant(
        "held-input-unchecked",
        "a run that came before its Task is queued whatever its input",
        (
            Edit(
                SQL,
                "and (not j.bare or i.origin_run is not null or j.input_schema is not distinct from i.checked_schema)",
                "",
            ),
        ),
        (f"{SCHEMAS}::test_of_many_that_came_before_their_task_none_slips_through",),
    ),
    Mutant(
        "debounced-input-unchecked",
        "a call that puts a run off gives it an input that was checked against an old schema",
        (
            Edit(
                STORE_CODE,
                "if any(item.run.debounce or item.run.throttle for item in items):",
                "if any(item.run.throttle for item in items):",
            ),
        ),
        (f"{SCHEMAS}::test_a_debounced_input_is_checked_by_the_schema_of_now",),
    ),
)
