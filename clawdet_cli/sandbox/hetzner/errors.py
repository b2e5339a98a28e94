"""The error answers of the Hetzner Cloud API."""

from typing import Any

from starlette.responses import JSONResponse


class ApiError(Exception):
    """A request ends in `{"error": {code, message, details}}`."""

    def __init__(self, status: int, code: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details

    def response(self) -> JSONResponse:
        """Build the HTTP answer."""
        error = {"code": self.code, "message": self.message, "details": self.details}
        return JSONResponse({"error": error}, self.status)


def not_found(kind: str, wanted: object) -> ApiError:
    """404 for an id in the path."""
    return ApiError(404, "not_found", f"{kind.replace('_', ' ')} with ID '{wanted}' not found")


def invalid(message: str) -> ApiError:
    """422 about the request as a whole."""
    return ApiError(422, "invalid_input", message)


def invalid_fields(problems: dict[str, list[str]]) -> ApiError:
    """422 about single fields."""
    names = ", ".join(f"'{name}'" for name in problems)
    plural = "s" if len(problems) > 1 else ""
    details = {"fields": [{"name": name, "messages": messages} for name, messages in problems.items()]}
    return ApiError(422, "invalid_input", f"invalid input in field{plural} {names}", details)


def invalid_field(name: str, message: str) -> ApiError:
    """422 about one field."""
    return invalid_fields({name: [message]})


def taken(message: str, field: str | None = None) -> ApiError:
    """409 for what must be unique."""
    return ApiError(409, "uniqueness_error", message, {"fields": [{"name": field}]} if field else {})


def limit_exceeded(message: str, limit: str) -> ApiError:
    """403 for what the account may not have more of."""
    return ApiError(403, "resource_limit_exceeded", message, {"limits": [{"name": limit}]})


def locked(kind: str) -> ApiError:
    """423 while an action runs."""
    return ApiError(423, "locked", f"cannot perform operation because {kind} is locked")


def protected(kind: str, what: str = "deletion") -> ApiError:
    """423 for what is protected against it."""
    return ApiError(423, "protected", f"{kind} {what} is protected")
