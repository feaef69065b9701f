"""The errors that a user or a search has to tell apart."""


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the setting and the way out."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file and what is wrong in it."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged or belongs to another configuration; the message names the file."""


class DivergedError(ArithmeticError):
    """Training produced NaN or infinity; the message names the term, the epoch and the step."""


class StoppedError(Exception):
    """Training was asked to stop and did, with its state saved; the message says how to go on."""
