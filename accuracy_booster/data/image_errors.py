"""Why an image cannot be used. Nothing here needs torch."""


class UnreadableImage(ValueError):
    """An image cannot be decoded. The message is one line.

    torch raises the error of a loading process again with the traceback as its message; of that the
    last line is kept.
    """

    def __init__(self, message: str):
        super().__init__(message.strip().splitlines()[-1].split(f"{type(self).__name__}: ")[-1])


class TooManyPixels(ValueError):
    """An image has a shape that takes too much memory to resize."""
