"""MLflow's model server behind a door.

By itself it reads a body of any size into memory, gives CSV and Parquet to their parsers, and
answers 500 where the content type is missing, JSON is nested too deep or a number is too long.
"""

import uvicorn
from fastapi.responses import JSONResponse
from mlflow.pyfunc import PyFuncModel, scoring_server

MOST_BODY_BYTES = 32 * 2**20
MOST_CONNECTIONS = 32  # More of them get 503: bodies of 1 GiB in memory at the most.


def serve(model: PyFuncModel, port: int) -> None:
    """Serve on this machine's loopback address until interrupted; SystemExit where it cannot."""
    uvicorn.run(
        application(model),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        limit_concurrency=MOST_CONNECTIONS,
    )


def application(model: PyFuncModel):
    """Return the ASGI application: MLflow's POST /invocations, GET /ping and /version.

    What comes and is no good gets 413 (a body over the limit), 415 (no JSON by its content type) or
    400, with the reason in JSON.
    """
    app = scoring_server.init(model)

    async def refuse(request, error):
        return _refusal(400, f'Expected JSON, {{"inputs": [base64, ...]}}: {error}.')

    # What json.loads raises and MLflow lets pass.
    for kind in (RecursionError, ValueError):
        app.add_exception_handler(kind, refuse)

    async def door(scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST":
            return await app(scope, receive, send)
        body, size_bytes, more = bytearray(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            part, more = message.get("body", b""), message.get("more_body", False)
            size_bytes += len(part)
            # Read to its end, or the client might miss the answer, but kept no further.
            if size_bytes <= MOST_BODY_BYTES:
                body += part
        content_type = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
        if size_bytes > MOST_BODY_BYTES:
            refusal = _refusal(413, f"Expected at most {MOST_BODY_BYTES:,} bytes; got more.")
        elif content_type.partition(";")[0].strip() != "application/json":
            refusal = _refusal(415, f"Expected application/json; got {content_type!r}.")
        else:
            messages = [{"type": "http.request", "body": bytes(body)}]

            async def receive_again():
                return messages.pop() if messages else await receive()

            return await app(scope, receive_again, send)
        await refusal(scope, receive, send)

    return door


def _refusal(status: int, reason: str) -> JSONResponse:
    """Return an answer in the form of MLflow's own."""
    return JSONResponse({"error_code": "BAD_REQUEST", "message": reason}, status)
