"""Keeps pydantic away from commands that do not need it: its import takes longer than all else that `status` does."""

from collections.abc import Iterable
from typing import Any


class _Postponed:
    """Stands in for Typer's own conversion of a parameter, and calls on that only for what is not text."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert a value as Typer does."""
        if value is None:
            return () if param.nargs == -1 else None
        if param.type_descriptor.annotation in {str, list[str]}:
            return value
        param._runtime_param = None  # noqa: SLF001 - Typer offers no public way; without it, it only gets slower
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def postpone(parameters: Iterable[Any]) -> None:
    """Make these parameters of Typer's convert text themselves."""
    for parameter in parameters:
        if hasattr(parameter, "_runtime_param"):
            parameter._runtime_param = _Postponed()  # noqa: SLF001 - see above
