"""What may be said of the servers that are made, by the commands that make any."""

from typing import Annotated

import typer

from clawdet_cli.cli.options import SERVER

ServerType = Annotated[
    str | None,
    typer.Option(
        "--server-type",
        metavar="TYPES",
        help="Hetzner types in the order to try. Default: $CLAWDET_SERVER_TYPE or cpx22,cx23,cx33.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
Location = Annotated[
    str | None,
    typer.Option(
        "--location",
        metavar="PLACES",
        help="Hetzner locations in the order to try. Default: $CLAWDET_LOCATION or nbg1,fsn1,hel1.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
Image = Annotated[
    str | None,
    typer.Option(
        "--image",
        metavar="IMAGE",
        help="System image. Default: $CLAWDET_IMAGE or ubuntu-24.04.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
OpenclawVersion = Annotated[
    str | None,
    typer.Option(
        "--openclaw-version",
        metavar="VERSION",
        help="Default: $CLAWDET_OPENCLAW_VERSION or the newest tested one.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
Bundle = Annotated[
    str | None,
    typer.Option(
        "--bundle",
        metavar="FILE|URL",
        help="Install from a prepared bundle: a file, https://... with its manifest beside it, or"
        " URL#sha256=DIGEST; 'none' is npm. Default: $CLAWDET_BUNDLE, else npm.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]
PoolDays = Annotated[
    float | None,
    typer.Option(
        "--pool-days",
        metavar="DAYS",
        min=0,
        max=365,
        help="How many days ago a server that waits in the pool may have been prepared to be taken; 0 takes none."
        " Default: $CLAWDET_POOL_DAYS or 7.",
        show_default=False,
        rich_help_panel=SERVER,
    ),
]


Flags = dict[str, str | float | None]
