"""The rights of a token at Cloudflare that clawdet asks for or looks for, as the dashboard calls them."""

ZONE_READ = "Zone Read"
DNS_EDIT = "DNS Edit"
SSL_EDIT = "SSL and Certificates Edit"
SETTINGS_READ = "Zone Settings Read"
SETTINGS_EDIT = "Zone Settings Edit"
TOKENS_READ = "API Tokens Read"
