"""What can go wrong while a sandbox is brought up, and what to do about it."""


class SandboxError(Exception):
    """Say what happened, and in `next_step` what to do."""

    def __init__(self, what: str, next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step
