"""The gateway's own commands, with a route in its API that does nothing: the floor of every other route."""

from __future__ import annotations

import sys

from fastapi import FastAPI
from starlette.responses import Response

from gateway import __main__ as gateway
from gateway.admin import serving
from gateway.services import Services

_create_app = serving.create_app


def _with_nothing(services: Services) -> FastAPI:
    app = _create_app(services)

    @app.get("/nothing")
    async def nothing() -> Response:
        return Response(b"{}", media_type="application/json")

    return app


if __name__ == "__main__":
    serving.create_app = _with_nothing
    sys.exit(gateway.main())
