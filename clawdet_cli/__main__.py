"""`python -m clawdet_cli` and the console script `clawdet`: control goes to `clawdet_cli.cli`."""


def main() -> None:
    """Run the command line."""
    from clawdet_cli.cli import run

    run()


if __name__ == "__main__":
    main()
