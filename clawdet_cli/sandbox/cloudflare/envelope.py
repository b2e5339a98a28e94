"""The envelope of every Cloudflare v4 answer, failures included."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from clawdet_cli.sandbox.request_body import BodyTooLargeError, read_json


class ApiError(Exception):
    """A refusal in the vendor's shape."""

    def __init__(self, status: int, code: int, message: str, *, chain: tuple[int, str] | None = None) -> None:
        super().__init__(f"{code} {message}")
        self.status = status
        self.errors: list[dict[str, Any]] = [{"code": code, "message": message}]
        if chain is not None:
            self.errors[0]["error_chain"] = [{"code": chain[0], "message": chain[1]}]
        self.headers: dict[str, str] = {}


def validation_error(code: int, message: str) -> ApiError:
    """Return the older of the two forms in which DNS validation errors occur: 1004 around the reason."""
    return ApiError(400, 1004, "DNS Validation Error", chain=(code, message))


def no_route(path: str) -> ApiError:
    """Return the answer to a path, or an identifier in it, that leads nowhere."""
    error = ApiError(400, 7003, f"Could not route to {path}, perhaps your object identifier is invalid?")
    error.errors.append({"code": 7000, "message": "No route for that URI"})
    return error


def success(
    result: Any,  # any JSON
    *,
    info: dict[str, int] | None = None,
    messages: list[dict[str, Any]] | None = None,
) -> JSONResponse:
    """Wrap a result."""
    body = {"result": result, "success": True, "errors": [], "messages": messages or []}
    return JSONResponse(body if info is None else body | {"result_info": info})


def failure(error: ApiError) -> JSONResponse:
    """Wrap a refusal."""
    body = {"result": None, "success": False, "errors": error.errors, "messages": []}
    return JSONResponse(body, status_code=error.status, headers=error.headers)


def page_of(
    request: Request, rows: list[dict[str, Any]], *, default: int, largest: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return one page and its `result_info`; a page past the end is empty, which is how SDK iterators stop.

    The specification has least and largest sizes of pages, of 5 and 50 for zones. The API is not that strict: certbot
    asks for 1 zone and lexicon for 100. That it then gives no more than the largest is a guess.
    """
    page = _number(request, "page", 1)
    per_page = min(_number(request, "per_page", default), largest)
    part = rows[(page - 1) * per_page : page * per_page]
    return part, {
        "page": page,
        "per_page": per_page,
        "count": len(part),
        "total_count": len(rows),
        "total_pages": -(-len(rows) // per_page),
    }


async def json_body(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request."""
    try:
        body = await read_json(request)
    except BodyTooLargeError:
        raise ApiError(413, 9207, "Request body is too large.") from None  # number and wording are guesses
    except ValueError:
        raise ApiError(400, 6007, "Malformed JSON in request body") from None
    if not isinstance(body, dict):
        raise ApiError(400, 9207, "Request body is invalid.")
    return body


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    try:
        number = default if text is None else int(float(text))  # the SDK types pages as float
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise ApiError(400, 1001, f"Invalid value for {name}")  # number and wording are guesses
    return number
