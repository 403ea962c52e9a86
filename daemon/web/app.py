"""The web server: STOW-RS in, and whether the daemon is well."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from sqlalchemy import Engine

from voxtrial.daemon.network.health import health
from voxtrial.daemon.network.intake import Intake, intake_of
from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.network.multipart import MultipartReception, NotMultipart
from voxtrial.daemon.network.policy import Policy
from voxtrial.daemon.network.scan import is_uid
from voxtrial.daemon.settings import Settings
from voxtrial.daemon.web import stow
from voxtrial.db.engine import connect

CALLING_AE = "STOW-RS"


def create_app(settings: Settings, engine: Engine | None = None) -> FastAPI:
    """Return the application of a site.

    Parameters
    ----------
    engine
        Database to use instead of opening ``settings.database_url``.
    """
    engine = engine or connect(settings.database_url)
    intake = intake_of(settings, engine)
    policy = Policy(settings.listener)
    app = FastAPI(title="Voxtrial", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def say_health() -> JSONResponse:
        """Say whether instances would be accepted now."""
        state = health(settings, engine)
        return JSONResponse(state, status_code=200 if state["status"] == "ok" else 503)

    @app.post("/studies")
    async def store(request: Request, content_type: Annotated[str, Header()] = "") -> JSONResponse:
        """Store the objects of a multipart body."""
        return await _stow(request, content_type, intake, policy, "")

    @app.post("/studies/{study_instance_uid}")
    async def store_study(
        study_instance_uid: str, request: Request, content_type: Annotated[str, Header()] = ""
    ) -> JSONResponse:
        """Store objects of one study."""
        if not is_uid(study_instance_uid):
            raise HTTPException(400, "the path names no study")
        return await _stow(request, content_type, intake, policy, study_instance_uid)

    return app


async def _stow(
    request: Request, content_type: str, intake: Intake, policy: Policy, study_instance_uid: str
) -> JSONResponse:
    address = request.client.host if request.client else ""
    origin = Origin(calling_ae=CALLING_AE, peer_address=address)
    if not policy.allows_address(address):
        reason = f"{address} may not store: it is not in listener.accept"
        await run_in_threadpool(intake.ledger.refused, action="request refused", reason=reason, origin=origin)
        raise HTTPException(403, reason)
    try:
        body = MultipartReception(content_type, intake, origin, study_instance_uid=study_instance_uid)
    except NotMultipart as error:
        raise HTTPException(415, str(error)) from error
    try:
        async for piece in request.stream():
            await run_in_threadpool(body.write, piece)
    except ValueError as error:
        raise HTTPException(400, f"the multipart body is damaged: {error}") from error
    finally:
        received = await run_in_threadpool(body.close)
    return JSONResponse(
        stow.response_module(received), stow.http_status(received), media_type="application/dicom+json"
    )
