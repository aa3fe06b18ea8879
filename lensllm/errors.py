"""Mistakes the user can mend: each message says what is wrong, where, and what to do.

The command line prints them as one sentence and exits with code 2; anything else is a bug and
keeps its traceback.
"""


class LensError(Exception):
    """Base of every error whose message is written for the user."""


class ConfigError(LensError):
    """pipelines.yaml or an override is wrong."""


class DataError(LensError):
    """A data file is missing, has no such column, or is too small for the sweep."""


class ModelError(LensError):
    """A candidate cannot be found, loaded or trained."""


class StoreError(LensError):
    """The artifacts folder cannot be written or read."""
