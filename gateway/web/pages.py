"""Pages for people: sign in with a token, see jobs, one job with its script and charge, sites and their lines."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import select
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from accounting import store as books
from accounting.money import format_micro
from gateway.api.context import Svc, person_of
from gateway.api.projects import exposure_json
from gateway.api.sites import site_json
from gateway.errors import Forbidden, GatewayError, NotFound, Unauthenticated
from gateway.identity.access import Person, Verb, can
from gateway.identity.service import PROJECTS
from gateway.jobs import pending, repository, service, views
from gateway.jobs.repository import JOBS
from gateway.jobs.sentence import said
from gateway.web import texts
from gateway.web.texts import language_of, translator

router = APIRouter(include_in_schema=False)

_HERE = Path(__file__).parent
_PAGES = Environment(
    loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True, extensions=["jinja2.ext.i18n"],
)  # fmt: skip
_LIMIT = 50
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",  # who goes back after signing out sees nothing
}  # fmt: skip
# What changes the order or the look of the text around it, and shows nothing itself.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]+")


@router.get("/static/{name}")
def static(name: str) -> Response:
    """The style sheet."""
    if name != "style.css":
        raise NotFound("There is no such file.")
    return FileResponse(_HERE / "static" / name, media_type="text/css")


@router.get("/favicon.ico")
def icon() -> Response:
    """Browsers ask for one, and complain where there is none."""
    return Response(status_code=204)


@router.get("/")
def home() -> Response:
    return RedirectResponse("/jobs", 303)


@router.get("/login")
def login_form(request: Request) -> Response:
    return _page(request, "login.html", None, problem="")


@router.post("/login")
def login(request: Request, services: Svc, token: Annotated[str, Form(max_length=200)]) -> Response:
    """Keep the token in a cookie that scripts cannot read and other sites cannot send."""
    _same_origin(request)  # nobody is signed in as somebody else by a page of theirs
    try:
        request.app.state.doorkeeper.person(token.strip())
    except GatewayError as exc:
        return _page(request, "login.html", None, problem=exc.detail, status=exc.status)
    answer = RedirectResponse("/jobs", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie("penstock_token", token.strip(), httponly=True, samesite="strict", secure=secure, max_age=86400)
    return answer


@router.post("/logout")
def logout(request: Request) -> Response:
    _same_origin(request)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie("penstock_token")
    return answer


@router.get("/jobs")
def job_list(request: Request, services: Svc) -> Response:
    """The newest jobs, and what the projects have left."""
    person = _person(request)
    if person is None:
        return RedirectResponse("/login", 303)
    with services.db.read() as conn:
        jobs, _ = views.page(conn, person, views.JobFilter(), before=None, limit=_LIMIT)
        projects = [
            (row.name, [exposure_json(e) for e in books.exposure(conn, row.id)])
            for row in conn.execute(select(PROJECTS).order_by(PROJECTS.c.name))
            if can(person, Verb.SEE_PROJECT, ("project", row.id))
        ]
        sites = [site_json(services, conn, person, a) for _, a in sorted(services.sites.items())]
    return _page(request, "jobs.html", person, jobs=jobs, projects=projects, sites=sites)


@router.get("/jobs/{job_id}")
def job_page(request: Request, services: Svc, job_id: str) -> Response:
    """One job: state and why, timeline, script, charge."""
    person = _person(request)
    if person is None:
        return RedirectResponse("/login", 303)
    with services.db.read() as conn:
        job = views.show(conn, person, job_id)
        if job is None:
            raise NotFound(f"There is no job {job_id!r}.")
        row = conn.execute(select(JOBS).where(JOBS.c.id == job_id)).one()
        why = pending.why(services, conn, row, services.clock())
        timeline = views.events(conn, job_id, after=0)
        runs = views.runs(conn, job_id)
        charges = [(c, format_micro(c.amount_micro)) for c in books.charges_of_job(conn, job_id)]
        table = repository.ATTEMPTS
        packed = conn.scalars(select(table.c.script).where(table.c.job_id == job_id).order_by(table.c.attempt.desc()))
        script = packed.first()
    shown = repository.unpack_script(script) if script else ""
    return _page(request, "job.html", person, job=job, why=why, timeline=timeline, runs=runs, charges=charges,
                 script=shown)  # fmt: skip


@router.post("/jobs/{job_id}/{verb}")
def act(request: Request, services: Svc, job_id: str, verb: str) -> Response:
    """Cancel, hold or release by a form."""
    _same_origin(request)
    person = _person(request)
    if person is None:
        return RedirectResponse("/login", 303)
    if verb not in ("cancel", "hold", "release"):
        raise NotFound("There is no such action.")
    with services.db.write() as conn:
        service.wish(services, conn, person, job_id, verb, now=services.clock())  # type: ignore[arg-type]
    return RedirectResponse(f"/jobs/{job_id}", 303)


def problem_page(request: Request, problem: dict[str, Any]) -> Response:
    """What went wrong and what to do, for a browser."""
    return _page(request, "problem.html", _person(request), status=problem["status"], problem=problem)


# ---------------------------------------------------------------- parts


def _person(request: Request) -> Person | None:
    try:
        return person_of(request, request.headers.get("authorization"))
    except Unauthenticated:
        return None


def _same_origin(request: Request) -> None:
    """A form of another site must not act for a person (Fetch metadata, else the Origin header).

    Where a browser says it itself, a proxy before us may call us by another name.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    foreign = bool(origin) and urlsplit(origin or "").netloc != request.url.netloc
    if foreign if site is None else site not in ("same-origin", "none"):
        raise Forbidden("This form was not sent from a page of ours.")


def _called(job: Mapping[str, Any]) -> str:
    """What a job is called on a page: its name, where there is anything to be seen of it."""
    name = _UNSEEN.sub(" ", job["name"]).strip()
    return name if any(unicodedata.category(sign)[0] not in "ZC" for sign in name) else str(job["id"])


def _moment(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at is not None else "–"


def _page(request: Request, name: str, person: Person | None, *, status: int = 200, **values: Any) -> Response:
    language = language_of(request)
    pages = _PAGES.overlay()
    translate = translator(language)
    pages.install_gettext_callables(translate.gettext, translate.ngettext, newstyle=True)  # type: ignore[attr-defined]
    told = partial(said, translate=partial(texts.said, language=language))
    html = pages.get_template(name).render(
        person=person, language=language, path=request.url.path, said=told, moment=_moment, called=_called, **values
    )
    answer = HTMLResponse(html, status, _HEADERS)
    if request.query_params.get("lang") == language:
        answer.set_cookie("penstock_lang", language, samesite="lax", max_age=31536000)
    return answer
