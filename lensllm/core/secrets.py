"""Masks credentials in addresses, and the values of this process's tokens, in text."""

from __future__ import annotations

import os
import re

_IN_ADDRESS = re.compile(r"(?<=//)[^/\s'\"]+(?=@)")
_NAMES = re.compile(r"TOKEN$|PASSWORD$|PASSWD$|SECRET|API_KEY$|ACCESS_KEY$|AUTH_STRING$")
# Shorter values are words like "true" that a text may well hold for another reason.
_SHORTEST = 8
MASK = "***"


def mask(text: str) -> str:
    """``text`` without user and password of addresses, and without the environment's tokens."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _NAMES.search(name):
            text = text.replace(value, MASK)
    return _IN_ADDRESS.sub(MASK, text)


def has_password(text: str) -> bool:
    """True if an address in ``text`` contains a password."""
    return any(":" in found for found in _IN_ADDRESS.findall(text))
