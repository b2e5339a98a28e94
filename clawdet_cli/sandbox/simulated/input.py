"""The input file of a phase, refused for the same reasons as by the script of a real server."""

import re
from collections.abc import Mapping

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
HOST = re.compile(rf"(?=.{{1,253}}\Z)({_LABEL}\.)+[a-z]([a-z0-9-]{{0,61}}[a-z0-9])")
_URL = r"(https?|file)://[^\s\"\\\x00-\x1f\x7f]{1,2000}"
_TITLE = r"(?=.*\S)[^\x00-\x1f\x7f]{1,100}"
_DIGEST = "[0-9a-f]{64}"
_NUMBERS = r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}"
_API_KEY = "[A-Za-z0-9._~+/=:@-]{8,1000}"

_REQUIRED: Mapping[str, Mapping[str, str]] = {
    "prepare": {
        "openclaw_version": r"20[0-9]{2}\.[0-9]{1,2}\.[0-9]{1,3}(-[a-z0-9.]{1,20})?",
        "node_version": _NUMBERS,
        "node_url": _URL,
        "node_archive_sha256": _DIGEST,
        "node_executable_sha256": _DIGEST,
        "caddy_version": _NUMBERS,
        "caddy_url": _URL,
        "caddy_executable_sha256": _DIGEST,
        "lock_sha256": _DIGEST,
    },
    "configure": {"host": HOST.pattern, "user": _TITLE, "certificate_base64": "(?=.{1,60000}$)[A-Za-z0-9+/]+={0,2}"},
}
_OPTIONAL: Mapping[str, Mapping[str, str]] = {
    "prepare": {
        "caddy_archive_sha256": _DIGEST,
        "caddy_archive_sha512": "[0-9a-f]{128}",
        "npm_registry": _URL,
        "lock_within": "[0-9]{1,4}",
        "bundle_url": _URL,
        "bundle_sha256": _DIGEST,
        "pool": "yes",
    },
    "configure": {
        "model": r"([A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._:@-]*)+)?",
        "landing_title": _TITLE,
        "origin_pull_ca_base64": "(?=.{1,60000}$)[A-Za-z0-9+/]+={0,2}",
        **{f"key_{provider}_API_KEY": _API_KEY for provider in ("ANTHROPIC", "OPENAI", "XAI", "OPENROUTER")},
    },
}


class ScriptError(Exception):
    """The script ends here: with a reason, and an exit code."""

    def __init__(self, reason: str, code: int = 1, out: str = "") -> None:
        super().__init__(reason)
        self.out = out
        self.reason = reason
        self.code = code


def read_input(verb: str, content: bytes | None) -> dict[str, str]:
    """Return the values; raise ScriptError with code 2 for anything that is not as it must be."""
    if content is None:
        raise ScriptError("the input file is missing or not a regular file", 2)
    shapes = {**_REQUIRED[verb], **_OPTIONAL[verb]}
    values: dict[str, str] = {}
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        if not line or line.startswith("#"):
            continue
        key, separator, value = line.partition("=")
        if not separator:
            raise ScriptError("input: a line is not key=value", 2)
        if key not in shapes:
            raise ScriptError(f"input: unknown key {re.sub('[^A-Za-z0-9_.-]', '?', key)}", 2)
        if key in values:
            raise ScriptError(f"input: {key} is given twice", 2)
        if not re.fullmatch(shapes[key], value):
            raise ScriptError(f"input: the value of {key} is malformed", 2)
        values[key] = value
    for key in _REQUIRED[verb]:
        if key not in values:
            raise ScriptError(f"input: {key} is missing", 2)
    return values
