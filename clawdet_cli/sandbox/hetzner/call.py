"""One request on its way to the function that answers it."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import URL, QueryParams
from starlette.responses import JSONResponse, Response

from clawdet_cli.sandbox.hetzner.actions import Actions, render_action
from clawdet_cli.sandbox.hetzner.catalog import Record
from clawdet_cli.sandbox.hetzner.listing import list_page
from clawdet_cli.sandbox.hetzner.state import Cloud, Project
from clawdet_cli.sandbox.hetzner.validation import Fields, check_fields, parse_body


@dataclass(frozen=True)
class Call:
    """An authorised request."""

    project: Project
    actions: Actions
    ids: tuple[int, ...]  # the numbers in the path
    query: QueryParams
    raw_body: bytes
    url: URL

    @property
    def cloud(self) -> Cloud:
        """The account."""
        return self.project.cloud

    def body(self, fields: Fields) -> dict[str, Any]:
        """Return the checked body."""
        return check_fields(parse_body(self.raw_body), fields)

    def resource(self, kind: str) -> Record:
        """Return the resource that the path names."""
        return self.project.get(kind, self.ids[0])

    def begin(self, command: str, *resources: tuple[str, int], args: Record | None = None) -> Record:
        """Start an action and return it as the API shows it."""
        return render_action(self.actions.begin(self.project, command, list(resources), args=args))

    def page(
        self,
        key: str,
        records: Iterable[Record],
        render: Callable[[Record], Record],
        filters: Iterable[str] = (),
        sortable: Iterable[str] = ("id", "name", "created"),
        *,
        labelled: bool = True,
    ) -> Response:
        """Answer with the page of the list that the query asks for."""
        body, headers = list_page(
            key, records, render, self.query, self.url, filters=filters, sortable=sortable, labelled=labelled
        )
        return JSONResponse(body, headers=headers)


class Route:
    """A method and a path; `{id}` stands for a number."""

    def __init__(self, method: str, path: str, answer: Callable[[Call], Response]) -> None:
        self.method = method
        self.answer = answer
        self.pattern = re.compile(path.replace("{id}", "([0-9]{1,19})"))


def ok(**content: Any) -> Response:
    """200."""
    return JSONResponse(content)


def created(**content: Any) -> Response:
    """201, which the API also gives for actions."""
    return JSONResponse(content, 201)


def gone() -> Response:
    """204."""
    return Response(status_code=204)
