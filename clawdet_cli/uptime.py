"""A clock that no hand sets: how long this machine has been up, the same for all of its processes."""

import time
from functools import cache
from pathlib import Path


@cache
def boot() -> str:
    """Tell this boot of this machine from others; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def seconds() -> float:
    """Give the seconds since this boot, those in which the machine slept included where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
