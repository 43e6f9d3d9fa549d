"""The application: a JSON API, which OpenAPI describes at /api/openapi.json, and the page that uses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

import silc
from silc.errors import BadInput
from silc.images import BadImage
from silc.serve import schema
from silc.serve.computing import TooLong
from silc.serve.config import Limits
from silc.serve.desk import Desk
from silc.serve.examples import Drawn
from silc.serve.guard import Guard
from silc.serve.pictures import NAME, NoPicture
from silc.serve.turns import Busy
from silc.terminal import one_line

if TYPE_CHECKING:
    from silc.predict import Model

T = TypeVar("T")
PAGE = FilePath(__file__).parent / "page"
IMAGE_STATUS = {"too_large": 413, "no_image": 415}
GONE = 499
"""nginx's status for a client that no longer waits for the answer."""


def application(
    models: Mapping[str, Model],
    limits: Limits | None = None,
    *,
    token: str = "",
    examples: Sequence[Drawn] = (),
) -> Guard:
    """The ASGI application.

    Args:
        models: by the names that people see.
        token: what callers must know; empty: no token, and `Host` must be one of this machine's own names (`guard`).
    """
    limits = limits or Limits()
    desk = Desk(models, limits, examples)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await desk.close()

    app = FastAPI(
        title="silc",
        summary="Segment, classify and compare with image-text models.",
        version=silc.__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page is loaded from another site
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.desk = desk
    app.include_router(router)
    for kind, answer in FAULTS.items():
        app.add_exception_handler(kind, answer)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return Guard(app, limits, token=token)


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


At = Annotated[Desk, Depends(_desk)]
SAID: dict[int | str, dict[str, Any]] = {status: {"model": schema.Fault} for status in (401, 404, 413, 422, 503, 504)}
router = APIRouter(prefix="/api", responses=SAID)


@router.get("/server")
async def server(desk: At) -> schema.ServerInfo:
    """What the server offers."""
    return desk.info


@router.post("/pictures", openapi_extra={"requestBody": {"content": {"image/*": {}}, "required": True}})
async def take(request: Request, desk: At) -> schema.PictureAnswer:
    """Send a picture: the body is the file's bytes. Later requests name the picture by the `id` in the answer."""
    return await _unless_gone(request, desk.take(await request.body()))


@router.get("/pictures/{name}", response_class=Response, responses={200: {"content": {"image/png": {}}}})
async def picture(name: Annotated[str, Path(pattern=f"^{NAME}$")], request: Request, desk: At) -> Response:
    """A picture's pixels as the models see them."""
    return Response(await _unless_gone(request, desk.png(name)), media_type="image/png")


@router.post("/segment")
async def segment(asked: schema.SegmentRequest, request: Request, desk: At) -> schema.Segmentations:
    """The class of each pixel."""
    return await _unless_gone(request, desk.answer(desk.answers.segment, asked))


@router.post("/classify")
async def classify(asked: schema.ClassifyRequest, request: Request, desk: At) -> schema.Classifications:
    """The probability of each name."""
    return await _unless_gone(request, desk.answer(desk.answers.classify, asked))


@router.post("/components")
async def components(asked: schema.Request, request: Request, desk: At) -> schema.Components:
    """Principal components of the patches, as colours that can be compared between the pictures."""
    return await _unless_gone(request, desk.answer(desk.answers.components, asked))


@router.post("/similar")
async def similar(asked: schema.SimilarRequest, request: Request, desk: At) -> schema.Similarities:
    """How similar each patch is to the patch at a place of the first picture."""
    return await _unless_gone(request, desk.answer(desk.answers.similar, asked))


@router.post("/detect")
async def detect(asked: schema.DetectRequest, request: Request, desk: At) -> schema.Detections:
    """Boxes of the named things, by a model that finds boxes."""
    return await _unless_gone(request, desk.answer(desk.answers.detect, asked))


@router.post("/caption")
async def caption(asked: schema.Request, request: Request, desk: At) -> schema.Written:
    """A caption of each picture, by a model that writes."""
    return await _unless_gone(request, desk.answer(desk.answers.caption, asked))


@router.post("/answer")
async def answer(asked: schema.AnswerRequest, request: Request, desk: At) -> schema.Written:
    """The answer to a question about each picture, by a model that has learnt questions."""
    return await _unless_gone(request, desk.answer(desk.answers.answer, asked))


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled when the client closes the connection.

    Raises:
        _Gone: the client closed the connection.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _Gone
        return working.result()
    finally:
        for one in (working, leaving):
            one.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await one


class _Gone(Exception):
    """The client no longer waits for the answer."""


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _fault(status: int, said: object, **headers: str) -> JSONResponse:
    return JSONResponse({"detail": one_line(said)}, status, {name.replace("_", "-"): headers[name] for name in headers})


async def _invalid(_: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return _fault(422, f"{where}: {first['msg']}" if where else first["msg"])


async def _bad_image(_: Request, error: Any) -> JSONResponse:
    return _fault(IMAGE_STATUS.get(error.cause, 422), error)


async def _busy(_: Request, error: Any) -> JSONResponse:
    return _fault(503, error, Retry_After=str(error.seconds))


async def _broken(_: Request, error: Exception) -> JSONResponse:
    """An unexpected error; its traceback goes to the log."""
    return _fault(500, f"the server failed ({type(error).__name__}); its log says more")


def _as(status: int) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def answer(_: Request, error: Exception) -> JSONResponse:
        return _fault(status, error)

    return answer


FAULTS: dict[type[Exception], Callable[[Request, Any], Awaitable[JSONResponse]]] = {
    RequestValidationError: _invalid,
    BadImage: _bad_image,
    Busy: _busy,
    NoPicture: _as(404),
    TooLong: _as(504),
    BadInput: _as(422),
    _Gone: _as(GONE),
    Exception: _broken,
}
