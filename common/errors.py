"""The one exception that a user is meant to see: bad input, or a machine that cannot do what was asked."""


class UserError(Exception):
    """One line: the value that is wrong, what would be allowed, what to type next.  Scripts exit with 2."""
