"""The API's requests: each builder beside the parser of its answer; states and codes as tables.

Every answer is `{"code", "msg", "data"}`; code 0 is good, 402 wants a new login. Source: SCNet's public documents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from site_adapters.dialect_config import NorthboundConfig
from site_adapters.errors import Busy, CommandFailed, CredentialRefused, NotFound
from site_adapters.login_node.marks import tags_in
from site_adapters.northbound.reasons import reason_of
from site_adapters.states import ObservedState, Reason
from site_adapters.transport import FileChunk
from site_adapters.transport.http import Answer, LoginRanOut, Request
from site_adapters.types import ObservedRun, RowProblem

_S = ObservedState
# The words of jobStatus.
STATE_MAP: dict[str, ObservedState] = {
    "statR": _S.ACTIVE,  # running
    "statQ": _S.QUEUED,  # pending
    "statH": _S.HELD,  # held
    "statS": _S.SUSPENDED,  # suspended
    "statE": _S.ACTIVE,  # exiting
    "statC": _S.COMPLETED,  # has ended, well or not: the exit code tells
    "statW": _S.QUEUED,  # waiting
    "statD": _S.CANCELED,  # deleted
    "statX": _S.UNKNOWN,  # other
}
PAGE = 100  # the most that one page of a list holds
SUBMIT_DEADLINE_S = 60.0


def read_data(answer: Answer) -> Any:
    """The `data` of a good answer; raises what the code means."""
    if answer.status == 401:
        raise LoginRanOut("the token is no longer good")
    said = json.loads(answer.content)
    if not isinstance(said, dict) or "code" not in said:
        raise ValueError("an answer without a code")
    code, text = str(said["code"]), str(said.get("msg", ""))
    if code == "402":
        raise LoginRanOut(text)
    if code == "403":
        raise CredentialRefused(text)
    if code == "429" or "limit" in text.lower():
        raise Busy(text, native_text=text)
    if code == "404":
        raise NotFound(text, native_text=text)
    if code != "0":
        raise CommandFailed(text or f"code {code}", native_text=text)
    return said.get("data")


def _is_refusal(answer: Answer) -> bool:
    """Whether an answer that should be a file is the API's own word instead: refusals too come with status 200."""
    if "json" not in answer.content_type:
        return False
    try:
        said = json.loads(answer.content)
    except ValueError:
        return False
    return isinstance(said, dict) and {"code"} <= said.keys() <= {"code", "msg", "data"} and str(said["code"]) != "0"


def _read_nothing(answer: Answer) -> None:
    """A good answer that says nothing more."""
    read_data(answer)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: its jobs, what does not read, and how many there are in all."""

    runs: tuple[ObservedRun, ...]
    rows: tuple[Mapping[str, Any], ...]
    problems: tuple[RowProblem, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Api:
    """One centre's addresses, names and clock."""

    config: NorthboundConfig
    zone: str

    def clusters(self) -> Request[str]:
        """The id of our scheduler there."""

        def read(answer: Answer) -> str:
            found = [str(row["id"]) for row in read_data(answer) or []]
            wanted = self.config.job_manager_id
            if (wanted and wanted not in found) or not found:
                raise CommandFailed(f"the centre shows no scheduler {wanted!r}")
            return wanted or found[0]

        return Request("GET", self._hpc("/cluster"), read)

    def queues(self, manager: str) -> Request[list[dict[str, Any]]]:
        """Queues that our user may use."""

        def read(answer: Answer) -> list[dict[str, Any]]:
            return [row for row in read_data(answer) or [] if isinstance(row, dict) and row.get("queueName")]

        url = self._hpc(f"/queuenames/users/{self.config.user}")
        return Request("GET", url, read, query={"strJobManagerID": manager})

    def submit(self, manager: str, job: Mapping[str, Any]) -> Request[str]:
        """Hand over a job; the answer is its number."""

        def read(answer: Answer) -> str:
            number = str(read_data(answer))
            if not (number.isascii() and number.isdigit()):
                raise ValueError(f"no job number: {number[:100]!r}")
            return number

        body = {"strJobManagerID": manager, "mapAppJobInfo": dict(job)}
        return Request("POST", self._hpc("/apptemplates/BASIC/BASE/job"), read, json=body, write=True,
                       deadline_s=SUBMIT_DEADLINE_S)  # fmt: skip

    def listed(self, which: str, manager: str, page: int, name: str = "") -> Request[Page]:
        """A page of `active-job` or `history-job`, from 1; with `name` only jobs whose name holds it."""
        body: dict[str, Any] = {"strJobManagerID": manager, "start": (page - 1) * PAGE, "limit": PAGE}
        body |= {"jobName": name} if name else {}
        return Request("POST", f"{self.config.url}/api/job/v3/jobs/{which}", self._read_page, json=body)

    def _read_page(self, answer: Answer) -> Page:
        data = read_data(answer)
        if not isinstance(data, dict) or not isinstance(data.get("list"), list):
            raise ValueError("a list without rows")
        total = str(data.get("total"))
        if not (total.isascii() and total.isdigit() and len(total) < 10):
            raise ValueError(f"a list of {total[:40]!r} rows")
        runs, rows, problems = [], [], []
        for row in data["list"]:
            try:
                runs.append(self.run_of(row))
                rows.append(row)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as exc:
                problems.append(RowProblem(json.dumps(row), f"{type(exc).__name__}: {exc}"))
        return Page(tuple(runs), tuple(rows), tuple(problems), int(total))

    def job(self, manager: str, native_id: str) -> Request[ObservedRun]:
        """One job, ended or not; `NotFound` where the centre does not know it."""

        def read(answer: Answer) -> ObservedRun:
            data = read_data(answer)
            if not data:
                raise NotFound(f"the centre does not know job {native_id}")
            return self.run_of(data)

        return Request("GET", self._hpc(f"/jobs/{native_id}"), read, query={"strJobManagerID": manager})

    def delete(self, manager: str, ids: Sequence[str]) -> Request[None]:
        """End jobs: `jobMethod` 5, and each as `manager,user:id:;`."""
        words = "".join(f"{manager},{self.config.user}:{native_id}:;" for native_id in ids)
        form = {"jobMethod": "5", "strJobInfoMap": words}
        return Request("DELETE", self._hpc("/jobs"), _read_nothing, form=form, write=True)

    def file(self, path: str, offset: int, limit: int) -> Request[FileChunk]:
        """Bytes of a file: the API knows no ranges, so the whole is fetched and cut."""

        def read(answer: Answer) -> FileChunk:
            if answer.status == 404:
                raise NotFound(f"there is no file {path}")
            if answer.status != 200 or _is_refusal(answer):
                read_data(answer)
                raise CommandFailed(f"{path} cannot be read")
            whole = answer.content
            return FileChunk(whole[offset : offset + limit], min(offset, len(whole)), len(whole))

        return Request("GET", f"{self.config.files_url or self.config.url}/efile/openapi/v2/file/download", read,
                       query={"path": path})  # fmt: skip

    def run_of(self, row: Mapping[str, Any]) -> ObservedRun:
        """A row of a list, or the answer about one job."""
        word, name = str(row["jobStatus"]), str(row.get("jobName", ""))
        state, reason = STATE_MAP.get(word, ObservedState.UNKNOWN), Reason.NONE
        text = str(row.get("exitCode", ""))
        code = int(text) if text.lstrip("-").isdigit() and state in (_S.COMPLETED, _S.CANCELED) else None
        if state is _S.COMPLETED and code not in (0, None):
            state, reason = _S.FAILED, Reason.NONZERO_EXIT
        told = str(row.get("reason") or "")
        if state in (_S.QUEUED, _S.HELD):
            reason = reason_of(word, told).reason
        procs = str(row.get("procNumUsed", ""))
        return ObservedRun(
            native_id=str(row["jobId"]),
            state=state,
            native_state=word,
            cluster=self.config.cluster,
            username=str(row.get("userName", self.config.user)),
            name=name,
            tags_seen=tags_in(name),
            reason=reason,
            native_reason=told,
            exit_code=code,
            submit_time=self.moment(row.get("jobSubmitTime")),
            start_time=self.moment(row.get("jobStartTime")) if state is not _S.QUEUED else None,
            end_time=self.moment(row.get("jobEndTime")) if state.final else None,
            cores=int(procs) if procs.isdigit() else None,
        )

    def moment(self, text: Any) -> datetime | None:
        """`2026-11-25 14:00:00` by the centre's clock."""
        if not text:
            return None
        return datetime.fromisoformat(str(text)).replace(tzinfo=ZoneInfo(self.zone)).astimezone(UTC)

    def _hpc(self, path: str) -> str:
        return f"{self.config.url}/hpc/openapi/v2{path}"
