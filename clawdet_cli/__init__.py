"""clawdet: one command gives a user a personal OpenClaw server."""

__version__ = "0.1.0"
