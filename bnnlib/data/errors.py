"""The two ways a data set can fail: it is not there, or it is there and damaged."""

from __future__ import annotations


class DataNotFound(FileNotFoundError):
    """No copy of the set where we looked, and none could be downloaded. The message names the ways out."""


class DataError(ValueError):
    """The files are there but incomplete or damaged. The message names the file and what is wrong with it."""
