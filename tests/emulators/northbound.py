"""A stand-in for a northbound REST centre (SCNet's documented API) over a folder: tokens, queues, jobs, lists, files.

It follows the documented shapes: HMAC login, `{"code", "msg", "data"}`, code 402 for a token that ran out, lists of at
most 100, jobStatus words. Jobs are real processes. Standard library only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sys
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import core
from core import ENDED, QUEUED, RUNNING, Cluster, Job, me

ACCESS, SECRET, MANAGER = "ak-1", "sk-1", "1638523853"


class RestCluster(Cluster):
    """Jobs by number; `expire_tokens` lets every token run out."""

    program = str(Path(__file__).resolve())

    def may_start(self, job: Job) -> bool:
        return bool(self.get("scheduling", True))

    def token(self) -> str:
        made = secrets.token_hex(8)
        self.put("tokens", [*self.get("tokens", []), made])
        return made

    def expire_tokens(self) -> None:
        self.put("tokens", [])

    def submit(self, info: dict[str, str]) -> int:
        with self.locked():
            seq = self.next_seq()
            folder = self.root / "scripts"
            folder.mkdir(exist_ok=True)
            (folder / str(seq)).write_text(info["GAP_CMD_FILE"])
            hours, minutes, seconds = map(int, info["GAP_WALL_TIME"].split(":"))
            now = self.now()
            each = int(info["GAP_PPN"] or 0) * int(info["GAP_NNODE"] or 1)
            self.save(Job(
                seq=seq, task=core.NO_TASK, name=info["GAP_JOB_NAME"], user=me(), queue=info["GAP_QUEUE"],
                argv=["/bin/bash", str(folder / str(seq))], cwd=info["GAP_WORK_DIR"], environment={},
                stdout=info["GAP_STD_OUT_FILE"], stderr=info["GAP_STD_ERR_FILE"],
                cores=int(info["GAP_NPROC"] or each or 1), nodes=int(info["GAP_NNODE"] or 1),
                walltime_s=hours * 3600 + minutes * 60 + seconds, submitted=now, changed=now,
            ))  # fmt: skip
            self.schedule()
        return seq

    def row(self, job: Job) -> dict[str, Any]:
        word = {QUEUED: "statQ", RUNNING: "statR", ENDED: "statC"}.get(job.state, "statX")
        word = "statD" if job.state == ENDED and job.cause == "deleted" else word
        status = 256 if job.cause == "launch" else job.status or 0  # what was never started did not end well
        return {
            "jobId": str(job.seq), "jobName": job.name, "userName": job.user, "jobStatus": word, "queue": job.queue,
            "jobSubmitTime": _stamp(job.submitted), "jobStartTime": _stamp(job.started),
            "jobEndTime": _stamp(job.ended),
            "procNumUsed": job.cores, "nodeNumUsed": job.nodes, "workDir": job.cwd, "outputPath": job.stdout,
            "errorPath": job.stderr, "exitCode": "" if job.state != ENDED else str(status >> 8 or status),
        }  # fmt: skip


def _stamp(moment: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment)) if moment else ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def log_message(self, *_args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        c = RestCluster(self.root)
        try:
            self._serve_from(c)
        finally:
            c.close()

    def _serve_from(self, c: RestCluster) -> None:
        place = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(place.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = c.take_fault(f"{self.command} {place.path}")
        if fault.get("down"):
            self._send(503, b"")
            return
        if place.path == "/api/user/v3/tokens":
            self._json(*self._login(c))
        elif self.headers.get("token") not in c.get("tokens", []):
            self._json("402", None, "token expired")
        elif place.path == "/efile/openapi/v2/file/download":
            file = Path(query["path"])
            self._send(200, file.read_bytes()) if file.is_file() else self._json("404", None, "no such file")
        else:
            answer = self._answer(c, place.path, body)
            if fault.get("drop"):  # it was done, and nobody hears of it
                self.close_connection = True
                self.connection.close()
                return
            self._json(*answer)

    def _login(self, c: RestCluster) -> tuple[str, Any, str]:
        h = self.headers
        text = json.dumps({"accessKey": h["accessKey"], "timestamp": h["timestamp"], "user": h["user"]},
                          separators=(",", ":"))  # fmt: skip
        good = hmac.compare_digest(hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest(), h["signature"])
        fresh = abs(time.time() - int(h["timestamp"])) < 300
        if not (good and fresh and h["accessKey"] == ACCESS):
            return "403", None, "signature mismatch"
        return "0", [{"clusterId": "11", "clusterName": "ai", "token": c.token()}], ""

    def _answer(self, c: RestCluster, path: str, body: bytes) -> tuple[str, Any, str]:
        with c.locked():
            c.schedule()
        if path == "/hpc/openapi/v2/cluster":
            return "0", [{"id": MANAGER, "text": "ai", "JobManagerType": "SLURM"}], ""
        if path.startswith("/hpc/openapi/v2/queuenames/users/"):
            return "0", [{"queueName": "debug", "queMaxPPN": "4"}, {"queueName": "train", "queMaxPPN": "4"}], ""
        if path == "/hpc/openapi/v2/apptemplates/BASIC/BASE/job":
            info = json.loads(body)["mapAppJobInfo"]
            if info["GAP_QUEUE"] not in ("debug", "train"):
                return "10001", None, f"queue {info['GAP_QUEUE']} is not available"
            return "0", str(c.submit(info)), ""
        if path in ("/api/job/v3/jobs/active-job", "/api/job/v3/jobs/history-job"):
            asked = json.loads(body)
            ended = path.endswith("history-job")
            jobs = [j for j in c.jobs() if (j.state == ENDED) == ended and asked.get("jobName", "") in j.name]
            part = jobs[asked["start"] : asked["start"] + min(100, asked["limit"])]
            return "0", {"total": len(jobs), "list": [c.row(j) for j in part]}, ""
        if path == "/hpc/openapi/v2/jobs" and self.command == "DELETE":
            words = urllib.parse.parse_qs(body.decode())["strJobInfoMap"][0]
            with c.locked():
                for word in filter(None, words.split(";")):
                    job = c.job(int(word.split(":")[1]))
                    if job is not None and job.state != ENDED:
                        c.kill(job, "deleted")
            return "0", None, ""
        if path.startswith("/hpc/openapi/v2/jobs/"):
            job = c.job(int(path.rpartition("/")[2]))
            return "0", c.row(job) if job is not None else None, ""
        return "404", None, "no such address"

    def _json(self, code: str, data: Any, message: str) -> None:
        self._send(200, json.dumps({"code": code, "msg": message, "data": data}).encode(), "application/json")

    def _send(self, status: int, data: bytes, kind: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def serve(root: Path) -> ThreadingHTTPServer:
    """A server on a free loopback port; the caller runs and closes it."""
    handler = type("Handler", (_Handler,), {"root": root})
    return ThreadingHTTPServer(("127.0.0.1", 0), handler)


if __name__ == "__main__":
    RestCluster(Path(sys.argv[2])).run(int(sys.argv[3]), int(sys.argv[4]))
