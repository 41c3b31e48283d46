"""The HTTP application: routers, error handlers, lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

from gateway.api import (
    accounts,
    agents,
    allocations,
    billing,
    budgets,
    clearings,
    contracts,
    credit_notes,
    describe,
    evidence,
    hot,
    invoices,
    jobs,
    meters,
    openings,
    orders,
    payments,
    problems,
    projects,
    reconciliation,
    refunds,
    reports,
    settlements,
    sites,
)
from gateway.api.queries import known_query
from gateway.api.streams import Streams
from gateway.api.together import HotLanes
from gateway.identity.tokens import Doorkeeper
from gateway.services import Services
from gateway.web import pages

_THREADS = 32


def create_app(services: Services) -> FastAPI:
    """The application over composed services; nothing is read from the environment here."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        yield
        app.state.streams.close()
        app.state.lanes.close()

    app = FastAPIOffline(redoc_url=None, title="Penstock", version="2.0", lifespan=lifespan,
                         description="One gate to many supercomputers.")  # fmt: skip
    app.state.services = services
    app.state.doorkeeper = Doorkeeper(services)
    app.state.streams = Streams(services, app.state.doorkeeper)
    app.state.lanes = HotLanes(services)
    problems.install(app, pages.problem_page)
    describe.install(app)
    for router in (
        jobs.verbs,
        jobs.router,
        projects.router,
        sites.router,
        accounts.router,
        invoices.router,
        payments.router,
        clearings.router,
        reports.router,
        settlements.router,
        reconciliation.router,
        meters.router,
        evidence.router,
        contracts.router,
        allocations.router,
        openings.router,
        orders.router,
        billing.router,
        credit_notes.router,
        refunds.router,
        budgets.router,
    ):
        app.include_router(router, prefix="/api/v2", dependencies=[Depends(known_query)])
    app.include_router(sites.open_router)
    app.include_router(sites.open_router, prefix="/api/v2")
    app.include_router(pages.router)
    app.include_router(agents.router)
    hot.install(app)
    return app
