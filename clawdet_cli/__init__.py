"""clawdet: one command gives a user a personal OpenClaw server."""

__version__ = "0.1.0"

USER_AGENT = f"clawdet/{__version__} (+https://github.com/clawdet/clawdet)"
"""How clawdet introduces itself: Cloudflare refuses who does not, and an operator finds it in the logs."""
