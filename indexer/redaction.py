"""Secrets in text: known by their value, by their form or by the name before them; what is printed or kept has none.

Every message of an IndexerError passes through `redact`, and so do the lines of all loggers and every traceback that
a command prints (`indexer/console.py`).
"""

import base64
import os
import re
from urllib.parse import quote

HIDDEN = "[hidden]"
SECRET_NAME = re.compile(
    r"(?<!SECRET_)(SECRET|TOKEN|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)(?!.*_(FILE|DIR|PATH)$)", re.I
)
"""What an environment variable is called whose value is never shown."""
SHORTEST = 8
"""Shorter values are words of everyday use, and hiding them everywhere would hide the message."""

ADDRESS_SECRETS = re.compile(
    r"\w://[^\s/@'\":]*:[^\s/@'\"]*@|s3a?://[^\s/@'\":]*:[^\s@'\"]*@|s3a?://[^\s/@'\"]*@"
    r"|[?&](X-Amz-[A-Za-z-]+|Signature|AWSAccessKeyId|sig)=",
    re.I,
)
"""An address that carries a user's name and password, or the parameters of a signed one.

A bucket has no port: what follows a colon there is a secret key, in which a slash is common.
"""
KEY_FORM = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{12,124}\b"
    # A kind, then parts of which one is no word: 16 letters and digits without a break.
    r"|(?<![A-Za-z0-9])sk-(?:proj|ant|svcacct|admin|or)-"
    r"(?=[A-Za-z0-9_-]{0,184}?(?=[A-Za-z]{0,199}[0-9])[A-Za-z0-9]{16})[A-Za-z0-9_-]{16,200}"
    r"|(?<![A-Za-z0-9])sk-(?=[A-Za-z]{0,199}[0-9])[A-Za-z0-9]{32,200}"
)
"""Key ids of AWS, and keys of language models, tell themselves by their first letters and their form."""

PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----|\Z)", re.S
)
"""A key itself, where the name of its file should be."""

_RULES = (
    (PRIVATE_KEY, HIDDEN),
    # user:password@ of an address
    (re.compile(r"(\w://)[^\s/@'\":]*:[^\s/@'\"]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(s3a?://)[^\s/@'\":]*:[^\s@'\"]+@", re.I), rf"\1{HIDDEN}@"),
    (re.compile(r"(s3a?://)[^\s/@'\"]+@", re.I), rf"\1{HIDDEN}@"),
    # parameters of a signed address, and parts of a signature in a header
    (
        re.compile(
            r"\b(X-Amz-(?:Signature|Credential|Security-Token)|Signature|Credential|AWSAccessKeyId|sig)"
            r"(=|%3D)[^&\s'\",;)]+",
            re.I,
        ),
        rf"\1\2{HIDDEN}",
    ),
    # headers, as they are and as Python prints a mapping of them
    (
        re.compile(r"((?:Proxy-)?Authorization|X-Amz-Security-Token)(['\"]?\s*[:=]\s*)b?(['\"]?)[^\r\n'\"]+", re.I),
        rf"\1\2\3{HIDDEN}",
    ),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9+/=._~-]{8,}", re.I), rf"\1 {HIDDEN}"),
    # name = value, as configuration files, JSON and XML have it
    (
        re.compile(
            r"((?:secret|session|security)[._-]?(?:access[._-]?)?(?:key|token)|access[._-]?key(?:[._-]?id)?|"
            r"(?:api|encryption|account|private)[._-]?key|"
            r"(?:access|refresh|bearer|metadata|web[._-]?identity|(?<![a-z])id)[._-]?token|"
            r"password|passwd)(\\?['\"]?\s*(?:[:=]|%3D|>|</name>\s*<value>)\s*)b?(\\?['\"]?)[^\s'\"<>,;&]{4,}",
            re.I,
        ),
        rf"\1\2\3{HIDDEN}",
    ),
    (KEY_FORM, HIDDEN),
)
_known: set[str] = set()


def hide_value(value: str) -> None:
    """Have a value hidden wherever it would be printed from now on: a key whose variable may have any name."""
    if len(value) >= SHORTEST:
        _known.add(value)


def has_credentials(text: str) -> bool:
    """Tell whether a setting or address carries an access key, a password, a signature or a private key."""
    return any(pattern.search(text) for pattern in (ADDRESS_SECRETS, KEY_FORM, PRIVATE_KEY))


def redact(text: str) -> str:
    """Return the text without secrets: values of the environment and of `hide_value`, and what looks like one."""
    # Without the line's end that a file of a secret has, and also as Python spells it.
    named = {value.strip() for name, value in os.environ.items() if SECRET_NAME.search(name)} | _known
    for value in sorted((value for value in named if len(value) >= SHORTEST), key=len, reverse=True):
        # As the system has it: a variable need not be UTF-8.
        data = os.fsencode(value)
        for form in (value, repr(value)[1:-1], quote(data, safe=""), quote(data), base64.b64encode(data).decode()):
            text = text.replace(form, HIDDEN)
    return hide_forms(text)


def hide_forms(text: str) -> str:
    """Return the text without what looks like a secret, whatever the environment has."""
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return text
