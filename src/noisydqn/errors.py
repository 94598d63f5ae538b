"""The one kind of error that is meant for the user."""


class UserError(Exception):
    """Something given by the user cannot be used.

    The message is one line: what is wrong, what was expected, what to do. The command line prints
    it and exits with code 2; anything else that is raised is a defect and shows its traceback.
    """


class MissingExtraError(UserError, ImportError):
    """An optional package is not installed; the message says how to install it."""
