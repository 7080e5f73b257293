"""The bugs. An edit whose text is gone fails loudly: move the bug to where its rule lives now."""

from dataclasses import dataclass
from typing import Final

ENGINE: Final = "operator/src/milepost_operator"
SQL: Final = f"{ENGINE}/adapters/postgres/sql"
STORE: Final = "tests/integration/test_store.py"
CHAOS: Final = "chaos"
"""In place of a test: a chaos run of about a minute."""


@dataclass(frozen=True)
class Edit:
    """Replaces `old`, which has to be in `path` exactly `times`."""

    path: str
    old: str
    new: str
    times: int = 1


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
                f"{SQL}/pods.sql",
                "join fences f on f.run_id = h.run_id and f.attempt = h.attempt and f.token = h.token"
                " and f.pod_id = h.pod_id",
                "join fences f on f.run_id = h.run_id",
            ),
            Edit(
                f"{SQL}/pods.sql",
                "join locked l on l.run_id = i.run_id and l.attempt = i.attempt and l.token = i.token"
                " and l.pod_id = i.pod_id",
                "join locked l on l.run_id = i.run_id",
                2,
            ),
        ),
        (f"{STORE}::test_an_older_attempt_can_write_nothing",),
    ),
    Mutant(
        "lease-without-full-term",
        "the reaper ends attempts whose heartbeats we ourselves could not take",
        (
            Edit(
                f"{SQL}/duties.sql",
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
                "                _tell(waiting, answer)\n",
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
                f"{ENGINE}/adapters/postgres/database.py",
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
                f"{ENGINE}/adapters/postgres/intake.py",
                '        if run["state"] in TERMINAL or run["state"] == RunState.CANCELLING:\n',
                '        if run["state"] == RunState.CANCELLING:\n',
            ),
        ),
        ("tests/integration/test_guards.py::test_a_run_that_has_ended_stays_as_it_ended",),
    ),
    Mutant(
        "epoch-unchecked",
        "a leader that was replaced goes on launching",
        (
            Edit(
                f"{ENGINE}/adapters/postgres/launches.py",
                "        if current != epoch:\n",
                "        if current is None:\n",
            ),
        ),
        (f"{STORE}::test_only_the_newest_epoch_launches", CHAOS),
    ),
    Mutant(
        "settled-twice",
        "the repeated settle of an attempt that ended moves its run on once more",
        (
            Edit(
                f"{ENGINE}/adapters/postgres/podstore.py",
                '            if attempt["state"] == "ended":\n',
                '            if attempt["state"] == "ended" and not attempt["settled"]:\n',
            ),
            Edit(
                f"{ENGINE}/adapters/postgres/podstore.py",
                '            if attempt["token"] != fence.token or attempt["state"] != "running":\n',
                '            if attempt["token"] != fence.token:\n',
            ),
        ),
        (f"{STORE}::test_settling_twice_is_one_settle",),
    ),
    Mutant(
        "anyone-may-beat",
        "a pod that was replaced keeps the lease of its successor alive",
        (
            Edit(
                f"{SQL}/pods.sql",
                "join incoming i on i.run_id = h.run_id and i.attempt = h.attempt and i.token = h.token"
                " and i.pod_id = h.pod_id",
                "join incoming i on i.run_id = h.run_id",
            ),
        ),
        (f"{STORE}::test_an_older_attempt_can_write_nothing",),
    ),
)
