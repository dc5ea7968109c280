"""The one exception for what a person can put right: bad parameters, files, models or machines."""


class InputError(Exception):
    """One line that names the file or key, the value, and what is allowed. The command line prints it and exits 2."""
