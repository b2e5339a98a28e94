"""What an answer of Cloudflare's tells of its limit of requests."""

import pytest

from clawdet_cli.adapters.cloudflare_limits import Window, window


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, None),
        ({"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=1200;w=300'}, Window("1200", "50", 31)),
        ({"ratelimit": '"default";r=50;t=30'}, Window("1200", "50", 31)),
        ({"ratelimit": '"default"; r=50; t=30', "ratelimit-policy": '"burst";q=100;w=60'}, Window("1200", "50", 31)),
        (
            {
                "ratelimit": '"default";r=900;t=280, "burst";r=3;t=7',
                "ratelimit-policy": '"default";q=1200;w=300, "burst";q=100;w=60',
            },
            Window("100", "3", 8),
        ),
        ({"ratelimit": '"default";r=5'}, Window("1200", "5", 300)),
        ({"ratelimit": '"default";r=5;t=99999'}, Window("1200", "5", 300)),
        ({"ratelimit": "default;r=5", "x-ratelimit-limit": "7", "x-ratelimit-remaining": "2"}, Window("7", "2", 300)),
        ({"ratelimit": '"default";t=5'}, None),
    ],
)
def test_the_limit_that_is_closest_to_its_end_is_told(headers: dict[str, str], told: Window | None) -> None:
    assert window(headers) == told
