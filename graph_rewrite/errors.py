"""The one exception a user of the rewriter has to know."""


class RewriteError(ValueError):
    """The model, a file or an option cannot be used; the message is one sentence that says what to change."""
