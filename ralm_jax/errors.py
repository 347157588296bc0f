"""The one exception that is the user's to mend."""


class UserError(Exception):
    """A mistake in what the user gave: one line that says what, where and what to do.

    The command line prints the line and exits with code 2; nothing has been lost or half written.
    """
