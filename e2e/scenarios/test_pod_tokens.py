"""Who may speak for an attempt: the one pod it was given to, with a token made for us, while it lasts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from e2e.harness.api import Answer
from e2e.harness.kubectl import dig
from e2e.harness.lab import Lab, Run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


@dataclass(frozen=True)
class Subject:
    """A live run and its pod, for whose ServiceAccount tokens can be made as the kubelet makes them."""

    lab: Lab
    run: Run
    pod_id: str
    pod: str

    def projected(self, audience: str = "milepost") -> str:
        """A token as it lies in the sidecar: of our audience unless told otherwise, bound to the pod."""
        uid = dig(self.lab.kubectl.get("pod", self.pod, self.lab.namespace), "metadata", "uid")
        bound = ["--bound-object-kind=Pod", f"--bound-object-name={self.pod}", f"--bound-object-uid={uid}"]
        words = ["create", "token", "default", "-n", self.lab.namespace, f"--audience={audience}", *bound]
        return self.lab.kubectl.run(*words).strip()

    def session(self, token: str, pod_id: str | None = None) -> Answer:
        return self.lab.release.api.call("POST", "/pod/v1/session", {"pod_id": pod_id or self.pod_id}, token=token)

    def write(self, session: str, attempt: int = 1, key: str = "forged") -> Answer:
        """Try to commit a record with a session token, under the run's newest fencing token."""
        known = self.lab.sql.rows(f"select token from attempts where run_id = '{self.run.id}' and attempt = {attempt}")
        fence = {"run_id": self.run.id, "attempt": attempt, "token": known[0]["token"]}
        record = {"write_id": f"w-{key}", "kind": "checkpoint", "key": key, "value": json.dumps(1)}
        return self.lab.release.api.call(
            "POST", "/pod/v1/records", {"fence": fence, "records": [record]}, token=session
        )


@pytest.fixture(scope="module")
def live(shared_lab: Lab) -> Iterator[tuple[Subject, Subject]]:
    """Two runs in the middle of their work."""
    shared_lab.task()
    runs = [shared_lab.run(given={"steps": 400}) for _ in range(2)]
    subjects = []
    for run in runs:
        attempt = run.live()
        subjects.append(Subject(shared_lab, run, attempt.pod_id, str(attempt.pod)))
    yield subjects[0], subjects[1]
    for run in runs:
        shared_lab.kubectl.patch("run", run.name, {"spec": {"cancel": True}}, shared_lab.namespace)
        run.wait_state("cancelled")


def test_no_token(live: tuple[Subject, Subject]) -> None:
    assert live[0].session("").status == 401
    assert live[0].write("").status == 401


def test_nonsense(live: tuple[Subject, Subject]) -> None:
    assert live[0].session("nothing").status == 401
    assert live[0].write("nothing").status == 401


def test_other_audience(live: tuple[Subject, Subject]) -> None:
    """The token that a pod gets for the Kubernetes API is no token for us."""
    assert live[0].session(live[0].projected("https://kubernetes.default.svc.cluster.local")).status == 401


def test_another_pods_token(live: tuple[Subject, Subject]) -> None:
    one, other = live
    assert one.session(other.projected()).status == 403
    session = str(other.session(other.projected()).field("token"))
    assert one.write(session).status == 403, "another pod's session must not write for this run"
    assert one.run.records().get("forged") is None


def test_altered_session(live: tuple[Subject, Subject]) -> None:
    session = str(live[0].session(live[0].projected()).field("token"))
    altered = session[:-2] + ("AA" if session[-2:] != "AA" else "BB")
    assert live[0].write(altered).status == 401


def test_own_token_works(live: tuple[Subject, Subject]) -> None:
    """The refusals above are about the tokens and about nothing else."""
    session = str(live[0].session(live[0].projected()).field("token"))
    assert live[0].write(session, key="allowed").status == 200


def test_finished_attempt(lab: Lab) -> None:
    """A token that was good is no good once the attempt is over."""
    lab.task()
    run = lab.run(given={"steps": 6})
    attempt = run.live()
    subject = Subject(lab, run, attempt.pod_id, str(attempt.pod))
    session = str(subject.session(subject.projected()).field("token"))
    run.wait("Succeeded")
    refused = subject.write(session)
    assert refused.status == 409, refused
    assert refused.field("code") in {"settled", "fenced"}


def test_public_api(live: tuple[Subject, Subject]) -> None:
    """It has tokens of its own: a pod's open nothing there, and the other way round."""
    api = live[0].lab.release.api
    session = str(live[0].session(live[0].projected()).field("token"))
    path = f"/v1/runs/{live[0].run.name}?namespace={live[0].lab.namespace}"
    assert api.call("GET", path).status == 200
    assert [api.call("GET", path, token=token).status for token in ("", "nothing", session)] == [401, 401, 401]
    assert live[0].write(api.token).status == 401
