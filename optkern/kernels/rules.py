"""The rule table, by the name that it had before `optkern.rules`."""

from ..rules import *  # noqa: F403
