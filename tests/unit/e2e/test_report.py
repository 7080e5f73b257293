"""The judge of the counting Service's reports: what is work done twice, and what is not."""

from e2e.harness.report import Event, Repeat, executions, first_steps, most_alive, repeats


def told(*events: tuple[int, str, str], run: str = "r") -> list[Event]:
    """Events from (attempt, phase, step), in order of arrival."""
    return [
        Event(n, float(n), run, attempt, phase, step, f"pod-{attempt}")
        for n, (attempt, phase, step) in enumerate(events)
    ]


def test_a_straight_run_repeats_nothing():
    events = told(
        (1, "begin", ""), (1, "start", "a"), (1, "acked", "a"), (1, "start", "b"), (1, "acked", "b"), (1, "end", "")
    )
    assert repeats(events) == []
    assert executions(events) == 2


def test_a_step_killed_before_its_acknowledgement_may_run_again():
    events = told((1, "start", "a"), (2, "start", "a"), (2, "acked", "a"))
    assert repeats(events) == []


def test_a_finished_step_that_runs_again_is_found():
    events = told((1, "start", "a"), (1, "acked", "a"), (2, "start", "a"), (2, "acked", "a"))
    assert repeats(events) == [Repeat("r", "a", acknowledged=1, executed=2)]


def test_a_step_that_runs_twice_in_one_attempt_is_found():
    events = told((1, "start", "a"), (1, "acked", "a"), (1, "start", "a"))
    assert repeats(events) == [Repeat("r", "a", acknowledged=1, executed=1)]


def test_a_recorded_step_served_to_the_next_attempt_is_no_execution():
    events = told((1, "start", "a"), (1, "acked", "a"), (2, "acked", "a"), (2, "start", "b"), (2, "acked", "b"))
    assert repeats(events) == []
    assert first_steps(events) == {1: "a", 2: "b"}


def test_the_database_knows_of_acknowledgements_that_were_not_told():
    events = told((1, "start", "a"), (2, "start", "a"), (2, "acked", "a"))
    assert repeats(events, {("r", "a"): 1}) == [Repeat("r", "a", acknowledged=1, executed=2)]
    assert repeats(events, {("r", "a"): 2}) == []


def test_runs_are_apart():
    one = told((1, "start", "a"), (1, "acked", "a"))
    other = [Event(9, 9.0, "other", 2, "start", "a")]
    assert repeats([*one, *other]) == []


def test_most_alive_counts_overlaps():
    def span(run: str, first: int, last: int) -> list[Event]:
        return [Event(first, 0.0, run, 1, "begin", "", run), Event(last, 0.0, run, 1, "end", "", run)]

    assert most_alive([]) == 0
    assert most_alive([*span("a", 0, 1), *span("b", 2, 3)]) == 1
    assert most_alive([*span("a", 0, 4), *span("b", 1, 2), *span("c", 3, 5)]) == 2


def test_a_killed_process_lives_until_its_last_report():
    killed = [Event(0, 0.0, "a", 1, "begin", "", "p1"), Event(1, 0.0, "a", 1, "start", "s", "p1")]
    successor = [Event(2, 0.0, "a", 2, "begin", "", "p2"), Event(3, 0.0, "a", 2, "end", "", "p2")]
    assert most_alive([*killed, *successor]) == 1


def test_events_are_read_as_the_service_gives_them():
    raw = {"n": 3, "at": 12.5, "run": "r", "attempt": 2, "phase": "start", "step": "a", "pod": "p"}
    assert Event.parse(raw) == Event(3, 12.5, "r", 2, "start", "a", "p")
