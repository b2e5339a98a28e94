"""What Cloudflare does for a proxied record: TLS by name, a strict look at the origin, WebSockets, 52x."""
