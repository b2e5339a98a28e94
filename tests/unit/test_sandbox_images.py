import dataclasses

import pytest

from clawdet_cli.sandbox.errors import SandboxError
from clawdet_cli.sandbox.real import images
from clawdet_cli.sandbox.real.recipe import Recipe
from clawdet_cli.sandbox.real.ubuntu_like import UbuntuLikeRecipe

RECIPE = Recipe(suite="trixie", sources=(), apt_settings=(), certificates=(), npm_settings=())


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "bookworm"},
        {"sources": ("deb http://mirror.example trixie main",)},
        {"certificates": (("a.crt", "PEM"),)},
        {"npm_settings": ("cafile=/etc/ssl/certs/ca-certificates.crt",)},
        {"cloud_config": "disable_root: true\n"},
        {"slow_timers": ()},
        {"revision": 99},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_goes_into_an_image_names_it(change: dict[str, object]) -> None:
    # A cached image that lacks what the recipe asks for would be used for ever.
    assert dataclasses.replace(RECIPE, **change).digest != RECIPE.digest  # type: ignore[arg-type]  # one field at a time
    assert dataclasses.replace(RECIPE).digest == RECIPE.digest


def test_what_is_made_like_ubuntu_has_an_image_of_its_own() -> None:
    like_ubuntu = UbuntuLikeRecipe(**dataclasses.asdict(RECIPE))
    assert len({RECIPE.digest, like_ubuntu.digest, dataclasses.replace(like_ubuntu, timers="").digest}) == 3


def test_an_unknown_guest_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SandboxError, match="buster") as refused:
        images.recipe("buster")
    assert "debian12, debian13, ubuntu-like" in refused.value.next_step
