"""Images: the vendor's and the project's snapshots. Of a snapshot only the metadata exists."""

from starlette.responses import Response

from clawdet_cli.sandbox.hetzner.actions import Effect, Run
from clawdet_cli.sandbox.hetzner.call import Call, Route, created, gone, ok
from clawdet_cli.sandbox.hetzner.catalog import IMAGES, Record, by_id_or_name
from clawdet_cli.sandbox.hetzner.errors import invalid, invalid_field, not_found, protected
from clawdet_cli.sandbox.hetzner.state import Project
from clawdet_cli.sandbox.hetzner.validation import check_labels

_SNAPSHOT_GB = 1.9  # a size seen for a fresh system; nothing is copied that could be measured


def render(image: Record) -> Record:
    """Return an image as the API shows it."""
    return {name: value for name, value in image.items() if not name.startswith("_")}


def find(project: Project, wanted: str | int, architecture: str) -> Record | None:
    """Return the image of that id, or the system image of that name for the architecture."""
    if snapshot := project.find("image", wanted):
        return snapshot
    if str(wanted).isdecimal():
        return by_id_or_name(IMAGES, wanted)
    return by_id_or_name(tuple(image for image in IMAGES if image["architecture"] == architecture), wanted)


def create_snapshot(call: Call, server: Record, server_type: Record) -> Response:
    """Answer POST /servers/{id}/actions/create_image."""
    body = call.body({"type": "string", "description": "string", "labels": "object"})
    check_labels(body.get("labels", {}))
    kind = body.get("type", "snapshot")
    if kind not in ("snapshot", "backup"):
        raise invalid_field("type", "Must be one of: snapshot, backup.")
    if kind == "backup":
        raise invalid("backups are not enabled for the server")
    origin = server["_image"]
    image: Record = {
        **render(origin),
        "id": call.cloud.new_id("image"),
        "type": "snapshot",
        "status": "creating",
        "name": None,
        "description": body.get("description", server["name"]),
        "image_size": None,
        "disk_size": server_type["disk"],
        "created": call.cloud.now_text(),
        "created_from": {"id": server["id"], "name": server["name"]},
        "rapid_deploy": False,
        "protection": {"delete": False},
        "labels": body.get("labels", {}),
        "_system_image": origin.get("_system_image", origin["name"]),
    }
    call.project.add("image", image)
    action = call.begin("create_image", ("server", server["id"]), ("image", image["id"]))
    return created(image=render(image), action=action)


async def _created(run: Run) -> None:
    image = run.project.get("image", run.resource("image"))
    try:
        await run.pause()
    except Exception:
        run.project.remove("image", image["id"])
        raise
    image.update(status="available", image_size=_SNAPSHOT_GB)


def _list(call: Call) -> Response:
    images = [*IMAGES, *call.project.all("image")]
    if call.query.get("include_deprecated", "false") != "true":
        images = [image for image in images if image["deprecated"] is None]
    return call.page("images", images, render, ("type", "status", "name", "architecture", "bound_to"))


def _image(call: Call) -> Record:
    image = call.project.find("image", call.ids[0]) or by_id_or_name(IMAGES, call.ids[0])
    if image is None:
        raise not_found("image", call.ids[0])
    return image


def _snapshot(call: Call) -> Record:
    image = _image(call)
    if image["type"] == "system":
        raise invalid("system images cannot be changed")
    return image


def _get(call: Call) -> Response:
    return ok(image=render(_image(call)))


def _update(call: Call) -> Response:
    image = _snapshot(call)
    body = call.body({"description": "string", "labels": "object", "type": "string"})
    check_labels(body.get("labels", {}))
    if body.get("type", "snapshot") != "snapshot":
        raise invalid_field("type", "Must be one of: snapshot.")
    image.update(body)
    return ok(image=render(image))


def _delete(call: Call) -> Response:
    image = _snapshot(call)
    if image["protection"]["delete"]:
        raise protected("snapshot")
    call.actions.check_unlocked(call.project, "image", image["id"])
    call.project.remove("image", image["id"])
    return gone()


def _change_protection(call: Call) -> Response:
    image = _snapshot(call)
    image["protection"].update(call.body({"delete": "boolean"}))
    return created(action=call.begin("change_protection", ("image", image["id"])))


ROUTES = (
    Route("GET", "/images", _list),
    Route("GET", "/images/{id}", _get),
    Route("PUT", "/images/{id}", _update),
    Route("DELETE", "/images/{id}", _delete),
    Route("POST", "/images/{id}/actions/change_protection", _change_protection),
)
EFFECTS: dict[str, Effect] = {"create_image": _created}
