"""An emulated Cloudflare account: zones, DNS records, Origin CA, settings, tokens."""
