"""An emulated Hetzner Cloud: the parts of its API that are used, with its rules, states and errors."""
