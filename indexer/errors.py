"""Every error the project raises on purpose, with the exit code a command ends with.

IndexerError                    1   unexpected
  ConfigError                   2   command line or configuration
  ContractError                 3   input schema, empty input, too many rejects
  EncoderError                  3   a model file that cannot be used; of a release an IntegrityError
  GateError                     4   quality gate; the live release is untouched
  PublishConflictError          5   another run published first
  IntegrityError                6   hash, size, count or id mismatch
    ManifestError                   a manifest or log entry that breaks its format
  StoreError                   75   storage or network; worth a retry
    OutcomeUnknownError             a commit whose result could not be read back
    StoreRefusedError               no access, credentials or bucket; nothing was changed
    StoreUnsupportedError       2   the store does not know what was asked for
    ObjectMissingError              no object under this key
    ObjectExistsError               create-only write of an existing key

A message says what, where, expected, found and what to do, in at most three sentences. It never holds a secret.
"""

from indexer.redaction import redact


class IndexerError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message without secrets: what a library said of a failed request is part of many."""
        return redact(super().__str__())


class EncoderError(IndexerError):
    """A model or encoder file cannot be loaded or does not do what it says."""

    exit_code = 3


class ConfigError(IndexerError):
    """A wrong option, environment variable or configuration value."""

    exit_code = 2


class ContractError(IndexerError):
    """An input breaks its table's contract as a whole."""

    exit_code = 3


class GateError(IndexerError):
    """A quality gate refused; nothing was published."""

    exit_code = 4


class PublishConflictError(IndexerError):
    """Another run committed to the log first."""

    exit_code = 5


class IntegrityError(IndexerError):
    """Bytes, counts or ids are not what the manifest says."""

    exit_code = 6


class UntrustedError(IntegrityError):
    """No trusted key signed a log entry."""


class ManifestError(IntegrityError):
    """A manifest or log entry breaks its format."""


class StoreError(IndexerError):
    """Storage or network failed in a way that may pass."""

    exit_code = 75


class OutcomeUnknownError(StoreError):
    """A commit may or may not have landed; running the same run again settles it."""


class StoreRefusedError(StoreError):
    """The store refused and certainly changed nothing: no access, no credentials, no bucket."""


class StoreUnsupportedError(StoreError):
    """The store does not know what was asked for; another try is in vain."""

    exit_code = 2


class ObjectMissingError(StoreError):
    """No object lies under the key."""


class ObjectExistsError(StoreError):
    """A create-only write met an existing object."""
