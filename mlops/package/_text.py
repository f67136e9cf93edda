"""Messages of other libraries, made fit for a sentence of ours."""


def one_line(message: str) -> str:
    """The message on one line, of at most 300 characters."""
    return " ".join(message.split())[:300]
