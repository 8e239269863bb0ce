"""The page on which a photo gets its answer; for a browser on this machine and nobody else.

GET / is page.html, GET /about what its models are and how much they take, POST /answer takes a
photo's bytes and gives what `answer` returns. What is no good gets 4xx, with the reason as text.
"""

import asyncio
import base64
import hashlib
import io
import re
from pathlib import Path

import fastapi
from fastapi import concurrency
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.requests import ClientDisconnect

from agegender.data import utkface
from agegender.photos import detection, estimate, output

# Another site's name may be made to lead to this machine; its pages' requests carry that name.
HOSTS = ("127.0.0.1", "localhost")
HEADERS = {
    "Cache-Control": "no-store",  # Or the browser would keep photos that nobody else keeps.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def application(detector: detection.Detector, models: dict[str, estimate.Model]) -> fastapi.FastAPI:
    """Return the ASGI application; it looks at one photo at a time and writes nothing to disk."""
    page = Path(__file__).with_name("page.html").read_text()
    headers = HEADERS | {"Content-Security-Policy": _policy(page)}
    about = {
        "most_bytes": estimate.MOST_BYTES,
        "models": {
            name: {"title": model.title, "coverage": model.intervals["coverage"]}
            for name, model in models.items()
        },
    }
    app = fastapi.FastAPI(openapi_url=None)
    turn = asyncio.Lock()  # A large photo takes 600 MB while it is decoded.

    @app.middleware("http")
    async def guard(request: fastapi.Request, call_next):
        host = request.headers.get("host", "")
        origin = request.headers.get("origin", f"http://{host}")
        if host.partition(":")[0] not in HOSTS:
            response = _refusal(403, f"Expected the host {' or '.join(HOSTS)}; got {host!r}.")
        elif origin != f"http://{host}":
            response = _refusal(403, f"Expected the origin http://{host}; got {origin!r}.")
        else:
            response = await call_next(request)
        response.headers.update(headers)
        return response

    @app.get("/")
    async def show():
        return HTMLResponse(page)

    @app.get("/about")
    async def tell():
        return about

    @app.post("/answer")
    async def look(request: fastapi.Request):
        data = bytearray()
        try:
            async for part in request.stream():
                data += part
                if len(data) > estimate.MOST_BYTES:
                    raise utkface.Rejection(
                        utkface.Reason.TOO_LARGE, f"over {estimate.MOST_BYTES // 2**20} MiB"
                    )
            async with turn:
                return await concurrency.run_in_threadpool(answer, detector, models, bytes(data))
        except ClientDisconnect:
            return _refusal(400, "The photo did not arrive whole.")
        except utkface.Rejection as error:
            too_large = error.reason == utkface.Reason.TOO_LARGE
            return _refusal(413 if too_large else 415, f"Not read, {error}.")

    return app


def answer(
    detector: detection.Detector, models: dict[str, estimate.Model], data: bytes
) -> dict[str, str | int | list[dict]]:
    """Return what is shown of a photo's bytes; raises utkface.Rejection with the reason.

    picture: the photo with its faces marked, a JPEG in base64; width_pixels: the photo's own, to
    which the boxes refer; rows: those of `estimate.answer`, each with its gender_text.
    """
    photo = estimate.open_photo(data)
    (table,) = estimate.answer(detector, models, [photo])
    stream = io.BytesIO()
    output.annotate(photo, table).save(stream, "JPEG", quality=90)
    texts = [output.gender_text(row) for row in table.itertuples()]
    return {
        "picture": base64.b64encode(stream.getvalue()).decode(),
        "width_pixels": photo.width,
        "rows": table.assign(gender_text=texts).to_dict("records"),
    }


def _refusal(status: int, reason: str) -> PlainTextResponse:
    return PlainTextResponse(reason, status)


def _policy(page: str) -> str:
    """Return a Content-Security-Policy of the page's own script and style and nothing else."""
    sources = " ".join(
        f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}';"
        for tag, text in re.findall(r"<(script|style)>(.*?)</\1>", page, re.DOTALL)
    )
    return (
        f"default-src 'none'; {sources} img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
