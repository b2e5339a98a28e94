"""The prepared bundle: Node, Caddy and OpenClaw in one archive, with a manifest of their digests."""
