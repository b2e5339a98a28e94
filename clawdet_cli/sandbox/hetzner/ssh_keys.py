"""SSH keys of a project."""

import base64
import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from starlette.responses import Response

from clawdet_cli.sandbox.hetzner.call import Call, Route, created, gone, ok
from clawdet_cli.sandbox.hetzner.errors import invalid_field, taken
from clawdet_cli.sandbox.hetzner.validation import check_labels, check_name


def fingerprint(public_key: str) -> str:
    """Return the MD5 fingerprint in colon hex; raise ValueError for what is no OpenSSH public key."""
    try:
        load_ssh_public_key(public_key.encode())
    except UnsupportedAlgorithm as exc:
        raise ValueError("unsupported key type") from exc
    digest = hashlib.md5(base64.b64decode(public_key.split()[1]), usedforsecurity=False).hexdigest()
    return ":".join(digest[start : start + 2] for start in range(0, len(digest), 2))


def _create(call: Call) -> Response:
    body = call.body({"name": "*string", "public_key": "*string", "labels": "object"})
    check_name(body["name"])
    check_labels(body.get("labels", {}))
    public_key = body["public_key"].strip()
    try:
        md5 = fingerprint(public_key)
    except ValueError:
        raise invalid_field("public_key", "public_key is not a valid SSH public key") from None
    for key in call.project.all("ssh_key"):
        if key["fingerprint"] == md5:
            raise taken("SSH key not unique", "public_key")
        if key["name"] == body["name"]:
            raise taken("SSH key not unique", "name")
    record = {
        "id": call.cloud.new_id("ssh_key"),
        "name": body["name"],
        "fingerprint": md5,
        "public_key": public_key,
        "labels": body.get("labels", {}),
        "created": call.cloud.now_text(),
    }
    return created(ssh_key=call.project.add("ssh_key", record))


def _list(call: Call) -> Response:
    return call.page("ssh_keys", call.project.all("ssh_key"), dict, ("name", "fingerprint"))


def _get(call: Call) -> Response:
    return ok(ssh_key=call.resource("ssh_key"))


def _update(call: Call) -> Response:
    key = call.resource("ssh_key")
    body = call.body({"name": "string", "labels": "object"})
    check_labels(body.get("labels", {}))
    if body.get("name", key["name"]) != key["name"]:
        check_name(body["name"])
        if any(other["name"] == body["name"] for other in call.project.all("ssh_key")):
            raise taken("SSH key not unique", "name")
    key.update(body)
    return ok(ssh_key=key)


def _delete(call: Call) -> Response:
    call.project.remove("ssh_key", call.resource("ssh_key")["id"])
    return gone()


ROUTES = (
    Route("POST", "/ssh_keys", _create),
    Route("GET", "/ssh_keys", _list),
    Route("GET", "/ssh_keys/{id}", _get),
    Route("PUT", "/ssh_keys/{id}", _update),
    Route("DELETE", "/ssh_keys/{id}", _delete),
)
