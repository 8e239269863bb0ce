"""One application, for this machine and nobody else: a page for people, JSON for programs.

    POST /predict   {"images": ["BASE64", ...], "crop": false}
                    -> {"models": {"A": TITLE, ...}, "answers": [[ROW, ...], ...]}
    GET /health     {"status": "ok"}

images: 1 to 64 pictures in base64, a face in each (JPEG, PNG or WebP, at most 8 MiB and 4096 x 4096
pixels; the whole request at most 32 MiB). crop: false, the default and all that is taken so far,
says that they are aligned and cropped as in UTKFace. answers: for each picture in turn, a row a
model, with the columns of `estimate.estimate_faces` and "model". What is no good gets 400, 413 (too
large) or 415 (not application/json), with {"error": REASON}; no picture of it is answered then.

The page: GET / is page.html, GET /about says what its models are, POST /answer takes a photo's
bytes and gives what `answer` returns, or 4xx with the reason as text.
"""

import asyncio
import base64
import functools
import hashlib
import io
import json
import re
from pathlib import Path

import fastapi
import numpy as np
import PIL.Image
import PIL.ImageOps
from fastapi import concurrency
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.requests import ClientDisconnect

from agegender.data import utkface
from agegender.photos import detection, estimate, output

# Another site's name may be made to lead to this machine; its pages' requests carry that name.
HOSTS = ("127.0.0.1", "localhost")
MOST_BODY_BYTES = 32 * 2**20  # of a POST to /predict
MOST_IMAGES = 64
MOST_IMAGE_BYTES = 8 * 2**20
MOST_IMAGE_PIXELS = 4096 * 4096
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")
FACE_PIXELS = 128
HEADERS = {
    "Cache-Control": "no-store",  # Or the browser would keep photos that nobody else keeps.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def application(detector: detection.Detector, models: dict[str, estimate.Model]) -> fastapi.FastAPI:
    """Return the ASGI application; it answers one request at a time and writes nothing to disk."""
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

    app.middleware("http")(functools.partial(_guard, headers))

    @app.get("/health")
    async def live():
        return {"status": "ok"}

    @app.post("/predict")
    async def predict(request: fastapi.Request):
        content_type = request.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            error = f"Expected the content type application/json; got {content_type!a}."
            return JSONResponse({"error": error}, 415)
        try:
            body = await _read(request, MOST_BODY_BYTES)
            faces = await concurrency.run_in_threadpool(read_faces, body)
            async with turn:
                return await concurrency.run_in_threadpool(estimates, models, faces)
        except ClientDisconnect:
            return JSONResponse({"error": "The request did not arrive whole."}, 400)
        except utkface.Rejection as error:
            return JSONResponse({"error": str(error)}, 413)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)

    @app.get("/")
    async def show():
        return HTMLResponse(page)

    @app.get("/about")
    async def tell():
        return about

    @app.post("/answer")
    async def look(request: fastapi.Request):
        try:
            data = await _read(request, estimate.MOST_BYTES)
            async with turn:
                return await concurrency.run_in_threadpool(answer, detector, models, data)
        except ClientDisconnect:
            return _refusal(400, "The photo did not arrive whole.")
        except utkface.Rejection as error:
            too_large = error.reason == utkface.Reason.TOO_LARGE
            return _refusal(413 if too_large else 415, f"Not read, {error}.")

    return app


async def _guard(headers: dict[str, str], request: fastapi.Request, call_next):
    """Answer a request of this machine's own pages and programs; refuse another site's."""
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


async def _read(request: fastapi.Request, most_bytes: int) -> bytes:
    """Return a request's body; raises utkface.Rejection as soon as it is over the limit."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most_bytes:
            raise utkface.Rejection(utkface.Reason.TOO_LARGE, f"over {most_bytes // 2**20} MiB")
    return bytes(data)


def read_faces(body: bytes) -> np.ndarray:
    """Return the faces in the JSON of a POST to /predict, uint8 RGB (N, 128, 128, 3).

    ValueError, with the reason, where the JSON or a picture in it is not as described above.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'Expected JSON, {{"images": [base64, ...]}}: {error!a}.') from None
    if not isinstance(asked, dict) or "images" not in asked or asked.keys() - {"images", "crop"}:
        shown = sorted(asked) if isinstance(asked, dict) else type(asked).__name__
        raise ValueError(
            f'Expected an object with "images" and at most "crop"; got {shown!a:.200}.'
        )
    if asked.get("crop", False) is not False:
        raise ValueError(
            'Expected "crop": false: faces are taken aligned and cropped, as UTKFace\'s.'
        )
    images = asked["images"]
    if not isinstance(images, list) or not 1 <= len(images) <= MOST_IMAGES:
        got = len(images) if isinstance(images, list) else type(images).__name__
        raise ValueError(f'Expected a list of 1 to {MOST_IMAGES} "images"; got {got}.')
    return np.stack([_read_face(image, number) for number, image in enumerate(images)])


def _read_face(image: object, number: int) -> np.ndarray:
    if not isinstance(image, str):
        raise ValueError(f"images[{number}]: expected base64; got {type(image).__name__}.")
    if len(image) * 3 // 4 > MOST_IMAGE_BYTES:
        raise ValueError(
            f"images[{number}]: expected at most {MOST_IMAGE_BYTES:,} bytes; got more."
        )
    try:
        data = base64.b64decode(image, validate=True)
    except ValueError:
        raise ValueError(f"images[{number}] is no base64.") from None
    try:
        picture = utkface.open_picture(data, formats=IMAGE_FORMATS, most_pixels=MOST_IMAGE_PIXELS)
    except utkface.Rejection as error:
        raise ValueError(f"images[{number}]: {error}.") from error
    size = (FACE_PIXELS, FACE_PIXELS)
    return np.asarray(PIL.ImageOps.fit(picture, size, PIL.Image.Resampling.BILINEAR))


def estimates(models: dict[str, estimate.Model], faces: np.ndarray) -> dict[str, dict | list]:
    """Return the answer of /predict for faces, uint8 RGB (N, 128, 128, 3)."""
    tables = [
        estimate.estimate_faces(model, faces).assign(model=name).to_dict("records")
        for name, model in models.items()
    ]
    titles = {name: model.title for name, model in models.items()}
    return {"models": titles, "answers": list(zip(*tables, strict=True))}


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
