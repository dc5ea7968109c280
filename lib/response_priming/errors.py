"""The one exception for what a person can put right: bad parameters, files, models or machines."""


class InputError(Exception):
    """One line that names the file or key, the value, and what is allowed. The command line prints it and exits 2."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this: in a notebook, too, the line is all there is to read.
        return [f"{type(self).__name__}: {self}"]
