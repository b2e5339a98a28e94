"""Servers that are real systemd machines with real cloud-init, and all that they stand on."""
