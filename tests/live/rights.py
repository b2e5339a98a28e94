"""The requests by which `clawdet doctor` judges a token: they change nothing, whatever the answer."""

from tests.live.run import Run
from tests.live.zone import NO_SETTING

NOBODYS_ID = "0" * 32


def look(run: Run) -> None:
    """Try each of them with the token of README."""
    zone, call, judge = f"/zones/{run.zone_id}", run.cloudflare.call, run.verdicts.judge
    with run.step("the probes of clawdet doctor"):
        record = call("DELETE", f"{zone}/dns_records/{NOBODYS_ID}", "probe-dns-edit")
        judge("cloudflare.record-unknown", record.status == 404 and 81044 in record.codes, record.said)
        order = {"csr": "none", "hostnames": [run.place.zone], "request_type": "origin-ecc", "requested_validity": 7}
        signing = call("POST", "/certificates", "probe-ssl-edit", body=order)
        judge(
            "cloudflare.certificate-unparsable-request", signing.status >= 400 and 1011 in signing.codes, signing.said
        )
        editing = call("PATCH", f"{zone}/settings/{NO_SETTING}", "probe-settings-edit", body={"value": "on"})
        judge(
            "cloudflare.settings-edit-missing",
            editing.status == 403 or (editing.status == 400 and 1006 in editing.codes),
            editing.said,
        )
        tokens = call("GET", "/user/tokens?per_page=5")  # not recorded: with the right it lists the owner's tokens
        if tokens.status == 200:
            run.verdicts.not_tried("cloudflare.tokens-read-missing", "the token has API Tokens Read")
        else:
            judge("cloudflare.tokens-read-missing", tokens.status == 403, tokens.said)
