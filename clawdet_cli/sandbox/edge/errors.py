"""The numbers with which the edge says what went wrong on the way to an origin, or why it turns a visitor away."""

TEXTS = {
    1000: "DNS points to prohibited IP",
    1001: "DNS resolution error",
    1003: "direct access by IP address is not allowed",
    1010: "the owner of this website has banned your access based on your browser's signature",
    1016: "origin DNS error",
    1020: "access denied by a rule of the website",
    520: "the origin's answer was empty or no HTTP",
    521: "the origin refused the connection",
    522: "the origin did not take the connection in time",
    523: "the origin cannot be reached",
    524: "the origin took the request and did not answer in time",
    525: "the TLS handshake with the origin failed",
    526: "the origin's certificate is not valid",
}


class EdgeError(Exception):
    """A request that ends at the edge; `code` is the number shown, which the 1xxx ones do not share with the status."""

    def __init__(self, status: int, code: int | None = None) -> None:
        self.status = status
        self.code = status if code is None else code
        super().__init__(f"error {self.code}: {TEXTS[self.code]}")

    def page(self, host: str, *, html: bool) -> bytes:
        """Return the page for programs, or the one for browsers; the numbers are the part to rely on."""
        if not html:
            return f"error code: {self.code}".encode()
        return (
            f"<!DOCTYPE html>\n<html><head><title>{host} | {self.code}: {TEXTS[self.code]}</title></head>\n"
            f'<body><div id="cf-wrapper"><div id="cf-error-details"><h1>Error {self.code}</h1>'
            f"<p>{TEXTS[self.code]}</p></div></div></body></html>\n"
        ).encode()
