"""Port `Objects` in memory."""

from dataclasses import dataclass, replace
from uuid import UUID

from milepost.wire.pod import Fence, RecordsRequest, RecordWrite, SettleRequest
from milepost_operator.domain.errors import ConflictError, MilepostError, RunLimitError
from milepost_operator.domain.objects import StoredObject, Upload
from milepost_operator.domain.runs import PodSession
from milepost_operator.domain.states import RunState
from tests.fakes.memory_pods import MemoryPods


@dataclass
class FakeObject:
    upload: Upload
    run_id: UUID
    sha256: bytes | None = None
    seq: int = 0


class MemoryObjects(MemoryPods):
    """The rows; `unused`: those that nothing will refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[UUID, FakeObject] = {}
        self.unused: list[UUID] = []
        self.results_of: dict[UUID, UUID] = {}

    async def begin_object(
        self, session: PodSession, fence: Fence, size: int, record: RecordWrite | None
    ) -> Upload | int:
        await self._commit()
        if error := self._fence_error(session, fence):
            raise error
        run = self.runs[UUID(fence.run_id)]
        if record is not None:
            if record.write_id in run.write_ids:
                return run.write_ids[record.write_id]
            if record.kind == "step" and any((r.kind, r.key) == ("step", record.key) for r in run.records):
                raise ConflictError("step-exists", f"step {record.key!r} is recorded already")
            if len(run.records) >= self.max_run_records:
                raise RunLimitError("records.maxCount", self.max_run_records, record.key, "too many records")
        number = next(self._numbers)
        upload = Upload(UUID(int=number), f"default/{number}", size)
        self.objects[upload.object_id] = FakeObject(upload, UUID(fence.run_id))
        return upload

    async def append_object(
        self, session: PodSession, fence: Fence, record: RecordWrite, upload: Upload, sha256: bytes
    ) -> int:
        await self._commit()
        run = self.runs[UUID(fence.run_id)]
        before = len(run.records)
        answer = self._append(session, RecordsRequest(fence, [record]))
        if isinstance(answer, MilepostError) or len(run.records) == before:
            self.unused.append(upload.object_id)
        if isinstance(answer, MilepostError):
            raise answer
        if len(run.records) > before:
            run.records[-1] = replace(run.records[-1], object_bytes=upload.size)
            self.objects[upload.object_id].sha256, self.objects[upload.object_id].seq = sha256, answer[0]
        return answer[0]

    async def object_stored(self, object_id: UUID, sha256: bytes) -> None:
        await self._commit()
        self.objects[object_id].sha256 = sha256

    async def abandon_object(self, object_id: UUID) -> None:
        await self._commit()
        self.unused.append(object_id)

    async def object_of_record(self, fence: Fence, seq: int) -> StoredObject | None:
        await self._commit()
        found = (o for o in self.objects.values() if o.run_id == UUID(fence.run_id) and o.seq == seq)
        return _stored(next(found, None))

    async def object_of_result(self, run_id: UUID) -> StoredObject | None:
        await self._commit()
        return _stored(self.objects[self.results_of[run_id]]) if run_id in self.results_of else None

    def _settle(self, session: PodSession, request: SettleRequest) -> str:
        run_id, name = UUID(request.fence.run_id), request.result_object
        if name is not None and self._fence_error(session, request.fence) is None:
            found = self.objects.get(UUID(name))
            if found is None or found.run_id != run_id or found.sha256 is None:
                raise ConflictError("unknown-object", "send the result again")
        state = super()._settle(session, request)
        if name is not None and state == RunState.SUCCEEDED:
            self.results_of[run_id] = UUID(name)
            run = self.runs[run_id]
            run.view = replace(run.view, result_bytes=self.objects[UUID(name)].upload.size)
        return state


def _stored(found: FakeObject | None) -> StoredObject | None:
    if found is None or found.sha256 is None:
        return None
    return StoredObject(found.upload.key, found.upload.size, found.sha256)
