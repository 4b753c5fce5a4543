""":mod:`bnnlib.statistics` under the name by which chapters import it."""

from bnnlib.statistics import *  # noqa: F403
