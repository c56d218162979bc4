"""Ed25519 signatures of what a store says, for consumers that pin a key; needs the extra `signing`.

A signature covers the canonical bytes of a document (`strict_json.write_document`) without its own field. Keys are PEM
files: PKCS 8 without a password for the private one, one or more public ones in a file, so that a key can be replaced.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.config import ShopConfig
from indexer.errors import ConfigError

PATTERN = r"[A-Za-z0-9+/]{86}=="
"""64 bytes in base64."""
MAX_KEY_BYTES = 64 << 10
PUBLIC_END = b"-----END PUBLIC KEY-----"


@dataclass(frozen=True)
class PublicKey:
    """One or more keys, one of which must have signed."""

    path: str
    keys: tuple[Any, ...]

    def split(self) -> "tuple[PublicKey, ...]":
        """Return each key by itself."""
        return tuple(PublicKey(self.path, (key,)) for key in self.keys)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the keys."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        raw = (key.public_bytes(Encoding.Raw, PublicFormat.Raw) for key in self.keys)
        return hashlib.sha256(b"".join(raw)).hexdigest()

    def verifies(self, message: bytes, signature: str) -> bool:
        """Tell whether one of the keys made the signature of the message."""
        from cryptography.exceptions import InvalidSignature

        try:
            data = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError):
            return False
        # The last character has bits that nobody reads: of all spellings one counts.
        if base64.b64encode(data).decode() != signature:
            return False
        for key in self.keys:
            try:
                key.verify(data, message)
                return True
            except InvalidSignature:
                continue
        return False


@dataclass(frozen=True)
class SigningKey:
    """The key that signs, and how long what it signs shall be served."""

    path: str
    private: Any
    trusted: PublicKey
    """The keys whose entries count for this publisher, as for consumers: its own, and those that it replaces."""
    expires_days: int = 0
    """Days after which a consumer refuses a release that was signed; 0 means never."""

    def sign(self, message: bytes) -> str:
        """Return the signature of the message in base64."""
        return base64.b64encode(self.private.sign(message)).decode()


def open_signing_key(path: str, *, public_keys: str = "", expires_days: int = 0) -> SigningKey | None:
    """Read a private key, None for no path, and the file of keys to be trusted, by default its own public half.

    Raises ConfigError where a file holds none, never showing it, and where its own is not among those that are trusted.
    """
    if not path:
        return None
    data = _read_key(path)
    with _needed(path):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    try:
        key = load_pem_private_key(data, password=None)
    except Exception as error:
        raise ConfigError(
            f"signing key {path}: expected an Ed25519 key in PEM without a password ({type(error).__name__})"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"signing key {path}: expected an Ed25519 key, found another kind")
    own = key.public_key()
    trusted = open_public_key(public_keys or None) or PublicKey(path, (own,))
    if own not in trusted.keys:
        raise ConfigError(
            f"public key {public_keys}: expected the public half of the signing key {path} in it, found others; "
            "add it, consumers need it as well"
        )
    return SigningKey(path, key, trusted, expires_days)


def open_shop_key(shop: ShopConfig) -> SigningKey | None:
    """Read the keys that a shop is set to sign with; raises as `open_signing_key` does."""
    return open_signing_key(shop.signing_key, public_keys=shop.public_keys, expires_days=shop.expires_days)


def open_public_key(path: str | Path | None) -> PublicKey | None:
    """Read the public keys of a file, None for None; raises ConfigError where the file holds none, or has no name."""
    if path is None:
        return None
    if not str(path):
        raise ConfigError("public key: expected a PEM file, found an empty name; who pins no key names none")
    data = _read_key(str(path))
    with _needed(str(path)):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    keys = []
    for block in data.split(PUBLIC_END)[:-1]:
        try:
            key = load_pem_public_key(block + PUBLIC_END)
        except Exception as error:
            raise ConfigError(f"public key {path}: expected Ed25519 keys in PEM ({type(error).__name__})") from None
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"public key {path}: expected Ed25519 keys, found another kind")
        keys.append(key)
    if not keys:
        raise ConfigError(f"public key {path}: expected one or more keys in PEM, found none")
    return PublicKey(str(path), tuple(keys))


@contextmanager
def _needed(path: str) -> Iterator[None]:
    """Say which extra is missing where the package is."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"key {path}: signatures need the package {error.name}; run: pip install 'nightly-semantic-index[signing]'"
        ) from None


def _read_key(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"key {path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_KEY_BYTES:
        raise ConfigError(f"key {path}: larger than {MAX_KEY_BYTES} bytes, which is no key")
    return data
