"""One application: a page for people, JSON for programs; README.md describes both.

POST /predict and GET /health are for programs. GET / is page.html, GET /about returns the models
and examples, and POST /answer?model=B takes a photo's bytes and returns what `answer` does.

A request that cannot be answered in full gets 400, 403 (unknown host or origin), 413 (too large) or
415 (wrong content type) with {"error": REASON}.
"""

import asyncio
import base64
import functools
import hashlib
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import fastapi
import numpy as np
import pandas as pd
import PIL.Image
import pydantic
from fastapi import concurrency
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.requests import ClientDisconnect

from agegender.data import generated_faces, utkface
from agegender.photos import detection, estimate, output

# Another site can point its name at this machine (DNS rebinding); its requests carry that name.
HOSTS = ("127.0.0.1", "localhost")
MOST_BODY_BYTES = 32 * 2**20  # of a POST to /predict
# Seeds of drawn faces that the detector finds.
EXAMPLES = ((13,), (16,), (13, 16, 19))
HEADERS = {
    "Cache-Control": "no-store",  # Or the browser would keep photos that nothing else keeps.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# What the page says about an unreadable photo.
NO_PICTURE = "This is not a picture. Try JPEG, PNG or HEIC."
REASONS = {
    utkface.Reason.EMPTY: "This file is empty.",
    utkface.Reason.NOT_AN_IMAGE: NO_PICTURE,
    utkface.Reason.WRONG_CONTENT: NO_PICTURE,
    utkface.Reason.DAMAGED: "This picture is damaged or cut short. Try another copy.",
    utkface.Reason.TOO_LARGE: "Too large: {}.",
}
# For each face and model; README.md describes them.
FIELDS = ["face", "box", "age", "age_low", "age_high", "gender", "probability", "sure", "doubtful"]
FIELDS += ["model"]


class Request(pydantic.BaseModel, extra="forbid", frozen=True, strict=True):
    """The JSON of a POST to /predict."""

    images: list[str] = pydantic.Field(min_length=1, max_length=64)  # photos in base64
    crop: bool = True  # If false, each photo is one face, aligned and cropped as in UTKFace.
    model: str | None = None  # A, B or AB; by default B, if available


def application(
    detector: detection.Detector,
    models: dict[str, estimate.Model],
    hosts: Collection[str] = HOSTS,
    token: str = "",
) -> fastapi.FastAPI:
    """Return the ASGI application; it answers one request at a time and writes nothing to disk.

    hosts: the host names that requests may use. token: if given, the first part of each path.
    """
    page = Path(__file__).with_name("page.html").read_text()
    headers = HEADERS | {"Content-Security-Policy": _policy(page)}
    about = {
        "most_bytes": estimate.MOST_BYTES,
        "examples": [base64.b64encode(_example(seeds)).decode() for seeds in EXAMPLES],
        "models": {
            name: {"title": model.title, "coverage": model.intervals["coverage"]}
            for name, model in models.items()
        },
    }
    app = fastapi.FastAPI(openapi_url=None)
    for kind in (ClientDisconnect, ValueError):
        app.add_exception_handler(kind, _refuse)
    app.middleware("http")(functools.partial(_guard, headers, hosts))
    routes = fastapi.APIRouter(prefix=f"/{token}" if token else "")
    turn = asyncio.Lock()  # A large photo takes 600 MB while it is decoded.

    routes.add_api_route("/health", lambda: {"status": "ok"})
    routes.add_api_route("/", lambda: HTMLResponse(page))
    routes.add_api_route("/about", lambda: about)

    @routes.post("/predict")
    async def predict(request: fastapi.Request):
        content_type = request.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            return _refusal(415, "Expected the content type application/json.")
        body = await _read(request, MOST_BODY_BYTES)
        async with turn:
            return await concurrency.run_in_threadpool(_predictions, detector, models, body)

    @routes.post("/answer")
    async def look(request: fastapi.Request, model: str | None = None):
        data, chosen = await _read(request, estimate.MOST_BYTES), _chosen(models, model)
        async with turn:
            return await concurrency.run_in_threadpool(answer, detector, chosen, data)

    app.include_router(routes)
    return app


async def _guard(
    headers: dict[str, str], hosts: Collection[str], request: fastapi.Request, call_next
):
    """Answer requests from this machine's own pages and programs; refuse other sites'."""
    host = request.headers.get("host", "")
    if host.partition(":")[0] not in hosts:
        response = _refusal(403, f"Expected the host {' or '.join(hosts)}.")
    elif request.headers.get("origin", f"http://{host}") != f"http://{host}":
        response = _refusal(403, f"Expected the origin http://{host}.")
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


def _chosen(models: dict[str, estimate.Model], name: str | None) -> dict[str, estimate.Model]:
    """Return the models that A, B or AB names, by default B if available, else ValueError."""
    names = list(dict.fromkeys([*models, "".join(models)]))
    if name is None:
        name = "B" if "B" in models else names[0]
    if name not in names:
        raise ValueError(f"Expected the model {' or '.join(names)}.")
    return {family: model for family, model in models.items() if family in name}


def _read_request(body: bytes) -> Request:
    """Check the JSON of a POST to /predict; ValueError with the reason if it is invalid."""
    try:
        return Request.model_validate(json.loads(body, object_pairs_hook=_object))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "JSON"
        raise ValueError(f"{place:.50}: {first['msg']}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f'Expected JSON, {{"images": [base64, ...]}}: {error}.') from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):  # One of the two values would be ignored.
        raise ValueError("a key occurs twice in one object")
    return dict(pairs)


def _photos(images: list[str]) -> Iterator[PIL.Image.Image]:
    """Yield one decoded photo at a time; ValueError with its number if one is invalid."""
    for number, image in enumerate(images):
        try:
            yield estimate.open_photo(base64.b64decode(image, validate=True))
        except utkface.Rejection as error:
            raise ValueError(f"images.{number}: {error}.") from error
        except ValueError:
            raise ValueError(f"images.{number} is not base64.") from None


def _predictions(
    detector: detection.Detector, models: dict[str, estimate.Model], body: bytes
) -> dict[str, list[list[dict]]]:
    """Return the answer to a POST to /predict; ValueError with the reason if it is invalid."""
    asked = _read_request(body)
    chosen = _chosen(models, asked.model)
    tables = estimate.answer(detector if asked.crop else None, chosen, _photos(asked.images))
    return {"answers": [_faces(chosen, table) for table in tables]}


def _faces(models: dict[str, estimate.Model], table: pd.DataFrame) -> list[dict]:
    """Return FIELDS of each row of a table of `estimate.answer`."""
    boxes = table[["left", "top", "right", "bottom"]].to_numpy().tolist()
    titles = [models[name].title for name in table["model"]]
    renamed = table.rename(
        columns={"age_years": "age", "gender_probability": "probability", "gender_sure": "sure"}
    )
    return renamed.assign(box=boxes, model=titles)[FIELDS].to_dict("records")


def answer(
    detector: detection.Detector, models: dict[str, estimate.Model], data: bytes
) -> dict[str, str | int | list[dict]]:
    """Return what the page shows for a photo's bytes; raises utkface.Rejection with the reason.

    picture, marked: the photo without and with its faces marked, both JPEGs in base64 of at most
    1,600 pixels per side. width, height: the photo's own, in pixels; boxes refer to these. rows:
    FIELDS for each face and model, plus family, "A" or "B", and gender_text.
    """
    photo = estimate.open_photo(data)
    (table,) = estimate.answer(detector, models, [photo])
    pictures = [output.encoded(output.annotate(photo, rows)) for rows in (table[:0], table)]
    picture, marked = (base64.b64encode(picture).decode() for picture in pictures)
    rows = [
        face | {"family": row.model, "gender_text": output.gender_text(row)}
        for face, row in zip(_faces(models, table), table.itertuples(), strict=True)
    ]
    size = {"width": photo.width, "height": photo.height}
    return {"picture": picture, "marked": marked, **size, "rows": rows}


def _example(seeds: Collection[int]) -> bytes:
    """Return a small JPEG photo of drawn faces."""
    photo = PIL.Image.new("RGB", (210 * len(seeds), 210), (120, 125, 130))
    for number, seed in enumerate(seeds):
        generator = np.random.default_rng(seed)
        face = generated_faces.draw_face(5 + 2 * seed, seed % 2, seed % 5, generator, 192)
        photo.paste(PIL.Image.fromarray(face), (210 * number + 9, 9))
    return output.encoded(photo)


def _refusal(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status)


async def _refuse(request: fastapi.Request, error: Exception) -> JSONResponse:
    if isinstance(error, ClientDisconnect):
        return _refusal(400, "The request is incomplete.")
    if not isinstance(error, utkface.Rejection):
        return _refusal(400, str(error))
    reason = REASONS.get(error.reason, f"This picture cannot be read: {error}.")
    status = 413 if error.reason == utkface.Reason.TOO_LARGE else 415
    return _refusal(status, reason.format(error.detail))


def _policy(page: str) -> str:
    """Return a Content-Security-Policy that allows no script or style but the page's own."""
    sources = " ".join(
        f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}';"
        for tag, text in re.findall(r"<(script|style)>(.*?)</\1>", page, re.DOTALL)
    )
    return (
        f"default-src 'none'; {sources} img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
